"""Plain data, as the store and the wire keep it, made into the pool's types again: the checks of its fields.

What is read may be of another release: a field that is not known is passed over, one that is missing has its default.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from bitfusion.errors import ConfigError

TEXT_SIZE_MAX = 1024
"""Characters of a text: a device's name or a user's has some dozen."""


def known(cls: type, value: object) -> dict[str, object]:
    """Those entries of ``value`` that are fields of the dataclass ``cls``; ConfigError if it is no map."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"a {cls.__name__} is written as a map, not as {value!r:.40}")
    return {field.name: value[field.name] for field in dataclasses.fields(cls) if field.name in value}


def required(fields: Mapping[str, object], name: str) -> object:
    """The field; ConfigError if it is missing."""
    if name not in fields:
        raise ConfigError(f"{name} is missing")
    return fields[name]


def text(fields: Mapping[str, object], name: str) -> str:
    """A string."""
    value = required(fields, name)
    if not isinstance(value, str) or len(value) > TEXT_SIZE_MAX:
        raise ConfigError(f"{name} must be a string of at most {TEXT_SIZE_MAX} characters, not {value!r:.40}")
    return value


def integer(fields: Mapping[str, object], name: str, low: int = 0, high: int = 2**63 - 1) -> int:
    """A whole number from ``low`` to ``high``: what SQLite and msgpack have room for."""
    value = required(fields, name)
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{name} must be a whole number, {low} to {high}, not {value!r:.40}")
    return value


def number(fields: Mapping[str, object], name: str) -> float:
    """A finite number, not negative: seconds."""
    value = required(fields, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"{name} must be a number, not negative, not {value!r:.40}")
    return float(value)


def boolean(fields: Mapping[str, object], name: str) -> bool:
    """True or false; SQLite's 0 and 1 as well."""
    value = required(fields, name)
    if value not in (0, 1) or not isinstance(value, int):
        raise ConfigError(f"{name} must be true or false, not {value!r:.40}")
    return bool(value)
