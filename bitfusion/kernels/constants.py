"""Values a kernel closes over, as plain values for the wire and back: numbers, strings, tuples, NumPy scalars, arrays, dtypes, types.

Owns both directions and their limits. Plain Python values travel as they are; the rest as arrays that start with a word:
``["bytes", bytes]``, ``["complex", real, imag]``, ``["tuple", [value, ...]]``, ``["scalar", type, bytes]``,
``["array", type, shape, order, bytes]``,
``["dtype", type]``, ``["type", type]``, ``["fields", name, [field, ...]]`` and ``["named", fields, tuple]`` for named tuples,
``["enum", name, integer, [[member, value], ...]]`` and ``["member", enum, name]``, ``["device", type, address, shape, strides]``.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from bitfusion.errors import KernelTypeError, RemoteProtocolError
from bitfusion.kernels.foreign import foreign_type, is_foreign
from bitfusion.kernels.named import enum_class, enum_parts, tuple_class
from bitfusion.kernels.signatures import decode, encode
from bitfusion.kernels.types import Chars, Record, Scalar, Type, from_dtype

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


@dataclass(frozen=True, slots=True)
class DeviceConstant:
    """An array in device memory that a kernel closes over: it is where it is; ``strides`` in bytes.

    KernelTypeError for one whose items are no numbers.
    """

    type: Type
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.type, Scalar) or not _is_number(self.type) or len(self.shape) != len(self.strides):
            raise KernelTypeError(
                f"a kernel cannot close over an array of {self.type} in device memory; pass it as an argument"
            )


def _is_number(kind: Scalar) -> bool:
    return kind.dtype is not None and kind.dtype.kind in "iufc"


def encode_constant(value: object, depth: int = 0) -> Plain:
    """The constant as plain values. KernelTypeError, as the rest of a sentence, for what cannot travel."""
    match value:
        case enum.Enum() if isinstance(value, int) and not isinstance(value, enum.IntEnum):
            return encode_constant(value.value, depth)
        case enum.Enum():
            return ("member", encode_constant(type(value), depth), value.name)
        case None | bool():
            return value
        case str():
            return _encode_text(value)
        case bytes() if not isinstance(value, np.generic) and len(value) <= TEXT_SIZE_MAX:
            return ("bytes", bytes(value))
        case np.generic() if value.dtype.kind != "V":
            return ("scalar", _tree(from_dtype(value.dtype)), value.tobytes())
        case int() if -(2**63) <= value < 2**64:
            return int(value)
        case float():
            return float(value)
        case complex():
            return ("complex", value.real, value.imag)
        case tuple() if hasattr(value, "_fields"):
            return ("named", encode_constant(type(value), depth), encode_constant(tuple(value), depth))
        case tuple() if len(value) <= TUPLE_COUNT_MAX and depth < DEPTH_MAX:
            return ("tuple", tuple(encode_constant(item, depth + 1) for item in value))
        case np.ndarray():
            return _encode_array(value)
        case np.dtype():
            return ("dtype", _tree(from_dtype(value)))
        case Type():
            return ("type", _tree(value))
        case enum.EnumMeta():
            name, integer, members = enum_parts(value)
            if not all(_is_numbers(item) for _, item in members):
                raise KernelTypeError(f"the enum {name} has values that are no numbers, so it cannot travel")
            return ("enum", name, integer, tuple((word, encode_constant(item, depth + 1)) for word, item in members))
        case type() if issubclass(value, tuple) and hasattr(value, "_fields"):
            return ("fields", value.__name__, tuple(value._fields))
        case int() | tuple():
            raise KernelTypeError(f"the {type(value).__qualname__} is too large to travel as a constant")
    if isinstance(value, DeviceConstant):
        return ("device", _tree(value.type), value.address, value.shape, value.strides)
    if is_foreign(value):
        return ("type", _tree(foreign_type(value)))
    raise KernelTypeError(f"an object of type {type(value).__qualname__} cannot travel as a constant")


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
        case ["bytes", bytes(data)] if len(data) <= TEXT_SIZE_MAX:
            return data
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
        case ["fields", str(name), [*fields]]:
            return tuple_class(name, tuple(map(_text, fields)))
        case ["named", ["fields", *_] as kind, ["tuple", [*_]] as items]:
            return _named(decode_constant(kind, depth), decode_constant(items, depth))
        case ["enum", str(name), bool(integer), [*members]]:
            return enum_class(name, integer, tuple(_enum_member(member, depth + 1) for member in members))
        case ["member", ["enum", *_] as kind, str(name)]:
            return _member_of(decode_constant(kind, depth), name)
        case ["device", tree, int(address), [*shape], [*strides]] if 0 <= address < 2**64:
            return DeviceConstant(decode(tree), address, _sizes(shape, 0), _sizes(strides, -(2**63)))
        case ["type", tree]:
            return decode(tree)
    raise RemoteProtocolError("a kernel's constant is not one of the forms that can travel")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise RemoteProtocolError("a field of a named tuple must be named by a string")
    return value


def _named(made: Any, items: Any) -> object:
    try:
        return made(*items)
    except TypeError:
        raise RemoteProtocolError("a named tuple's values do not fit its fields") from None


def _enum_member(tree: object, depth: int) -> tuple[str, object]:
    match tree:
        case [str(name), value]:
            found = decode_constant(value, depth)
            if _is_numbers(found):
                return name, found
    raise RemoteProtocolError("a member of an enum must be [name, number or tuple of numbers]")


def _is_numbers(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_numbers, value))
    return isinstance(value, int | float | complex) and not isinstance(value, enum.Enum)


def _member_of(made: Any, name: str) -> object:
    try:
        return made[name]
    except KeyError:
        raise RemoteProtocolError("an enum does not have the member that a constant is") from None


def _sizes(values: list[object], low: int) -> tuple[int, ...]:
    """Extents or strides of an array in device memory: it may be as large as that is."""
    found = tuple(value for value in values if type(value) is int and low <= value < 2**63)
    if len(found) != len(values) or len(found) > DIMENSIONS_MAX:
        raise RemoteProtocolError("an array in device memory must have up to 8 extents and strides of 64 bits")
    return found


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
    if not isinstance(kind, Scalar | Chars | Record) or kind.dtype is None:
        raise RemoteProtocolError(f"a constant cannot be made of {kind}")
    if size is not None and math.prod(shape) * kind.dtype.itemsize != size:
        raise RemoteProtocolError("a constant's bytes do not fit its type and shape")
    return kind.dtype


def holds_text(value: object) -> bool:
    """Whether a decoded constant is, or holds, a string."""
    if isinstance(value, np.ndarray | np.generic):
        return _has_text(value.dtype)
    return isinstance(value, str | bytes) or (isinstance(value, tuple) and any(map(holds_text, value)))


def _has_text(dtype: np.dtype[Any]) -> bool:
    if dtype.subdtype is not None:
        return _has_text(dtype.base)
    return dtype.kind in "SU" or any(_has_text(field[0]) for field in (dtype.fields or {}).values())
