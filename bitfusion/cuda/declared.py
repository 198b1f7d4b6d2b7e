"""Types and signatures as programs write them: text, this package's types, NumPy's dtypes, and Numba's own type objects.

Numba's are read by their attributes, so Numba is not imported here; where the program has none of it they never come.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitfusion.errors import KernelTypeError
from bitfusion.kernels.signatures import parse_signature, parse_type
from bitfusion.kernels.types import SCALARS, Array, NestedArray, Record, Signature, Tuple, Type, from_dtype, none


def is_signature(value: object) -> bool:
    """Whether ``jit``'s argument is one signature: text, ``void(...)``, or a tuple of types."""
    return isinstance(value, str | tuple | Signature) or _is_foreign_signature(value)


def signature(value: object) -> Signature:
    """The signature of a kernel or device function; without a return type it is ``none``. KernelTypeError."""
    if isinstance(value, Signature):
        return value
    if isinstance(value, str):
        return parse_signature(value)
    if isinstance(value, tuple):
        return Signature(none, *map(as_type, value))
    if _is_foreign_signature(value):
        result, arguments = value.return_type, value.args  # type: ignore[attr-defined]
        return Signature(none if result is None else as_type(result), *map(as_type, arguments))
    raise KernelTypeError(f"{value!r} is not a signature; write for instance 'void(float32[:], int32)'")


def as_type(value: object) -> Type:
    """The type that ``value`` names. KernelTypeError."""
    if isinstance(value, Type):
        return value
    if isinstance(value, str):
        return parse_type(value)
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return from_dtype(value)
    if type(value).__module__.startswith("numba."):
        return _foreign_type(value)
    raise KernelTypeError(
        f"{value!r} is not a type; write for instance float32, float32[:, ::1] or their names as text"
    )


def _is_foreign_signature(value: object) -> bool:
    return type(value).__module__.startswith("numba.") and hasattr(value, "return_type") and hasattr(value, "args")


def _foreign_type(value: object) -> Type:
    """A type object of Numba: scalars by name, containers by their parts (numba.core.types, class names as of 0.68)."""
    word, text = type(value).__name__, str(value)
    if text in SCALARS:
        return SCALARS[text]
    if word == "Array":
        return Array(as_type(value.dtype), value.ndim, value.layout)  # type: ignore[attr-defined]
    if word in ("UniTuple", "Tuple") and isinstance(elements := getattr(value, "types", None), Sequence):
        return Tuple([as_type(element) for element in elements])
    if word == "Record":
        fields = value.fields.items()  # type: ignore[attr-defined]
        parts = tuple((name, as_type(field.type), field.offset) for name, field in fields)
        return Record(parts, value.size, value.aligned)  # type: ignore[attr-defined]
    if word == "NestedArray":
        return NestedArray(as_type(value.dtype), tuple(value.shape))  # type: ignore[attr-defined]
    raise KernelTypeError(
        f"a kernel cannot take Numba's {text}: it takes numbers, booleans, arrays, records and tuples"
    )
