"""Formats what a kernel prints: C's conversions over the packed arguments of ``vprintf`` (CUDA C++ Programming Guide, Formatted Output).

Each conversion is the C library's own ``snprintf``, asked for one value at a time with a format that is built here, so that it is C to the
last digit and a kernel's text never is a format. Bytes in, bytes out.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from typing import Any, Final

_CONVERSION: Final = re.compile(
    rb"%(?:%|(?P<flags>[-+ #0]{0,5})(?P<width>\d{1,3}|\*)?(?:\.(?P<precision>\d{0,3}|\*))?"
    rb"(?P<length>hh|h|ll|l|j|z|t)?(?P<kind>[diouxXeEfFgGaAcsp]))"
)
"""``%n``, ``%ls`` and whatever else there is stays as it stands."""

ARGUMENTS_MAX: Final = 32
"""CUDA's: "printf() can accept at most 32 arguments in addition to the format string"."""

WIDTH_MAX: Final = 1024
"""A width or precision given by ``*`` beyond this is a mistake of the kernel's."""

_TEXT_SIZE_MAX: Final = 8 * 1024
"""Bytes of one converted value: a text or a width of some KiB; a float has 1400 at most."""

_WIDE: Final = (b"ll", b"l", b"j", b"z", b"t")
_WITHOUT_LENGTH: Final = (b"c", b"s", b"p")
"""With a length C means wide letters by them, or nothing."""

_snprintf = ctypes.CDLL(None).snprintf
_snprintf.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


class MissingArgumentError(Exception):
    """A conversion wants more than the kernel has packed."""


class _PackedArguments:
    """Takes values one after another, each aligned to its size."""

    def __init__(self, packed: bytes) -> None:
        self._packed = packed
        self._offset = 0
        self.count = 0

    def integer(self, size: int, *, signed: bool = True) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def take(self, size: int) -> bytes:
        """MissingArgumentError behind the end, and from the 33rd on."""
        start = -(-self._offset // size) * size
        if start + size > len(self._packed) or self.count == ARGUMENTS_MAX:
            raise MissingArgumentError
        self._offset = start + size
        self.count += 1
        return self._packed[start : start + size]


def format_printf(template: bytes, packed: bytes, text_at: Callable[[int], bytes]) -> tuple[bytes, int]:
    """``template`` with the ``packed`` arguments in it, and how many it took; ``text_at`` reads a string of the device.

    A conversion that is not known, or without an argument, stays as it stands.
    """
    arguments = _PackedArguments(packed)

    def convert(match: re.Match[bytes]) -> bytes:
        try:
            return _convert(match, arguments, text_at)
        except MissingArgumentError:
            return match[0]

    return _CONVERSION.sub(convert, template), arguments.count


def _convert(match: re.Match[bytes], arguments: _PackedArguments, text_at: Callable[[int], bytes]) -> bytes:
    kind, length = match["kind"], match["length"] or b""
    if kind is None:
        return b"%"
    if length and kind in _WITHOUT_LENGTH:
        return match[0]
    layout = b"%" + match["flags"] + _number(match["width"], arguments)
    if match["precision"] is not None:
        layout += _precision(match["precision"], arguments)
    if kind in b"eEfFgGaA":
        return _snprintf_one(layout + kind, ctypes.c_double.from_buffer_copy(arguments.take(8)))
    if kind == b"s":
        return _snprintf_one(layout + b"s", ctypes.c_char_p(text_at(arguments.integer(8, signed=False))))
    if kind == b"p":
        return _snprintf_one(layout + b"p", ctypes.c_void_p(arguments.integer(8, signed=False)))
    if length in _WIDE:
        return _snprintf_one(layout + b"ll" + kind, ctypes.c_longlong(arguments.integer(8)))
    return _snprintf_one(layout + length + kind, ctypes.c_int(arguments.integer(4)))


def _number(text: bytes | None, arguments: _PackedArguments) -> bytes:
    """A width; a negative one of ``*`` is the flag for the left."""
    if text != b"*":
        return text or b""
    return str(max(-WIDTH_MAX, min(arguments.integer(4), WIDTH_MAX))).encode()


def _precision(text: bytes, arguments: _PackedArguments) -> bytes:
    """A negative one of ``*`` is as none."""
    number = _number(text, arguments)
    return b"" if number.startswith(b"-") else b"." + number


def _snprintf_one(layout: bytes, value: Any) -> bytes:
    buffer = ctypes.create_string_buffer(_TEXT_SIZE_MAX)
    size: int = _snprintf(buffer, _TEXT_SIZE_MAX, layout, value)
    return buffer.raw[: max(0, min(size, _TEXT_SIZE_MAX - 1))]
