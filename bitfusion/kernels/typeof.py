"""The type that a value has as a kernel argument, as Numba decides it."""

from __future__ import annotations

import enum

import numpy as np

from bitfusion.errors import KernelTypeError
from bitfusion.kernels.named import EnumMember, NamedTuple, enum_parts
from bitfusion.kernels.types import (
    Array,
    Tuple,
    Type,
    boolean,
    complex128,
    float64,
    from_dtype,
    int64,
    layout_of,
    none,
    uint64,
)


def typeof(value: object) -> Type:
    """The type Numba gives to ``value`` as a kernel argument.

    int -> int64 (uint64 from 2**63 on), float -> float64, complex -> complex128, tuples by element, enum members by their class, NumPy
    scalars and arrays by dtype, device arrays by what they say (see ``packing.Argument``). KernelTypeError for anything else.
    """
    argument = getattr(value, "__bitfusion_argument__", None)
    if argument is not None:
        found: Type = argument.type
        return found
    exact = _EXACT.get(type(value))
    if exact is not None:
        return exact
    return _typeof_other(value)


_EXACT: dict[type, Type] = {bool: boolean, float: float64, complex: complex128, type(None): none}


def _typeof_other(value: object) -> Type:
    match value:
        case enum.Enum() if not isinstance(value, enum.Flag):
            return EnumMember(*enum_parts(type(value)))
        case int():
            return _typeof_int(value)
        case np.generic():
            return from_dtype(value.dtype)
        case float():
            return float64
        case complex():
            return complex128
        case tuple() if hasattr(value, "_fields"):
            return NamedTuple(type(value).__name__, value._fields, [typeof(item) for item in value])
        case tuple():
            return Tuple([typeof(item) for item in value])
    dtype, shape, strides = (getattr(value, name, None) for name in ("dtype", "shape", "strides"))
    if isinstance(dtype, np.dtype) and isinstance(shape, tuple) and isinstance(strides, tuple):
        readonly = isinstance(value, np.ndarray) and not value.flags.writeable
        return Array(from_dtype(dtype), len(shape), layout_of(shape, strides, dtype.itemsize), readonly)
    raise KernelTypeError(
        f"a kernel cannot take an object of type {type(value).__qualname__}:"
        " pass numbers, booleans, arrays, records or tuples of them"
    )


def _typeof_int(value: int) -> Type:
    if -(2**63) <= value < 2**63:
        return int64
    if 0 <= value < 2**64:
        return uint64
    raise KernelTypeError(f"the integer {value} does not fit 64 bits")
