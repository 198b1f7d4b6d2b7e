"""Checks of the plain values that a peer put into a map: each gives the value in its type. RemoteProtocolError names the field."""

from __future__ import annotations

import math
from collections.abc import Mapping

from bitfusion.errors import RemoteProtocolError
from bitfusion.wire.operations import Field

TEXT_SIZE_MAX = 256
"""Characters of a name in the hello: it is shown to others."""


def a_map(value: Field, where: str) -> Mapping[str, Field]:
    """The map itself."""
    if not isinstance(value, dict):
        raise RemoteProtocolError(f"{where} must be a map")
    return value


def integer(fields: Mapping[str, Field], where: str, name: str, default: int = 0) -> int:
    """An integer of 64 bits."""
    value = fields.get(name, default)
    if type(value) is not int or not -(2**63) <= value < 2**64:
        raise RemoteProtocolError(f"{where}: {name} must be an integer")
    return value


def optional_integer(fields: Mapping[str, Field], where: str, name: str) -> int | None:
    """An integer of 64 bits, or nil."""
    return None if fields.get(name) is None else integer(fields, where, name)


def optional_number(fields: Mapping[str, Field], where: str, name: str) -> float | None:
    """A finite number, or nil."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RemoteProtocolError(f"{where}: {name} must be a number")
    return float(value)


def boolean(fields: Mapping[str, Field], where: str, name: str) -> bool:
    """True or false; false where it is missing."""
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise RemoteProtocolError(f"{where}: {name} must be true or false")
    return value


def text(fields: Mapping[str, Field], where: str, name: str, size_max: int = TEXT_SIZE_MAX) -> str:
    """A string; empty where it is missing."""
    value = fields.get(name, "")
    if not isinstance(value, str) or len(value) > size_max:
        raise RemoteProtocolError(f"{where}: {name} must be a string of at most {size_max} characters")
    return value


def optional_text(fields: Mapping[str, Field], where: str, name: str, size_max: int = TEXT_SIZE_MAX) -> str | None:
    """A string, or nil."""
    return None if fields.get(name) is None else text(fields, where, name, size_max)


def texts(fields: Mapping[str, Field], where: str, name: str, count_max: int, size_max: int) -> tuple[str, ...]:
    """An array of strings; empty where it is missing."""
    value = fields.get(name, ())
    if not isinstance(value, tuple) or len(value) > count_max:
        raise RemoteProtocolError(f"{where}: {name} must be an array of at most {count_max} strings")
    found = tuple(item for item in value if isinstance(item, str) and len(item) <= size_max)
    if len(found) != len(value):
        raise RemoteProtocolError(f"{where}: each of {name} must be a string of at most {size_max} characters")
    return found


def shown(fields: Mapping[str, Field], where: str, name: str) -> str:
    """A name that goes into logs and listings: what could forge a line of one, or move a terminal's cursor, becomes "?"."""
    return printable(text(fields, where, name))


def printable(value: str) -> str:
    """The text with "?" for what cannot be printed."""
    return "".join(letter if letter.isprintable() else "?" for letter in value)
