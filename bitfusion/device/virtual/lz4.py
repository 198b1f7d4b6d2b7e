"""Unpacks LZ4 blocks (LZ4 Block Format Description, github.com/lz4/lz4/doc). Knows no frames and packs nothing."""

from __future__ import annotations

from typing import Final

from bitfusion.errors import InvalidValueError

_MATCH_MIN: Final = 4


def decompress_lz4(data: bytes, size: int) -> bytes:
    """The contents of a block, which must be ``size`` bytes; never more are made. InvalidValueError for a damaged block."""
    result = bytearray()
    position = 0
    try:
        while True:
            token = data[position]
            literals, position = _length(data, position + 1, token >> 4)
            if position + literals > len(data) or len(result) + literals > size:
                raise _damaged()
            result += data[position : position + literals]
            position += literals
            if position == len(data):  # the last sequence has no match
                break
            distance = data[position] | data[position + 1] << 8
            length, position = _length(data, position + 2, token & 15)
            _copy_match(result, distance, length + _MATCH_MIN, size)
    except IndexError:
        raise _damaged() from None
    return bytes(result)


def _length(data: bytes, position: int, nibble: int) -> tuple[int, int]:
    """(a length that begins in a token's nibble, the position behind it)"""
    if nibble < 15:
        return nibble, position
    length = nibble
    while True:
        byte = data[position]
        position += 1
        length += byte
        if byte < 255:
            return length, position


def _copy_match(result: bytearray, distance: int, length: int, size: int) -> None:
    """Append ``length`` bytes that begin ``distance`` back; they may overlap with themselves."""
    if not 0 < distance <= len(result) or len(result) + length > size:
        raise _damaged()
    pattern = bytes(result[-distance:][:length])
    result += (pattern * -(-length // len(pattern)))[:length]


def _damaged() -> InvalidValueError:
    return InvalidValueError("the fatbin's PTX cannot be unpacked: the LZ4 block is damaged")
