"""Our types as Numba's, and constants as Numba may see them."""

from __future__ import annotations

from typing import Any

from numba.cuda import types as numba_types
from numba.cuda.np.numpy_support import from_dtype as numba_from_dtype

from bitfusion.errors import KernelTypeError
from bitfusion.kernels.constants import DeviceConstant
from bitfusion.kernels.named import EnumMember, NamedTuple, enum_class, tuple_class
from bitfusion.kernels.types import Array, Chars, CPointer, NestedArray, Record, Scalar, Signature, Tuple, Type


def numba_type(kind: Type) -> Any:
    """Numba's type for ours. KernelTypeError for one that Numba does not have."""
    match kind:
        case Array():
            return numba_types.Array(numba_type(kind.dtype), kind.ndim, kind.layout, readonly=kind.readonly)
        case NestedArray():
            return numba_types.NestedArray(numba_type(kind.dtype), kind.shape)
        case Record():
            return numba_from_dtype(kind.dtype)
        case NamedTuple():
            return numba_types.BaseTuple.from_types(
                [numba_type(element) for element in kind.elements], tuple_class(kind.class_name, kind.fields)
            )
        case EnumMember():
            made = enum_class(kind.class_name, kind.integer, kind.members)
            return (numba_types.IntEnumMember if kind.integer else numba_types.EnumMember)(made, numba_type(kind.dtype))
        case CPointer(dtype=Scalar(name="none")):
            return numba_types.voidptr
        case CPointer():
            return numba_types.CPointer(numba_type(kind.dtype))
        case Chars():
            return (numba_types.CharSeq if kind.kind == "S" else numba_types.UnicodeCharSeq)(kind.count)
        case Tuple():
            return numba_types.BaseTuple.from_types([numba_type(element) for element in kind.elements])
        case Scalar(name="bool"):
            return numba_types.boolean
        case Scalar(dtype=dtype) if dtype is not None and dtype.kind in "mM":
            return numba_from_dtype(dtype)
        case Scalar():
            return getattr(numba_types, kind.name)
    raise KernelTypeError(f"{kind} is not the type of a value")


def numba_arguments(signature: Signature) -> tuple[Any, ...]:
    """The types of a kernel's arguments. KernelTypeError if the signature is not a kernel's."""
    if signature.return_type.name != "none":
        raise KernelTypeError(f"a kernel returns nothing, its signature cannot return {signature.return_type}")
    return tuple(numba_type(argument) for argument in signature.args)


def declared_types(signature: Signature) -> tuple[tuple[Any, ...], Any]:
    """What a device function is declared to take and return; None as its result where that is to be inferred."""
    arguments = tuple(numba_type(argument) for argument in signature.args)
    return arguments, None if signature.return_type.name == "none" else numba_type(signature.return_type)


class DeviceArray:
    """An array in device memory as Numba takes it from a kernel's names."""

    def __init__(self, constant: DeviceConstant) -> None:
        assert isinstance(constant.type, Scalar) and constant.type.dtype is not None
        self.__cuda_array_interface__ = {
            "shape": constant.shape,
            "strides": constant.strides,
            "typestr": constant.type.dtype.str,
            "data": (constant.address, False),
            "version": 3,
        }


def numba_value(value: object) -> object:
    """A constant as Numba is to see it: our types become its own, everything else is what it is."""
    if isinstance(value, DeviceConstant):
        return DeviceArray(value)
    if isinstance(value, Type):
        return numba_type(value)
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(map(numba_value, value))
    return value
