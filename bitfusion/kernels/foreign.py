"""Numba's own type objects as this package's types, where a program has them: in signatures, and as constants of kernels.

They are read by their attributes, so Numba is not imported here; where the program has none of it they never come.
"""

from __future__ import annotations

from typing import Any

from bitfusion.errors import KernelTypeError
from bitfusion.kernels.named import EnumMember, NamedTuple, enum_parts
from bitfusion.kernels.types import SCALARS, Array, Chars, CPointer, NestedArray, Record, Tuple, Type


def is_foreign(value: object) -> bool:
    """Whether this is an object of Numba's."""
    return type(value).__module__.startswith("numba.")


def foreign_type(value: Any) -> Type:
    """Our type for Numba's: scalars by name, containers by their parts (numba.core.types, class names as of 0.68). KernelTypeError."""
    text = str(value)
    if type(value).__name__ == "_Intrinsic":
        raise KernelTypeError(
            f"{text:.60} runs Python inside the compiler, which is the appliance's: write a @cuda.jit(device=True) function, or declare one"
            " of CUDA C++ or PTX with cuda.declare_device(name, signature, link=...)"
        )
    if text in SCALARS:
        return SCALARS[text]
    match type(value).__name__:
        case "Array":
            return Array(foreign_type(value.dtype), value.ndim, value.layout, not value.mutable)
        case "NamedUniTuple" | "NamedTuple":
            return NamedTuple(value.instance_class.__name__, value.fields, [foreign_type(item) for item in value.types])
        case "CPointer":
            return CPointer(foreign_type(value.dtype))
        case "RawPointer" if text == "void*":
            return CPointer(SCALARS["none"])
        case "CharSeq" | "UnicodeCharSeq" as word:
            return Chars("S" if word == "CharSeq" else "U", value.count)
        case "EnumMember" | "IntEnumMember":
            return EnumMember(*enum_parts(value.instance_class))
        case "UniTuple" | "Tuple":
            return Tuple([foreign_type(element) for element in value.types])
        case "Record":
            fields = tuple((name, foreign_type(field.type), field.offset) for name, field in value.fields.items())
            return Record(fields, value.size, value.aligned)
        case "NestedArray":
            return NestedArray(foreign_type(value.dtype), tuple(value.shape))
    raise KernelTypeError(
        f"kernels cannot use Numba's {text:.60}; the types they have are numbers, booleans, arrays, records and tuples"
    )
