"""Values a kernel closes over, as plain values for the wire and back: numbers, strings, tuples, NumPy scalars, arrays, dtypes, types.

Owns both directions and their limits. Plain Python values travel as they are; the rest as arrays that start with a word:
``["complex", real, imag]``, ``["tuple", [value, ...]]``, ``["scalar", type, bytes]``, ``["array", type, shape, order, bytes]``,
``["dtype", type]``, ``["type", type]``.
"""

from __future__ import annotations

import enum
import math
from typing import Any, TypeAlias

import numpy as np

from bitfusion.errors import KernelTypeError, RemoteProtocolError
from bitfusion.kernels.foreign import foreign_type, is_foreign
from bitfusion.kernels.signatures import decode, encode
from bitfusion.kernels.types import Record, Scalar, Type, from_dtype

Plain: TypeAlias = None | bool | int | float | str | bytes | tuple["Plain", ...]

ARRAY_SIZE_MAX = 64 * 1024
"""Bytes of a constant array: what a GPU has of constant memory (CUDA C++ Programming Guide, technical specifications)."""

DIMENSIONS_MAX = 8
"""Of a constant array. An empty one's other dimensions count too: NumPy multiplies them."""

TEXT_SIZE_MAX = 1024
"""Characters of a string constant: something to print."""

TUPLE_COUNT_MAX = 1024
"""Items of a constant tuple: Numba unrolls them."""

DEPTH_MAX = 8
"""Tuples in tuples."""


def encode_constant(value: object, depth: int = 0) -> Plain:
    """The constant as plain values. KernelTypeError, as the rest of a sentence, for what cannot travel."""
    match value:
        case enum.Enum() if isinstance(value, int):
            return encode_constant(value.value, depth)
        case None | bool():
            return value
        case str():
            return _encode_text(value)
        case np.generic() if value.dtype.kind != "V":
            return ("scalar", _tree(from_dtype(value.dtype)), value.tobytes())
        case int() if -(2**63) <= value < 2**64:
            return int(value)
        case float():
            return float(value)
        case complex():
            return ("complex", value.real, value.imag)
        case tuple() if len(value) <= TUPLE_COUNT_MAX and depth < DEPTH_MAX:
            return ("tuple", tuple(encode_constant(item, depth + 1) for item in value))
        case np.ndarray():
            return _encode_array(value)
        case np.dtype():
            return ("dtype", _tree(from_dtype(value)))
        case Type():
            return ("type", _tree(value))
        case int() | tuple():
            raise KernelTypeError(f"the {type(value).__qualname__} is too large to travel as a constant")
    if is_foreign(value):
        return ("type", _tree(foreign_type(value)))
    raise KernelTypeError(f"a {type(value).__qualname__} cannot travel as a constant")


def _tree(kind: Type) -> Plain:
    return encode(kind)  # type: ignore[return-value]  # a type's tree holds only what Plain allows


def _encode_text(value: str) -> str:
    if len(value) > TEXT_SIZE_MAX:
        raise KernelTypeError(
            f"a string of {len(value)} characters is too large for a constant ({TEXT_SIZE_MAX} at most)"
        )
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise KernelTypeError("a string that is no Unicode text cannot travel as a constant")
    return str(value)


def _encode_array(value: np.ndarray[Any, Any]) -> Plain:
    if value.nbytes > ARRAY_SIZE_MAX:
        raise KernelTypeError(
            f"an array of {value.nbytes} bytes is too large for a constant ({ARRAY_SIZE_MAX} at most); pass it as an argument"
        )
    order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
    return (
        "array",
        _tree(from_dtype(value.dtype)),
        value.shape,
        order,
        value.tobytes(order="F" if order == "F" else "C"),
    )


def decode_constant(value: object, depth: int = 0) -> object:
    """The constant a peer sent; types stay ``kernels.types`` objects. RemoteProtocolError, KernelTypeError."""
    match value:
        case None | bool() | float():
            return value
        case int() if -(2**63) <= value < 2**64:
            return value
        case str() if len(value) <= TEXT_SIZE_MAX:
            return value
        case ["complex", float(real), float(imag)]:
            return complex(real, imag)
        case ["tuple", [*items]] if len(items) <= TUPLE_COUNT_MAX and depth < DEPTH_MAX:
            return tuple(decode_constant(item, depth + 1) for item in items)
        case ["scalar", tree, bytes(data)]:
            return np.frombuffer(data, _dtype(tree, len(data), ()))[0]
        case ["array", tree, [*shape], ("C" | "F") as order, bytes(data)] if len(data) <= ARRAY_SIZE_MAX:
            return _decode_array(tree, shape, order, data)
        case ["dtype", tree]:
            return _dtype(tree, None, ())
        case ["type", tree]:
            return decode(tree)
    raise RemoteProtocolError("a kernel's constant is not one of the forms that can travel")


def _decode_array(tree: object, shape: list[object], order: Any, data: bytes) -> np.ndarray[Any, Any]:
    sizes = tuple(size for size in shape if type(size) is int and 0 <= size <= ARRAY_SIZE_MAX)
    if len(sizes) != len(shape) or len(sizes) > DIMENSIONS_MAX or math.prod(filter(None, sizes)) > ARRAY_SIZE_MAX:
        raise RemoteProtocolError("a constant array's shape is not a list of sizes")
    array = np.frombuffer(data, _dtype(tree, len(data), sizes)).reshape(sizes, order=order)
    array.flags.writeable = False
    return array


def _dtype(tree: object, size: int | None, shape: tuple[int, ...]) -> np.dtype[Any]:
    """The dtype of a constant's items; its bytes must fit exactly."""
    kind = decode(tree)
    if not isinstance(kind, Scalar | Record) or kind.dtype is None:
        raise RemoteProtocolError(f"a constant cannot be made of {kind}")
    if size is not None and math.prod(shape) * kind.dtype.itemsize != size:
        raise RemoteProtocolError("a constant's bytes do not fit its type and shape")
    return kind.dtype


def holds_text(value: object) -> bool:
    """Whether a decoded constant is, or holds, a string."""
    return isinstance(value, str) or (isinstance(value, tuple) and any(map(holds_text, value)))
