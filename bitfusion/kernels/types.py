"""The types of kernel arguments: objects named and used as Numba's, without Numba.

Owns the type objects (``float32``, ``float32[:, ::1]``, records, tuples, ``void(...)``) and their NumPy counterparts. Does not own named
tuples and enums (``named``), text and wire forms (``signatures``), the types of values (``typeof``) or the argument bytes (``packing``).

Types are interned: two equal types are one object, so a comparison is ``is`` and costs nothing at a launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np

from bitfusion.errors import KernelTypeError

DIMENSION_COUNT_MAX = 32
"""NumPy's NPY_MAXDIMS before 2.0; kernels use three or four."""

NAME_SIZE_MAX = 128
"""Characters of a record's field name."""

CHARS_COUNT_MAX = 1 << 16
"""Characters of a string in an array; more is no string that a kernel looks at."""

DATE_UNITS = ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as")
"""NumPy's units of dates and times (NumPy reference, Datetimes and Timedeltas)."""


class Interned:
    """What is one object for one key. ``name`` is Numba's spelling."""

    __slots__ = ("key", "name")
    _interned: ClassVar[dict[tuple[object, ...], Interned]] = {}

    name: str
    key: tuple[object, ...]

    @classmethod
    def _make(cls, name: str, *key: object) -> tuple[Self, bool]:
        """The one object for ``key``, and whether it is new and has yet to be filled."""
        full = (cls, *key)
        known = Interned._interned.get(full)
        if isinstance(known, cls):
            return known, False
        made = object.__new__(cls)
        made.name, made.key = name, key
        Interned._interned[full] = made
        return made, True

    def __repr__(self) -> str:
        return self.name

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self


class Type(Interned):
    """A type of a kernel argument."""

    __slots__ = ()

    def __getitem__(self, index: object) -> Array:
        """``float32[:]`` (any layout), ``float32[::1]`` and ``float32[:, ::1]`` (C), ``float32[::1, :]`` (Fortran)."""
        slices = index if isinstance(index, tuple) else (index,)
        if not all(isinstance(item, slice) and (item.start, item.stop) == (None, None) for item in slices) or not all(
            item.step in (None, 1) for item in slices
        ):
            raise KernelTypeError(f"{self}[...] takes ':' and '::1' only, for instance {self}[:, ::1]")
        steps = [item.step for item in slices]
        if steps.count(1) > 1:
            raise KernelTypeError(f"{self}[...] can have one '::1' only: the last for C, the first for Fortran layout")
        layout = "C" if steps[-1] == 1 else "F" if steps[0] == 1 else "A"
        if 1 in steps[1:-1]:
            raise KernelTypeError(f"{self}[...] can have '::1' first (Fortran) or last (C) only")
        return Array(self, len(slices), layout)


class Scalar(Type):
    """A number, a boolean, or ``none``. Called with types it makes a signature, called with a value it converts it."""

    __slots__ = ("dtype",)

    dtype: np.dtype[Any] | None
    """The NumPy dtype; None for ``none``."""

    def __new__(cls, name: str, dtype: str | None) -> Self:
        self, fresh = cls._make(name, name)
        if fresh:
            self.dtype = None if dtype is None else np.dtype(dtype)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Scalar, (self.name, None if self.dtype is None else self.dtype.str)

    @property
    def underlying_float(self) -> Scalar:
        """Of a complex type: that of its parts."""
        if self.name not in ("complex64", "complex128"):
            raise AttributeError(f"{self} has no parts")
        return float32 if self.name == "complex64" else float64

    def __call__(self, *arguments: object) -> Any:
        """``void(float32[:], int32)`` is a signature; ``float32(1)`` is NumPy's scalar, as in Numba."""
        if all(isinstance(argument, Type) for argument in arguments):
            return Signature(self, *arguments)  # type: ignore[arg-type]  # all() has looked
        if len(arguments) == 1 and self.dtype is not None:
            return self.dtype.type(arguments[0])
        raise KernelTypeError(f"{self} takes types (a signature) or one value (a conversion)")


class Array(Type):
    """An array: ``dtype`` (Scalar, Chars or Record), ``ndim``, ``layout`` ``C``, ``F`` or ``A`` (any strides).

    A kernel cannot be compiled that writes to one that is ``readonly``.
    """

    __slots__ = ("dtype", "layout", "ndim", "readonly")

    dtype: Scalar | Chars | Record
    ndim: int
    layout: str
    readonly: bool

    def __new__(cls, dtype: Type, ndim: int, layout: str, readonly: bool = False) -> Self:
        if not isinstance(dtype, Scalar | Chars | Record) or dtype is none:
            raise KernelTypeError(f"an array cannot hold {dtype}; it holds numbers, booleans or records")
        if not 0 <= ndim <= DIMENSION_COUNT_MAX or layout not in ("C", "F", "A"):
            raise KernelTypeError(f"an array of {ndim} dimensions and layout {layout!r} cannot be")
        word = "readonly array" if readonly else "array"
        self, fresh = cls._make(f"{word}({dtype}, {ndim}d, {layout})", dtype, ndim, layout, readonly)
        if fresh:
            self.dtype, self.ndim, self.layout, self.readonly = dtype, ndim, layout, readonly
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Array, (self.dtype, self.ndim, self.layout, self.readonly)


class Chars(Type):
    """A string of fixed length as arrays and records hold it: ``kind`` ``S`` (bytes) or ``U`` (Unicode), ``count`` characters."""

    __slots__ = ("count", "dtype", "kind")

    kind: str
    count: int
    dtype: np.dtype[Any]

    def __new__(cls, kind: str, count: int) -> Self:
        if kind not in ("S", "U") or not 0 < count <= CHARS_COUNT_MAX:
            raise KernelTypeError(f"a string of {count} characters cannot be in an array of a kernel")
        self, fresh = cls._make(f"[{'char' if kind == 'S' else 'unichr'} x {count}]", kind, count)
        if fresh:
            self.kind, self.count, self.dtype = kind, count, np.dtype(f"{kind}{count}")
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Chars, (self.kind, self.count)


class NestedArray(Type):
    """An array inside a record: a fixed shape, stored in place in C order."""

    __slots__ = ("dtype", "shape")

    dtype: Scalar | Chars | Record
    shape: tuple[int, ...]

    def __new__(cls, dtype: Type, shape: tuple[int, ...]) -> Self:
        if not isinstance(dtype, Scalar | Chars | Record) or dtype is none:
            raise KernelTypeError(f"an array inside a record cannot hold {dtype}")
        if not 1 <= len(shape) <= DIMENSION_COUNT_MAX or not all(0 < size < 2**31 for size in shape):
            raise KernelTypeError(f"an array inside a record cannot have the shape {shape}")
        self, fresh = cls._make(f"nestedarray({dtype}, {shape})", dtype, shape)
        if fresh:
            self.dtype, self.shape = dtype, shape
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return NestedArray, (self.dtype, self.shape)


class Record(Type):
    """A structured dtype: fields ``(name, type, offset)``, its ``size`` in bytes and whether it is C-``aligned``."""

    __slots__ = ("aligned", "dtype", "fields", "size")

    fields: tuple[tuple[str, Type, int], ...]
    size: int
    aligned: bool
    dtype: np.dtype[Any]

    def __new__(cls, fields: tuple[tuple[str, Type, int], ...], size: int, aligned: bool) -> Self:
        for name, _, _ in fields:
            check_field_name(name)
        inner = "; ".join(f"{name}: {kind} @{offset}" for name, kind, offset in fields)
        self, fresh = cls._make(f"record({inner}, {size} bytes)", fields, size, aligned)
        if fresh:
            self.fields, self.size, self.aligned = fields, size, aligned
            try:
                self.dtype = _record_dtype(fields, size, aligned)
            except (ValueError, TypeError, OverflowError) as error:
                del Interned._interned[(cls, fields, size, aligned)]
                raise KernelTypeError(f"{inner} is not a record: {error}") from None
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Record, (self.fields, self.size, self.aligned)


class CPointer(Type):
    """A pointer to items of ``dtype`` (``none``: to anything): as an argument its address, an integer."""

    __slots__ = ("dtype",)

    dtype: Type

    def __new__(cls, dtype: Type) -> Self:
        if not isinstance(dtype, Type):
            raise KernelTypeError(f"a pointer is one to a type, not to {dtype!r:.60}")
        self, fresh = cls._make("void*" if dtype is none else f"{dtype}*", dtype)
        if fresh:
            self.dtype = dtype
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return CPointer, (self.dtype,)


class Tuple(Type):
    """A tuple of arguments; each element is passed as an argument of its own."""

    __slots__ = ("elements",)

    elements: tuple[Type, ...]

    def __new__(cls, elements: Sequence[Type]) -> Self:
        if not all(isinstance(element, Type) for element in elements):
            raise KernelTypeError(f"Tuple takes a sequence of types, not {elements!r}")
        self, fresh = cls._make(f"Tuple({', '.join(map(str, elements))})", *elements)
        if fresh:
            self.elements = tuple(elements)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Tuple, (self.elements,)


def UniTuple(dtype: Type, count: int) -> Tuple:  # noqa: N802  # Numba's name
    """A tuple of ``count`` elements of one type."""
    return Tuple((dtype,) * count)


class Signature(Interned):
    """What a kernel takes (``args``) and returns (``return_type``; ``none`` for a kernel)."""

    __slots__ = ("args", "return_type")

    return_type: Type
    args: tuple[Type, ...]

    def __new__(cls, return_type: Type, *args: Type) -> Self:
        if not all(isinstance(item, Type) for item in (return_type, *args)):
            raise KernelTypeError(f"a signature is made of types, not of {(return_type, *args)!r:.80}")
        self, fresh = cls._make(f"{return_type}({', '.join(map(str, args))})", return_type, *args)
        if fresh:
            self.return_type, self.args = return_type, args
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Signature, (self.return_type, *self.args)


boolean = bool_ = b1 = Scalar("bool", "?")
int8 = i1 = char = Scalar("int8", "i1")
int16 = i2 = short = Scalar("int16", "i2")
int32 = i4 = intc = Scalar("int32", "i4")
int64 = i8 = intp = int_ = long_ = longlong = ssize_t = Scalar("int64", "i8")
uint8 = u1 = byte = uchar = Scalar("uint8", "u1")
uint16 = u2 = ushort = Scalar("uint16", "u2")
uint32 = u4 = uintc = Scalar("uint32", "u4")
uint64 = u8 = uintp = uint = ulong = ulonglong = size_t = Scalar("uint64", "u8")
float16 = f2 = Scalar("float16", "f2")
float32 = f4 = float_ = Scalar("float32", "f4")
float64 = f8 = double = Scalar("float64", "f8")
complex64 = c8 = Scalar("complex64", "c8")
complex128 = c16 = Scalar("complex128", "c16")
none = void = Scalar("none", None)

signed_domain = frozenset([int8, int16, int32, int64])
unsigned_domain = frozenset([uint8, uint16, uint32, uint64])
integer_domain = signed_domain | unsigned_domain
real_domain = frozenset([float32, float64])
complex_domain = frozenset([complex64, complex128])
number_domain = real_domain | integer_domain | complex_domain
"""Numba's sets of types."""

voidptr = CPointer(none)

NAMES: dict[str, Scalar] = {name: value for name, value in globals().items() if isinstance(value, Scalar)}
"""Every name of a scalar type, aliases too."""

DATES: dict[str, Scalar] = {
    f"{word}64[{unit}]": Scalar(f"{word}64[{unit}]", f"{code}8[{unit}]")
    for word, code in (("datetime", "M"), ("timedelta", "m"))
    for unit in DATE_UNITS
}
"""Dates and times by their names, which no kernel can write."""

SCALARS: dict[str, Scalar] = {**{value.name: value for value in NAMES.values()}, **DATES}
"""The scalar types by their own names."""

_BY_DTYPE: dict[np.dtype[Any], Scalar] = {value.dtype: value for value in SCALARS.values() if value.dtype is not None}


def from_dtype(dtype: object) -> Scalar | Chars | Record | NestedArray:
    """The type of a NumPy dtype; KernelTypeError for one kernels cannot use (objects, other byte order)."""
    resolved = np.dtype(dtype)  # type: ignore[call-overload]  # NumPy says what it is not
    if (scalar := _BY_DTYPE.get(resolved)) is not None and resolved.isnative:
        return scalar
    if resolved.subdtype is not None:
        base, shape = resolved.subdtype
        return NestedArray(from_dtype(base), shape)
    if resolved.fields is not None and resolved.names:
        places = [(name, *resolved.fields[name][:2]) for name in resolved.names]
        fields = tuple((name, from_dtype(field), int(offset)) for name, field, offset in places)
        return Record(fields, resolved.itemsize, resolved.isalignedstruct)
    if resolved.kind in "SU" and resolved.isnative and resolved.itemsize:
        return Chars(resolved.kind, resolved.itemsize // (1 if resolved.kind == "S" else 4))
    raise KernelTypeError(
        f"a kernel cannot use the dtype {resolved}; it takes numbers, booleans, dates, strings of fixed length and records of them"
    )


def check_field_name(name: str) -> None:
    """KernelTypeError unless a record's field name is a plain identifier.

    Numba writes the type's text into source that it executes (numba.cuda.core.ir_utils.convert_code_obj_to_function), so a
    field name with quotes, brackets or line ends in it would be code.
    """
    if not name.isidentifier() or name.startswith("__") or len(name) > NAME_SIZE_MAX:
        raise KernelTypeError(f"a record's field must be named by a plain identifier, not {name[:40]!r}")


def _record_dtype(fields: tuple[tuple[str, Type, int], ...], size: int, aligned: bool) -> np.dtype[Any]:
    return np.dtype(
        {
            "names": [name for name, _, _ in fields],
            "formats": [_field_dtype(kind) for _, kind, _ in fields],
            "offsets": [offset for _, _, offset in fields],
            "itemsize": size,
        },
        align=aligned,
    )


def _field_dtype(kind: Type) -> np.dtype[Any]:
    match kind:
        case NestedArray():
            return np.dtype((kind.dtype.dtype, kind.shape))
        case Record() | Chars():
            return kind.dtype
        case Scalar() if kind.dtype is not None:
            return kind.dtype
        case _:
            raise KernelTypeError(f"a record cannot hold {kind}")


def layout_of(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> str:
    """``C``, ``F`` or ``A`` for strides in bytes.

    NumPy's rule: dimensions of one element do not count, an empty array is both (and so ``C``).
    """
    if 0 in shape or _contiguous(zip(reversed(shape), reversed(strides), strict=True), itemsize):
        return "C"
    return "F" if _contiguous(zip(shape, strides, strict=True), itemsize) else "A"


def _contiguous(dimensions: Any, expected: int) -> bool:
    for size, stride in dimensions:
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
