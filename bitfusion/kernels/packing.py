"""Kernel arguments as bytes: Numba's CUDA calling convention, as it stands in the ``.param`` list of its PTX.

Owns the layout and the conversions of values; every launch passes here, so a ``Packer`` is prepared once per signature and an
array's part of the blob once per array. Source of the layout: numba-cuda ``_Kernel._prepare_args`` (dispatcher.py) and the
array's data model. Each parameter stands at its natural alignment (PTX ISA, Kernel Function Parameters):

=========  ==========================================================================================
array      meminfo u64 = 0, parent u64 = 0, item count i64, item size i64, address u64, shape, strides (bytes)
record     address u64
bool       u8
complex    two floats
tuple      each element as an argument of its own
none       u64 = 0 (an opaque pointer nobody reads)
=========  ==========================================================================================
"""

from __future__ import annotations

import enum
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bitfusion.errors import KernelTypeError
from bitfusion.kernels.named import EnumMember
from bitfusion.kernels.types import (
    DATES,
    SCALARS,
    Array,
    CPointer,
    Record,
    Scalar,
    Signature,
    Tuple,
    Type,
    from_dtype,
    layout_of,
)

FORMATS = {
    "bool": "?",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "float16": "e",
    "float32": "f",
    "float64": "d",
}
"""``struct`` codes of the scalar types that are one parameter; dates are 64-bit integers."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An array or record in device memory as a kernel argument: its type and its bytes, made once per array.

    A device array shows it as the attribute ``__bitfusion_argument__``. ``fortran``: the layout is Fortran's as well.
    """

    type: Type
    data: bytes
    fortran: bool = False

    def for_reading(self) -> Argument:
        """The same for a kernel that must not write to the array. A record has no such type, as in Numba."""
        kind = self.type
        return replace(self, type=Array(kind.dtype, kind.ndim, kind.layout, True)) if isinstance(kind, Array) else self


def array_argument(dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...], address: int) -> Argument:
    """An array's argument; ``strides`` in bytes. KernelTypeError if kernels cannot use the dtype."""
    itemsize = dtype.itemsize
    kind = Array(from_dtype(dtype), len(shape), layout_of(shape, strides, itemsize))
    data = struct.pack(f"<5Q{2 * len(shape)}q", 0, 0, math.prod(shape), itemsize, address, *shape, *strides)
    fortran = kind.layout != "A" and layout_of(shape[::-1], strides[::-1], itemsize) == "C"
    return Argument(kind, data, fortran)


def record_argument(dtype: np.dtype[Any], address: int) -> Argument:
    """A record's argument: kernels get its address."""
    return Argument(from_dtype(dtype), struct.pack("<Q", address))


class Packer:
    """Packs the arguments of one signature. ``size`` is the blob's length, ``parameters`` each parameter's (offset, size)."""

    __slots__ = ("_expected", "_pack", "_plain", "_steps", "args", "parameters", "size")

    def __init__(self, signature: Signature) -> None:
        self.args = signature.args
        self._expected = tuple(_accepted(kind) for kind in self.args)
        self._steps = tuple(_convert(kind) for kind in self.args)
        self._plain = not any(isinstance(kind, Tuple | EnumMember) or kind in _CONVERTED for kind in self.args)
        layout = "<"
        self.parameters: tuple[tuple[int, int], ...] = ()
        self.size = 0
        for code, size, alignment, parts in (item for kind in self.args for item in _codes(kind)):
            padding = -self.size % alignment
            layout += "x" * padding + code
            self.size += padding
            for part in parts:
                self.parameters += ((self.size, part),)
                self.size += part
            assert sum(parts) == size
        self._pack = struct.Struct(layout).pack

    def pack(self, values: Sequence[object]) -> bytes:
        """The blob for ``values``. KernelTypeError names the argument, what was expected and what was given."""
        fields: list[Any] = []
        try:
            for value, accepted in zip(values, self._expected, strict=True):
                if accepted is None:
                    fields.append(value)
                else:
                    argument = value.__bitfusion_argument__  # type: ignore[attr-defined]  # caught below
                    if argument.type not in accepted:
                        return self._pack_slowly(values)
                    fields.append(argument.data)
            if self._plain:
                return self._pack(*fields)
        except (AttributeError, ValueError, TypeError, OverflowError, struct.error):
            pass  # the slow way converts what can be converted and names what cannot
        return self._pack_slowly(values)

    def _pack_slowly(self, values: Sequence[object]) -> bytes:
        if len(values) != len(self.args):
            raise KernelTypeError(f"the kernel takes {len(self.args)} arguments, {len(values)} were given")
        fields: list[Any] = []
        for index, (value, kind, convert) in enumerate(zip(values, self.args, self._steps, strict=True)):
            try:
                fields.extend(convert(value))
            except _UnfitError as error:
                raise KernelTypeError(
                    f"argument {index + 1} must be {kind}, not {error}",
                    argument=index,
                    expected=str(kind),
                    given=str(error),
                ) from None
        return self._pack(*fields)


class _UnfitError(Exception):
    """A value that does not fit its parameter; the text says what was given."""


_CONVERTED = frozenset([*(SCALARS[name] for name in ("complex64", "complex128", "none", "bool")), *DATES.values()])
"""Scalar types that ``struct`` cannot take as they are: None is no number, complex is two, '?' takes any object, a date is no integer."""


def _accepted(kind: Type) -> frozenset[Type] | None:
    """The types of arrays that fit as they are: ``A`` takes any layout, ``readonly`` what can be written to as well.

    None for values that are packed directly.
    """
    match kind:
        case Array():
            layouts = "ACF" if kind.layout == "A" else kind.layout
            marks = {False, kind.readonly}
            return frozenset(Array(kind.dtype, kind.ndim, layout, mark) for layout in layouts for mark in marks)
        case Record():
            return frozenset({kind})
        case _:
            return None


def _codes(kind: Type) -> Iterator[tuple[str, int, int, tuple[int, ...]]]:
    """(struct code, size, alignment, sizes of the parameters) of each field of an argument."""
    match kind:
        case Array():
            count = 5 + 2 * kind.ndim
            yield f"{8 * count}s", 8 * count, 8, (8,) * count
        case Record():
            yield "8s", 8, 8, (8,)
        case Tuple():
            for element in kind.elements:
                yield from _codes(element)
        case Scalar(name="none"):
            yield "Q", 8, 8, (8,)
        case EnumMember():
            yield from _codes(kind.dtype)
        case CPointer():
            yield "Q", 8, 8, (8,)
        case Scalar(name="complex64" | "complex128", dtype=dtype) if dtype is not None:
            part = dtype.itemsize // 2
            code = "f" if part == 4 else "d"
            yield code, part, part, (part,)
            yield code, part, part, (part,)
        case Scalar(dtype=dtype) if dtype is not None:
            yield FORMATS.get(kind.name, "q"), dtype.itemsize, dtype.itemsize, (dtype.itemsize,)
        case _:
            raise KernelTypeError(f"a kernel cannot take {kind} as an argument")


def _convert(kind: Type) -> Callable[[Any], list[Any]]:
    """How a value becomes the fields of a parameter; the function raises _UnfitError."""
    match kind:
        case Array() | Record():
            return lambda value: [_argument_data(kind, value)]
        case Tuple():
            steps = tuple(map(_convert, kind.elements))
            return lambda value: _tuple_fields(steps, value)
        case Scalar(name="none"):
            return _nothing
        case CPointer():
            return lambda value: _to_int(np.dtype(np.uint64), _scalar(value))
        case EnumMember():
            step = _convert(kind.dtype)
            return lambda value: step(value.value if isinstance(value, enum.Enum) else value)
        case Scalar(dtype=dtype) if dtype is not None:
            if dtype.kind in "mM":
                return lambda value: _to_date(dtype, value)
            convert = {"b": _to_bool, "i": _to_int, "u": _to_int, "f": _to_float, "c": _to_complex}[dtype.kind]
            return lambda value: convert(dtype, _scalar(value))
        case _:
            raise KernelTypeError(f"a kernel cannot take {kind} as an argument")


def _describe(value: object) -> str:
    argument = getattr(value, "__bitfusion_argument__", None)
    if isinstance(argument, Argument):
        return str(argument.type)
    if isinstance(value, np.ndarray):
        return f"a host array of {value.dtype} {value.shape}"
    return f"{value!r:.60} ({type(value).__name__})"


def _argument_data(kind: Array | Record, value: object) -> bytes:
    argument = getattr(value, "__bitfusion_argument__", None)
    if not isinstance(argument, Argument):
        raise _UnfitError(_describe(value))
    given = argument.type
    if given is kind or (isinstance(given, Array) and isinstance(kind, Array) and _fits(argument, given, kind)):
        return argument.data
    lost = isinstance(given, Array) and isinstance(kind, Array) and given.readonly > kind.readonly
    raise _UnfitError(_describe(value) + "; pass a copy of it" * lost)


def _fits(argument: Argument, given: Array, wanted: Array) -> bool:
    if given.dtype is not wanted.dtype or given.ndim != wanted.ndim or given.readonly > wanted.readonly:
        return False
    return wanted.layout in ("A", given.layout) or (wanted.layout == "F" and argument.fortran)


def _tuple_fields(steps: tuple[Callable[[Any], list[Any]], ...], value: object) -> list[Any]:
    if not isinstance(value, tuple) or len(value) != len(steps):
        raise _UnfitError(_describe(value))
    return [field for step, item in zip(steps, value, strict=True) for field in step(item)]


def _nothing(value: object) -> list[Any]:
    if value is not None:
        raise _UnfitError(_describe(value))
    return [0]


def _scalar(value: object) -> Any:
    """A number as Python's own; enum members and 0-d host arrays count as their value."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    return value


def _to_date(dtype: np.dtype[Any], value: Any) -> list[Any]:
    if not isinstance(value, np.datetime64 | np.timedelta64) or value.dtype != dtype:
        raise _UnfitError(_describe(value))
    return [int(value.view(np.int64))]


def _to_bool(dtype: np.dtype[Any], value: Any) -> list[Any]:
    if not isinstance(value, int | float):
        raise _UnfitError(_describe(value))
    return [bool(value)]


def _to_int(dtype: np.dtype[Any], value: Any) -> list[Any]:
    limits = np.iinfo(dtype)
    if isinstance(value, int) and limits.min <= value <= limits.max:
        return [value]
    if not isinstance(value, int) or not -(1 << limits.bits - 1) <= value < 1 << limits.bits:
        raise _UnfitError(_describe(value))
    value &= (1 << limits.bits) - 1  # the same bits with the other sign, as in Numba and C
    return [value if limits.min == 0 else value - (1 << limits.bits) * (value >> limits.bits - 1)]


def _to_float(dtype: np.dtype[Any], value: Any) -> list[Any]:
    if not isinstance(value, int | float):
        raise _UnfitError(_describe(value))
    with np.errstate(over="ignore"):  # beyond the range is infinity, as in Numba
        return [float(dtype.type(value))]


def _to_complex(dtype: np.dtype[Any], value: Any) -> list[Any]:
    if not isinstance(value, int | float | complex):
        raise _UnfitError(_describe(value))
    with np.errstate(over="ignore"):
        converted = dtype.type(value)
    return [float(converted.real), float(converted.imag)]
