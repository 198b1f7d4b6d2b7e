"""Types and signatures as programs write them: text, this package's types, NumPy's dtypes, and Numba's own type objects."""

from __future__ import annotations

import numpy as np

from bitfusion.errors import KernelTypeError
from bitfusion.kernels.foreign import foreign_type, is_foreign
from bitfusion.kernels.signatures import parse_signature, parse_type
from bitfusion.kernels.types import Signature, Type, from_dtype, none


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
        result, arguments = value.return_type, value.args  # type: ignore[attr-defined]  # what the line above has asked
        return Signature(none if result is None else as_type(result), *map(as_type, arguments))
    raise KernelTypeError(f"{value!r} is not a signature; write for instance 'void(float32[:], int32)'")


def as_type(value: object) -> Type:
    """The type that ``value`` names. KernelTypeError."""
    if isinstance(value, Type):
        return value
    if isinstance(value, str):
        parsed = parse_type(value)
        if isinstance(parsed, Type):
            return parsed
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return from_dtype(value)
    if is_foreign(value):
        return foreign_type(value)
    raise KernelTypeError(
        f"{value!r} is not a type; write for instance float32, float32[:, ::1] or their names as text"
    )


def _is_foreign_signature(value: object) -> bool:
    return is_foreign(value) and hasattr(value, "return_type") and hasattr(value, "args")
