"""Strict msgpack: how metadata becomes bytes and back (docs/reference/wire.md section 3).

Owns the subset: nil, booleans, integers, floats, UTF-8 strings, byte strings, arrays and maps with string keys; no
extension types. Anything else, and any trailing byte, is refused.
"""

from __future__ import annotations

from typing import cast

import msgpack

from bitfusion.errors import RemoteProtocolError
from bitfusion.types import Buffer
from bitfusion.wire.operations import Field

_packer = msgpack.Packer(use_bin_type=True, strict_types=False)

COUNT_MAX = 1 << 16
"""Items of one array or map: a batch has at most 1024 operations, a captured source some thousand names."""


def pack(value: object) -> bytes:
    """The msgpack bytes of plain values."""
    return cast(bytes, _packer.pack(value))


def pack_array_header(count: int) -> bytes:
    """The bytes that open an array of ``count`` items, which follow already packed."""
    return cast(bytes, _packer.pack_array_header(count))


def unpack(data: Buffer, count_max: int = COUNT_MAX) -> Field:
    """The value in ``data``; arrays become tuples. RemoteProtocolError if it is not exactly one value of the subset.

    No array or map has more than ``count_max`` items: room for them is made when they are announced.
    """
    size = len(data)
    count_max = size if size < count_max else count_max
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            use_list=False,
            strict_map_key=True,
            ext_hook=_refuse_extension,
            max_str_len=size,
            max_bin_len=size,
            max_array_len=count_max,
            max_map_len=count_max,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException, RecursionError, OverflowError) as error:
        raise RemoteProtocolError(f"metadata is not strict msgpack: {error}") from None
    return cast(Field, value)


def _refuse_extension(code: int, data: bytes) -> Field:
    raise ValueError(f"extension type {code}")
