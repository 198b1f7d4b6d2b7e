"""Bare device memory, for programs that copy bytes by CUDA's driver functions: pointers with a size, and the copies."""

from __future__ import annotations

import ctypes
from typing import Any, NoReturn

import numpy as np

from bitfusion.client.array import DeviceArray
from bitfusion.client.host import HostArray
from bitfusion.client.layout import Layout
from bitfusion.cuda.mapped import MappedArray
from bitfusion.cuda.memory import as_cuda_array
from bitfusion.errors import InvalidValueError

BYTES = np.dtype(np.uint8)


class MemoryPointer:
    """``size`` bytes of device memory, kept for as long as this or a view of it lives. ``array`` is the same as a device array."""

    __cuda_memory__ = True

    def __init__(self, context: Any, array: DeviceArray) -> None:
        self.context = context
        self.array = array
        self.size = array.size

    @property
    def device_pointer_value(self) -> int:
        """The address. InvalidAddressError once freed."""
        return self.array.address

    @property
    def device_ctypes_pointer(self) -> ctypes.c_size_t:
        """The address."""
        return self.array.device_ctypes_pointer

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        return self.array.__cuda_array_interface__

    def __int__(self) -> int:
        return self.array.address

    def view(self, start: int, stop: int | None = None) -> MemoryPointer:
        """A part, from byte ``start`` to ``stop``. InvalidValueError for what is not inside."""
        end = self.size if stop is None else stop
        if not 0 <= start <= end <= self.size:
            raise InvalidValueError(f"bytes {start} to {end} are not inside an allocation of {self.size}")
        return MemoryPointer(self.context, self.array[start:end])

    def memset(self, byte: int, count: int | None = None, stream: Any = 0) -> None:
        """Set the first ``count`` bytes, or all."""
        device_memset(self, byte, self.size if count is None else count, stream)

    def own(self) -> MemoryPointer:
        """Itself: it is released when nobody holds it any longer."""
        return self

    def free(self) -> None:
        """Release it now; using it later is an InvalidAddressError."""
        self.array.free()


def is_device_memory(obj: Any) -> bool:
    """Whether this is device memory: an array or a pointer."""
    return bool(getattr(obj, "__cuda_memory__", False))


def require_device_memory(obj: Any) -> None:
    """TypeError for what is not device memory."""
    if not is_device_memory(obj):
        raise TypeError(f"Not a CUDA memory object: {type(obj).__name__}")


def device_pointer(obj: Any) -> int:
    """The address of device memory. TypeError for anything else."""
    return bytes_of(obj).address


def device_ctypes_pointer(obj: Any) -> ctypes.c_size_t:
    """The address of device memory. TypeError for anything else."""
    return bytes_of(obj).device_ctypes_pointer


def device_memory_size(devmem: Any) -> int:
    """Bytes from the first to the last. TypeError for what is not device memory."""
    return bytes_of(devmem).size


def host_to_device(dst: Any, src: Any, size: int, stream: Any = 0) -> None:
    """Copy the first ``size`` bytes of a host buffer. InvalidValueError where either side is smaller."""
    _first(dst, size).copy_to_device(_host_bytes(src)[:size], stream)
    _refresh(dst, stream)


def device_to_host(dst: Any, src: Any, size: int, stream: Any = 0) -> None:
    """Copy the first ``size`` bytes into a host buffer. InvalidValueError where either side is smaller."""
    _first(src, size).copy_to_host(_host_bytes(dst)[:size], stream)


def device_to_device(dst: Any, src: Any, size: int, stream: Any = 0) -> None:
    """Copy the first ``size`` bytes on the device. InvalidValueError where either side is smaller."""
    _first(dst, size).copy_to_device(_first(src, size), stream)
    _refresh(dst, stream)


def device_memset(dst: Any, val: int, size: int, stream: Any = 0) -> None:
    """Set the first ``size`` bytes to ``val``. InvalidValueError where there are fewer."""
    _first(dst, size).fill(np.uint8(val & 0xFF), stream)
    _refresh(dst, stream)


def bytes_of(obj: Any) -> DeviceArray:
    """All bytes of device memory, from the first to the last. TypeError for anything else."""
    require_device_memory(obj)
    if isinstance(obj, MemoryPointer):
        return obj.array
    array: DeviceArray = obj.device_array if isinstance(obj, MappedArray) else as_cuda_array(obj)
    low, high = array.layout.extent
    return array.laid_out(Layout(low, (high - low,), (1,), 1), BYTES)


def _first(obj: Any, size: int) -> DeviceArray:
    array = bytes_of(obj)
    if not 0 <= size <= array.size:
        _too_large(size, array.size)
    part: DeviceArray = array[:size]
    return part


def _too_large(size: int, available: int) -> NoReturn:
    raise InvalidValueError(f"{size} bytes do not fit: the memory has {available}")


def _host_bytes(buffer: Any) -> HostArray:
    """The bytes of a host array or buffer that has no gaps, in the order in which they lie; not copied. ValueError."""
    if isinstance(buffer, np.ndarray):
        plain = np.asarray(buffer)
        if not (plain.flags.c_contiguous or plain.flags.f_contiguous):
            raise ValueError("the host array has gaps; use numpy.ascontiguousarray")
        return np.ndarray((plain.nbytes,), BYTES, (plain if plain.flags.c_contiguous else plain.T).data)
    return np.frombuffer(buffer, BYTES)


def _refresh(obj: Any, stream: Any) -> None:
    """Without a stream the call is synchronous, so the host sees mapped memory as it is now."""
    if isinstance(obj, MappedArray) and not stream:
        bytes_of(obj).client.refresh()
