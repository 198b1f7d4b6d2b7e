"""Formats what a kernel prints: C's conversions over the packed arguments of ``vprintf`` (CUDA C++ Programming Guide,
Formatted Output).
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Callable
from typing import Final

_CONVERSION: Final = re.compile(
    r"%(?P<flags>[-+ #0]{0,5})(?P<width>\d{1,3}|\*)?(?:\.(?P<precision>\d{1,3}|\*))?"
    r"(?P<length>hh|h|ll|l|j|z|t|L)?(?P<kind>[diouxXeEfFgGaAcsp%])"
)
WIDTH_MAX: Final = 1024
"""A width or precision given by ``*`` beyond this is a mistake of the kernel's."""


def format_printf(template: str, arguments: int, text_at: Callable[[int], str]) -> str:
    """``template`` with the arguments packed at an address; ``text_at`` reads a string of the device.

    Unknown conversions stay.
    """
    packed = _PackedArguments(arguments)
    return _CONVERSION.sub(lambda match: _convert(match, packed, text_at), template)


class _PackedArguments:
    """Reads values one after another, each aligned to its size."""

    def __init__(self, address: int) -> None:
        self._address = address
        self._offset = 0

    def integer(self, format_: str) -> int:
        return int(self._take(format_))

    def double(self) -> float:
        return self._take("<d")

    def _take(self, format_: str) -> float:
        size = struct.calcsize(format_)
        self._offset = -(-self._offset // size) * size
        data = ctypes.string_at(self._address + self._offset, size)
        self._offset += size
        value: float = struct.unpack(format_, data)[0]
        return value


def _convert(match: re.Match[str], packed: _PackedArguments, text_at: Callable[[int], str]) -> str:
    kind = match["kind"]
    if kind == "%":
        return "%"
    layout = "%" + match["flags"] + _number(match["width"], packed)
    if match["precision"] is not None:
        layout += "." + _number(match["precision"], packed)
    match kind:
        case "s":
            return (layout + "s") % text_at(packed.integer("<Q"))
        case "p":
            return f"{packed.integer('<Q'):#x}"
        case "c":
            return (layout + "c") % (packed.integer("<i") & 0xFF)
        case "a" | "A":
            return packed.double().hex()
        case "e" | "E" | "f" | "F" | "g" | "G":
            return (layout + kind) % packed.double()
    long = match["length"] in ("ll", "l", "j", "z", "t")
    if kind in "di":
        return (layout + "d") % packed.integer("<q" if long else "<i")
    return (layout + ("d" if kind == "u" else kind)) % packed.integer("<Q" if long else "<I")


def _number(text: str | None, packed: _PackedArguments) -> str:
    if text != "*":
        return text or ""
    return str(max(-WIDTH_MAX, min(packed.integer("<i"), WIDTH_MAX)))
