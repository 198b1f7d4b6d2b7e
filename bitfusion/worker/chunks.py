"""The chunks of device memory that a session has: mapped on the GPU, or saved on the host while the GPU is needed for others.

Where more is leased than a GPU has (``serve --oversubscribe``), the memory of a session that does nothing is moved to the host and comes
back, to the same addresses, before its next work. Owns mapping, saving and their account; which chunks are in use says ``memory.py``.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Collection, Iterable

from bitfusion import limits
from bitfusion.device.base import Device
from bitfusion.worker.account import Account

CHUNK = limits.MEMORY_CHUNK_SIZE

MOVED_COUNT_MAX = 32
"""Chunks moved at a time: what is on its way needs room on both sides."""


class Chunks:
    """Chunks of the range at ``base``, by number."""

    def __init__(self, device: Device, base: int, account: Account) -> None:
        self._device = device
        self._base = base
        self._account = account
        self._mapped: set[int] = set()
        self._saved: dict[int, memoryview] = {}

    @property
    def mapped(self) -> Collection[int]:
        """Those on the GPU."""
        return self._mapped

    @property
    def saved(self) -> Collection[int]:
        """Those on the host."""
        return self._saved.keys()

    def map(self, chunks: Iterable[int], limit: int) -> bool:
        """Map chunks that are nowhere yet. False where the lease's sessions would have more than ``limit`` bytes. DeviceMemoryError."""
        for first, count in runs(chunks):
            if not self._account.take(count * CHUNK, limit):
                return False
            try:
                self._device.map(self._base + first * CHUNK, count * CHUNK)
            except BaseException:
                self._account.give(count * CHUNK)
                raise
            self._mapped.update(range(first, first + count))
        return True

    def unmap(self, chunks: Iterable[int]) -> None:
        """Give chunks back, wherever they are."""
        chunks = list(chunks)
        for first, count in runs(chunk for chunk in chunks if chunk in self._mapped):
            self._device.unmap(self._base + first * CHUNK, count * CHUNK)
            self._mapped.difference_update(range(first, first + count))
            self._account.give(count * CHUNK)
        for chunk in chunks:
            if self._saved.pop(chunk, None) is not None:
                self._account.give(CHUNK, saved=True)

    def save(self) -> int:
        """Move everything to the host; the bytes moved. DeviceError, and OSError where the host has no room: what was not moved stays."""
        self._device.synchronize(None)
        moved = 0
        for first, count in runs(self._mapped, MOVED_COUNT_MAX):
            address, size = self._base + first * CHUNK, count * CHUNK
            host = memoryview(_host_memory(size))
            self._copy_to_host(address, host)
            self._device.unmap(address, size)
            chunks = range(first, first + count)
            self._mapped.difference_update(chunks)
            self._saved |= {chunk: host[index * CHUNK : (index + 1) * CHUNK] for index, chunk in enumerate(chunks)}
            self._account.move(-size)
            moved += size
        return moved

    def _copy_to_host(self, address: int, host: memoryview) -> None:
        filled = 0
        for piece in self._device.read(self._device.default_stream, address, host.nbytes):
            host[filled : filled + piece.nbytes] = piece
            filled += piece.nbytes

    def restore(self) -> None:
        """Bring everything back. DeviceMemoryError if the GPU has no room for it in time: what was not moved stays safe."""
        self._account.move(len(self._saved) * CHUNK)
        try:
            for first, count in runs(self._saved, MOVED_COUNT_MAX):
                self._device.map(self._base + first * CHUNK, count * CHUNK)
                for chunk in range(first, first + count):
                    self._device.write(self._device.default_stream, self._base + chunk * CHUNK, self._saved.pop(chunk))
                    self._mapped.add(chunk)
        finally:
            self._account.move(-len(self._saved) * CHUNK)
        self._device.synchronize(None)


def _host_memory(size: int) -> mmap.mmap:
    """In huge pages where the system has them: to touch small ones for the first time takes longer than to copy."""
    memory = mmap.mmap(-1, size)
    with contextlib.suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def runs(chunks: Iterable[int], count_max: int | None = None) -> list[tuple[int, int]]:
    """Chunk numbers as (first, count) of consecutive ones, at most ``count_max``, ascending."""
    found: list[tuple[int, int]] = []
    for chunk in sorted(chunks):
        if found and found[-1][0] + found[-1][1] == chunk and found[-1][1] != count_max:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((chunk, 1))
    return found
