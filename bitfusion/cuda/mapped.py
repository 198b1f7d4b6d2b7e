"""Mapped and managed arrays: host arrays that kernels take, and whose content follows (client/mirror.py says when).

As with numba.cuda they are NumPy arrays, a launch sees what the host wrote before it, and after waiting for the device the host sees what
kernels wrote. Unlike there nothing is seen earlier, and what the host writes between a launch and the wait is lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bitfusion.client.array import DeviceArray
from bitfusion.client.host import HostArray, writable
from bitfusion.client.mirror import Mirror
from bitfusion.cuda.current import current
from bitfusion.cuda.memory import order_of, pinned_array


class MappedArray(np.ndarray[Any, Any]):
    """A host array with a mirror on the device. Its views are such arrays too; what NumPy computes from it is host memory."""

    __cuda_memory__ = True
    __cuda_ndarray__ = True

    _mirror: Mirror | None = None
    stream: Any = 0

    def __array_finalize__(self, obj: object) -> None:
        mirror = getattr(obj, "_mirror", None)
        if mirror is not None and mirror.covers(self):
            self._mirror, self.stream = mirror, getattr(obj, "stream", 0)

    @classmethod
    def mirroring(cls, host: HostArray, stream: Any = 0) -> Self:
        """A view of the host array that has a mirror. DeviceMemoryError."""
        device = current().device_array(host.shape, host.dtype, host.strides, stream=stream)
        view = np.asarray(host).view(cls)
        view._mirror, view.stream = Mirror(np.asarray(host), device), stream
        return view

    @property
    def mirror(self) -> DeviceArray | None:
        """What a launch takes; ``send`` comes before it. None for host memory that has none."""
        return None if self._mirror is None else self._mirror.part(self, self.stream)

    def send(self, stream: Any = 0) -> None:
        """Give the content to the mirror, for a launch in ``stream`` in the same turn of the session."""
        if self._mirror is not None:
            self._mirror.send(stream or self.stream)

    @property
    def device_array(self) -> DeviceArray:
        """The mirror, with the content. ValueError for host memory without one."""
        array = self.mirror
        if array is None:
            raise ValueError("this array is host memory that was computed from a mapped array; copy it to the device")
        self.send()
        return array

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        """CUDA Array Interface of the mirror, which has the content then."""
        return self.device_array.__cuda_array_interface__

    @property
    def device_ctypes_pointer(self) -> Any:
        """The mirror's address."""
        return self.device_array.device_ctypes_pointer

    @property
    def alloc_size(self) -> int:
        """Bytes from the first to the last."""
        return self.device_array.alloc_size

    def is_c_contiguous(self) -> bool:
        """Whether the last axis is the fastest and there are no gaps."""
        return self.flags.c_contiguous

    def is_f_contiguous(self) -> bool:
        """Whether the first axis is the fastest and there are no gaps."""
        return self.flags.f_contiguous

    def bind(self, stream: Any = 0) -> Self:
        """The same array with another stream for its copies."""
        bound = self.view()
        bound.stream = stream
        return bound

    def copy_to_host(self, ary: HostArray | None = None, stream: Any = 0) -> HostArray:
        """The elements as the device has them, in ``ary`` or a new array."""
        return self.device_array.copy_to_host(ary, stream)

    def copy_to_device(self, ary: object, stream: Any = 0) -> None:
        """Copy a host or device array of the same shape and dtype into the mirror; the host has it after the next wait."""
        with self.device_array.client.turn:
            self.device_array.copy_to_device(ary, stream)


class ManagedArray(MappedArray):
    """A host array that CUDA would move to whoever touches it; here its content moves as that of mapped memory does."""


def mapped_array(
    shape: Any,
    dtype: DTypeLike = np.float64,
    strides: Any = None,
    order: str = "C",
    stream: Any = 0,
    portable: bool = False,
    wc: bool = False,
) -> MappedArray:
    """A host array that kernels can take, its elements not set. ``portable`` and ``wc`` mean nothing here. DeviceMemoryError."""
    return MappedArray.mirroring(pinned_array(shape, dtype, strides, order), stream)


def mapped_array_like(ary: Any, stream: Any = 0, portable: bool = False, wc: bool = False) -> MappedArray:
    """A mapped array of the shape, dtype and order of ``ary``."""
    return mapped_array(ary.shape, ary.dtype, order_of(ary), "C", stream, portable, wc)


def managed_array(
    shape: Any,
    dtype: DTypeLike = np.float64,
    strides: Any = None,
    order: str = "C",
    stream: Any = 0,
    attach_global: bool = True,
) -> ManagedArray:
    """A host array that kernels can take, its elements not set. ``attach_global`` means nothing here. DeviceMemoryError."""
    return ManagedArray.mirroring(pinned_array(shape, dtype, strides, order), stream)


@contextlib.contextmanager
def mapped(*arylist: NDArray[Any], stream: Any = 0) -> Iterator[Any]:
    """Map host arrays for a block: the array that kernels take, or a list of them. The host has the content after it. ValueError."""
    made = [MappedArray.mirroring(writable(array), stream) for array in arylist]
    try:
        yield made[0] if len(made) == 1 else made
    finally:
        for array in made:
            if array._mirror is not None and array._mirror.is_away:
                array._mirror.fetch()
            array._mirror = None
