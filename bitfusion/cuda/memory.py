"""Memory: device arrays, and the host memory that numba.cuda pins for faster copies, which over a network is ordinary memory."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bitfusion.client.array import DeviceArray, new_layout
from bitfusion.client.client import Stream
from bitfusion.client.core import Owned
from bitfusion.client.host import check_dtype, host_order
from bitfusion.client.layout import Layout, c_strides
from bitfusion.cuda.current import current
from bitfusion.errors import UnsupportedError
from bitfusion.wire.operations import Opcode

SYNC_VARIABLE = "NUMBA_CUDA_ARRAY_INTERFACE_SYNC"
"""Numba's variable: ``0`` means that streams of arrays that come through the CUDA Array Interface are not awaited."""


def to_device(obj: Any, stream: Any = 0, copy: bool = True, to: DeviceArray | None = None) -> DeviceArray:
    """A device array with a copy of ``obj``, or ``to`` after ``obj`` was copied into it.

    A device array is returned as it is. ``copy=False`` makes the device array only. DeviceMemoryError, InvalidValueError.
    """
    if to is not None:
        if copy:
            to.copy_to_device(obj, stream)
        return to
    if isinstance(obj, DeviceArray) and obj.client is not current() and not obj.client.closed:
        return current().to_device(obj.copy_to_host(), stream)  # of another of the leased GPUs: through the host
    if is_cuda_array(obj):
        return as_cuda_array(obj)
    return current().to_device(obj, stream) if copy else device_array_like(np.asanyarray(obj), stream)


def device_array(
    shape: Any, dtype: DTypeLike = np.float64, strides: Any = None, order: str = "C", stream: Any = 0
) -> DeviceArray:
    """A device array, its elements not set. DeviceMemoryError, InvalidValueError."""
    return current().device_array(shape, dtype, strides, order, stream)


def device_array_like(ary: Any, stream: Any = 0) -> DeviceArray:
    """A device array of the shape, dtype and order of ``ary``, its elements not set."""
    return device_array(ary.shape, ary.dtype, order_of(ary), "C", stream)


def order_of(ary: DeviceArray | NDArray[Any]) -> tuple[int, ...] | None:
    """Strides for a new array that lies as ``ary`` does, without its gaps."""
    if isinstance(ary, DeviceArray):
        return host_order(np.lib.stride_tricks.as_strided(np.empty(1, ary.dtype), ary.shape, ary.strides))
    return host_order(ary)


def is_cuda_array(obj: Any) -> bool:
    """Whether ``obj`` is in device memory: it has the CUDA Array Interface."""
    return isinstance(obj, DeviceArray) or hasattr(obj, "__cuda_array_interface__")


def as_cuda_array(obj: Any, sync: bool = True) -> DeviceArray:
    """``obj`` as a device array: itself, or a view through the CUDA Array Interface, which keeps ``obj`` alive.

    TypeError without that interface; UnsupportedError for memory that is not the leased GPU's.
    """
    if isinstance(obj, DeviceArray):
        return obj
    if not is_cuda_array(obj):
        raise TypeError(
            f"an object of type {type(obj).__name__} is not in device memory: it has no __cuda_array_interface__"
        )
    return from_cuda_array_interface(obj.__cuda_array_interface__, owner=obj, sync=sync)


def from_cuda_array_interface(desc: dict[str, Any], owner: object = None, sync: bool = True) -> DeviceArray:
    """The array that ``desc`` (CUDA Array Interface, version 3) describes. UnsupportedError, InvalidValueError.

    A stream in it is where later copies of the array go, and unless told otherwise its work is awaited.
    """
    client = current()
    shape, dtype, address = tuple(desc["shape"]), check_dtype(desc["typestr"]), int(desc["data"][0])
    if desc.get("mask") is not None:
        raise UnsupportedError("Masked arrays are not supported", feature="mask")
    strides = c_strides(shape, dtype.itemsize) if desc.get("strides") is None else tuple(desc["strides"])
    layout = Layout(0, shape, strides, dtype.itemsize)
    low, high = layout.extent
    welcome = client.welcome
    if (
        layout.size
        and not welcome.memory_base <= address + low <= address + high <= welcome.memory_base + welcome.memory_size
    ):
        raise UnsupportedError(
            f"the memory at {address:#x} is not the leased GPU's: arrays of another GPU library are in this machine's own GPU",
            feature="foreign device memory",
        )
    stream = 0 if desc.get("stream") is None else client.external_stream(int(desc["stream"]))
    if isinstance(stream, Stream) and sync and os.environ.get(SYNC_VARIABLE) != "0":
        stream.synchronize()
    return DeviceArray(client, _Borrowed(address, owner), layout, dtype, stream)


class _Borrowed(Owned):
    """Memory that somebody else releases, kept alive through its owner; our own release goes to a queue nobody reads."""

    __slots__ = ("owner",)

    def __init__(self, address: int, owner: object) -> None:
        super().__init__(deque(), Opcode.RELEASE, address)
        self.owner = owner


def pinned_array(shape: Any, dtype: DTypeLike = np.float64, strides: Any = None, order: str = "C") -> NDArray[Any]:
    """A host array. Copies to a leased GPU gain nothing by pinning; the appliance pins its own end."""
    checked = check_dtype(dtype)
    layout = new_layout(shape, checked, strides, order)
    low, high = layout.extent
    return np.ndarray(layout.shape, checked, np.empty(high - low, np.uint8).data, layout.offset, layout.strides)


def pinned_array_like(ary: DeviceArray | NDArray[Any]) -> NDArray[Any]:
    """A host array of the shape, dtype and order of ``ary``."""
    return pinned_array(ary.shape, ary.dtype, order_of(ary))


@contextlib.contextmanager
def pinned(*arylist: NDArray[Any]) -> Iterator[None]:
    """A block in which numba.cuda pins the arrays; here it does nothing."""
    yield
