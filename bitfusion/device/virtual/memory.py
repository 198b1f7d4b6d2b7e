"""The virtual GPU's memory: one range of addresses, and the shadow table that says which bytes of it are in a live
allocation.

The lower part is the client's: it chooses the addresses, we keep the shadow. The upper part, the *system area*, is
ours: variables of modules, the workspace of grid-wide barriers, and what kernels allocate with ``malloc``.
"""

from __future__ import annotations

import bisect
import ctypes
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from bitfusion.device.virtual.layout import GRANULE
from bitfusion.device.virtual.mapping import Mapping, SharedMapping
from bitfusion.device.virtual.room import room
from bitfusion.errors import DeviceMemoryError
from bitfusion.limits import KIB, MEMORY_CHUNK_SIZE, MIB
from bitfusion.types import format_size

BASE: Final = 0x2000_0000_0000
"""Where the range begins if the addresses are free: above the heap, below libraries and stacks, and easy to tell in a
message.
"""

SYSTEM_SIZE: Final = 256 * MIB
"""The system area: CUDA gives device ``malloc`` 8 MiB and constants 64 KiB; the rest is for large __device__ arrays."""

ROOM_CHECK_SIZE: Final = 64 * MIB
"""Bytes after which the machine is asked what it has left: that takes as long as to clear some pages."""

STRING_SIZE_MAX: Final = 4 * KIB
"""Bytes of a text a kernel passes to printf or assert."""

_FILL_PIECE: Final = 256 * KIB
"""What ``fill_memory`` copies at a time: stays in the cache."""

_SHADOW_ENTRY: Final = 2

_VALID: Final = GRANULE.to_bytes(_SHADOW_ENTRY, "little")

_WRITABLE: Final = 0x200  # PyBUF_WRITE

_memory_view = cast(
    Callable[[int, int, int], memoryview],
    ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
        ("PyMemoryView_FromMemory", ctypes.pythonapi)
    ),
)


def view_memory(address: int, size: int) -> memoryview:
    """The bytes themselves, as a buffer; whoever holds it must not use it after the memory is gone."""
    return _memory_view(address, size, _WRITABLE)


def fill_memory(address: int, size: int, pattern: bytes) -> None:
    """Repeat ``pattern`` over ``size`` bytes, a multiple of its length."""
    if len(set(pattern)) == 1:
        ctypes.memset(address, pattern[0], size)
        return
    done = min(len(pattern), size)
    ctypes.memmove(address, pattern, done)
    piece_max = _FILL_PIECE // len(pattern) * len(pattern)
    while done < size:
        piece = min(done, piece_max, size - done)
        ctypes.memmove(address + done, address, piece)
        done += piece


class SystemArea:
    """A first-fit allocator for the upper end of the device's memory.

    Thread-safe: kernels call ``malloc`` from every core.
    """

    def __init__(self, start: int, size: int, mark: Callable[[int, int, bool], None]) -> None:
        self._mark = mark
        self._lock = threading.Lock()
        self._free = [(start, size)]  # (address, size), by address; neighbours are joined
        self._live: dict[int, int] = {}
        self._abandoned: deque[int] = deque()

    def allocate(self, size: int) -> int:
        """The address of ``size`` bytes, which may hold anything; DeviceMemoryError if there is no room."""
        while self._abandoned:
            self.release(self._abandoned.popleft())
        needed = max(-(-size // GRANULE), 1) * GRANULE
        with self._lock:
            for index, (address, room) in enumerate(self._free):
                if room >= needed:
                    self._free[index : index + 1] = [(address + needed, room - needed)] if room > needed else []
                    self._live[address] = size
                    self._mark(address, size, True)
                    return address
        message = f"no {size} bytes are left for variables of modules and malloc in kernels"
        raise DeviceMemoryError(message, requested=size, limit=SYSTEM_SIZE)

    def release(self, address: int) -> None:
        """Take memory back. An address that was not allocated is ignored, as ``free`` may."""
        with self._lock:
            size = self._live.pop(address, None)
            if size is None:
                return
            self._mark(address, size, False)
            index = bisect.bisect(self._free, (address,))
            self._free.insert(index, (address, max(-(-size // GRANULE), 1) * GRANULE))
            self._join(index)
            self._join(index - 1)

    def abandon(self, address: int) -> None:
        """Let the next ``allocate`` take memory back. For finalisers: they run in the middle of anything, so this takes no lock."""
        self._abandoned.append(address)

    def _join(self, index: int) -> None:
        """Make one of a free range and the one behind it if they touch."""
        if 0 <= index < len(self._free) - 1:
            (address, size), (following, more) = self._free[index : index + 2]
            if address + size == following:
                self._free[index : index + 2] = [(address, size + more)]


class DeviceMemory:
    """``size`` bytes of addresses for the client from ``base``, and the system area behind them.

    ``total_size`` covers both. ``shadow`` is the address of the table: for every GRANULE bytes of memory a u16, how
    many of them (from the start) are valid. Allocations start on a granule, so a granule belongs to one. One more entry
    stands for all addresses outside, and is 0.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.total_size = size + SYSTEM_SIZE
        self._mapping = SharedMapping(self.total_size, BASE)
        self.base = self._mapping.address
        self._shadow = Mapping((self.total_size // GRANULE + 1) * _SHADOW_ENTRY)
        self.shadow = self._shadow.address
        self._mapping.open_range(self.base + size, SYSTEM_SIZE)
        self._opened = 0
        self._unchecked = 0
        self.system = SystemArea(self.base + size, SYSTEM_SIZE, self.mark)

    def open_chunks(self, address: int, size: int) -> None:
        """Back whole chunks with memory that reads as zeros. DeviceMemoryError if the machine has no room for them."""
        assert address % MEMORY_CHUNK_SIZE == size % MEMORY_CHUNK_SIZE == 0
        self._unchecked += size
        if self._unchecked >= ROOM_CHECK_SIZE:
            self._check_room(size)
            self._unchecked = 0
        self._mapping.open_range(address, size)
        self._opened += size

    def _check_room(self, size: int) -> None:
        """The system gives memory page by page, and kills for the one it does not have: ask before, for all that is still to be touched."""
        left = room()
        promised = max(self._opened - self._mapping.touched, 0)
        if left is not None and size + promised > left:
            self._unchecked -= size
            raise DeviceMemoryError(
                f"the appliance's machine has {format_size(left)} of memory left, {format_size(promised)} of them promised to this session;"
                f" {format_size(size)} more do not fit",
                requested=size,
            )

    def close_chunks(self, address: int, size: int) -> None:
        """Give whole chunks back."""
        self._mapping.close_range(address, size)
        self._opened -= size

    def mark(self, address: int, size: int, valid: bool) -> None:
        """Note that exactly these bytes may be accessed, or none of them."""
        full, rest = divmod(size, GRANULE)
        entry = self.shadow + (address - self.base) // GRANULE * _SHADOW_ENTRY
        fill_memory(entry, full * _SHADOW_ENTRY, _VALID if valid else b"\0")
        if rest:
            last = rest if valid else 0
            ctypes.memmove(entry + full * _SHADOW_ENTRY, last.to_bytes(_SHADOW_ENTRY, "little"), _SHADOW_ENTRY)

    def string(self, address: int) -> bytes:
        """The zero-terminated text at an address that a kernel names, as far as it lies in live memory."""
        found = b""
        while b"\0" not in found and len(found) < STRING_SIZE_MAX:
            piece = self.valid_bytes(address + len(found))
            if not piece:
                break
            found += piece
        return found.partition(b"\0")[0]

    def valid_bytes(self, address: int) -> bytes:
        """From an address to the end of its granule, as far as it is valid."""
        granule, start = divmod(address - self.base, GRANULE)
        if not 0 <= granule < self.total_size // GRANULE:
            return b""
        entry = ctypes.string_at(self.shadow + granule * _SHADOW_ENTRY, _SHADOW_ENTRY)
        valid = int.from_bytes(entry, "little")
        return ctypes.string_at(address, max(valid - start, 0))

    def close(self) -> None:
        self._mapping.close()
        self._shadow.close()
