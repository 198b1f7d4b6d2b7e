"""numba.cuda.cudadrv.driver: its classes, the copies of bytes, and what can be asked of a driver that is on another machine."""

from __future__ import annotations

from bitfusion.client.client import Event, Stream
from bitfusion.client.operations import MemoryInfo
from bitfusion.cuda.context import Context
from bitfusion.cuda.cudadrv.error import CudaAPIError, CudaDriverError, DeadMemoryError, LinkerError
from bitfusion.cuda.devices import Device, cuda_error, gpus, is_available, select_device
from bitfusion.cuda.pointers import (
    MemoryPointer,
    device_ctypes_pointer,
    device_memory_size,
    device_memset,
    device_pointer,
    device_to_device,
    device_to_host,
    host_to_device,
    is_device_memory,
    require_device_memory,
)
from bitfusion.cuda.profiling import profile_start, profile_stop, profiling
from bitfusion.cuda.refused import (
    BaseCUDAMemoryManager,
    GetIpcHandleMixin,
    HostOnlyCUDAMemoryManager,
    IpcHandle,
    MappedMemory,
    PinnedMemory,
    set_memory_manager,
)
from bitfusion.cuda.streams import event_elapsed_time

__all__ = [
    "BaseCUDAMemoryManager",
    "Context",
    "CudaAPIError",
    "CudaDriverError",
    "DeadMemoryError",
    "Device",
    "Driver",
    "Event",
    "GetIpcHandleMixin",
    "HostOnlyCUDAMemoryManager",
    "IpcHandle",
    "LinkerError",
    "MappedMemory",
    "MemoryInfo",
    "MemoryPointer",
    "PinnedMemory",
    "Stream",
    "device_ctypes_pointer",
    "device_memory_size",
    "device_memset",
    "device_pointer",
    "device_to_device",
    "device_to_host",
    "driver",
    "event_elapsed_time",
    "host_to_device",
    "is_device_memory",
    "profile_start",
    "profile_stop",
    "profiling",
    "require_device_memory",
    "set_memory_manager",
]


class Driver:
    """The driver as far as a client knows it. CUDA's own functions (``cuMemAlloc``, ...) are called on the appliance only."""

    @property
    def is_available(self) -> bool:
        """Whether a GPU can be leased, or is."""
        return is_available()

    @property
    def initialization_error(self) -> str | None:
        """Why not, if it was asked and cannot."""
        return cuda_error()

    def get_device(self, devnum: int = 0) -> Device:
        """The leased GPU. InvalidValueError for any other number than 0."""
        return select_device(devnum)

    def get_device_count(self) -> int:
        """GPUs leased."""
        return len(gpus)

    def list_devices(self) -> list[Device]:
        """GPUs leased."""
        return gpus.lst


driver = Driver()
