"""numba.cuda.cudadrv.devicearray: the classes of device arrays, for ``isinstance``, and what asks about them.

Arrays are made by ``cuda.device_array``, ``cuda.to_device`` and ``cuda.as_cuda_array``; the classes' constructors are bitfusion's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bitfusion.client.array import BaseArray, DeviceArray
from bitfusion.cuda.mapped import ManagedArray, MappedArray
from bitfusion.cuda.memory import as_cuda_array, device_array_like, is_cuda_array, to_device

DeviceNDArrayBase = BaseArray
DeviceNDArray = DeviceRecord = DeviceArray
MappedNDArray, ManagedNDArray = MappedArray, ManagedArray

errmsg_contiguous_buffer = (
    "Array contains non-contiguous buffer and cannot be transferred as a single memory region. "
    "Please ensure contiguous buffer with numpy .ascontiguousarray()"
)
"""What Numba says where this package copies with gaps."""


def is_cuda_ndarray(obj: Any) -> bool:
    """Whether this is a device array of this package."""
    return bool(getattr(obj, "__cuda_ndarray__", False))


def require_cuda_ndarray(obj: Any) -> None:
    """ValueError for what is no device array of this package."""
    if not is_cuda_ndarray(obj):
        raise ValueError("require an cuda ndarray object")


def verify_cuda_ndarray_interface(obj: Any) -> None:
    """ValueError for what is no device array, AttributeError for one that lacks an attribute or has it of another type."""
    require_cuda_ndarray(obj)
    for name, kind in (("shape", tuple), ("strides", tuple), ("dtype", np.dtype), ("size", int)):
        if not isinstance(getattr(obj, name), kind):
            raise AttributeError(f"{name} must be of type {kind}")


def auto_device(obj: Any, stream: Any = 0, copy: bool = True, user_explicit: bool = False) -> tuple[DeviceArray, bool]:
    """A device array of ``obj``, and whether it is new."""
    if is_cuda_array(obj):
        return as_cuda_array(obj), False
    return to_device(obj, stream, copy), True


def from_array_like(ary: Any, stream: Any = 0, gpu_data: Any = None) -> DeviceArray:
    """A new device array like ``ary``, or ``gpu_data`` (a device array) in its shape."""
    return (
        device_array_like(ary, stream)
        if gpu_data is None
        else as_cuda_array(gpu_data).view(ary.dtype).reshape(ary.shape)
    )


def from_record_like(rec: Any, stream: Any = 0, gpu_data: Any = None) -> DeviceArray:
    """A new device record like ``rec``, or ``gpu_data`` (a device array) as one."""
    return from_array_like(np.asarray(rec), stream, gpu_data)


def is_contiguous(ary: Any) -> bool:
    """Whether the last axis is the fastest and there are no gaps; axes that repeat do not count."""
    return array_core(ary).flags["C_CONTIGUOUS"]  # type: ignore[no-any-return]  # NumPy's and ours have it


def array_core(ary: Any) -> Any:
    """The array without the axes that repeat."""
    if not ary.strides or not ary.size:
        return ary
    return ary[(*(0 if stride == 0 else slice(None) for stride in ary.strides), ...)]
