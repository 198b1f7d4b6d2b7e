"""Address space from the operating system: reserved at once, backed by memory as it is touched.

Owns the system calls, no policy.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import Final

from bitfusion.errors import DeviceMemoryError

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

# linux/mman.h, linux/falloc.h
_PROT_NONE: Final = 0
_MAP_FAILED: Final = ctypes.c_void_p(-1).value
_MAP_NORESERVE: Final = 0x4000
_MADV_HUGEPAGE: Final = 14
_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2

_BLOCK_SIZE: Final = 512
"""Of ``st_blocks``, whatever the file system (stat(2))."""

_STEP: Final = 1 << 40
_STEP_COUNT: Final = 64
"""Where a range is looked for: a terabyte apart, and below the libraries and stacks of 47-bit address spaces."""

_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE


def _map(address: int, size: int, protection: int, flags: int, descriptor: int) -> int:
    mapped = _libc.mmap(address, size, protection, flags | _MAP_NORESERVE, descriptor, 0)
    if mapped == _MAP_FAILED:
        raise _failure(f"reserving {size} bytes of addresses", size)
    return int(mapped)


def _failure(what: str, size: int) -> DeviceMemoryError:
    return DeviceMemoryError(f"{what}: {os.strerror(ctypes.get_errno())}", requested=size)


class Mapping:
    """``size`` bytes of zeros at ``address``, private to this process, until ``close``."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.address = _map(0, size, _READ_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)

    def close(self) -> None:
        _libc.munmap(self.address, self.size)


class SharedMapping:
    """``size`` bytes that cannot be touched until ``open_range`` makes a part of them memory; ``close_range`` takes it
    back.

    The memory is a memfd, so that it can be given back piece by piece, and uses huge pages where the kernel is asked to
    (/sys/kernel/mm/transparent_hugepage/shmem_enabled).
    """

    def __init__(self, size: int, wanted_address: int) -> None:
        self.size = size
        self._descriptor = os.memfd_create("bitfusion-device", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._descriptor, size)
            self.address = self._map_at(wanted_address)
        except OSError as error:
            os.close(self._descriptor)
            raise DeviceMemoryError(f"reserving {size} bytes of device memory: {error}", requested=size) from error
        _libc.madvise(self.address, size, _MADV_HUGEPAGE)  # not every kernel knows it: then pages are small

    def _map_at(self, wanted_address: int) -> int:
        """The wanted address or, where it is taken (by a second device of this process), one some steps further."""
        for step in range(_STEP_COUNT):
            address = wanted_address + step * _STEP
            mapped = _map(address, self.size, _PROT_NONE, mmap.MAP_SHARED, self._descriptor)
            if mapped == address:
                return address
            _libc.munmap(mapped, self.size)  # a wanted address is a hint: this is what the kernel took instead
        raise DeviceMemoryError(
            f"no {self.size} bytes of addresses are free above {wanted_address:#x}", requested=self.size
        )

    @property
    def touched(self) -> int:
        """Bytes that are memory by now."""
        return os.fstat(self._descriptor).st_blocks * _BLOCK_SIZE

    def open_range(self, address: int, size: int) -> None:
        """Make whole pages readable and writable; they read as zeros. DeviceMemoryError if the kernel refuses."""
        if _libc.mprotect(address, size, _READ_WRITE):
            raise _failure(f"mapping {size} bytes of device memory", size)

    def close_range(self, address: int, size: int) -> None:
        """Give the memory of whole pages back; nothing may touch them until they are opened again."""
        punch = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
        if _libc.mprotect(address, size, _PROT_NONE) or _libc.fallocate(
            self._descriptor, punch, address - self.address, size
        ):
            raise _failure(f"unmapping {size} bytes of device memory", size)

    def close(self) -> None:
        """The memory goes back to the system, which clears it before anybody else sees it."""
        _libc.munmap(self.address, self.size)
        os.close(self._descriptor)
