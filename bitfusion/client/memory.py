"""Chooses the addresses of a session's allocations and knows what they cost. Pure: no session, no I/O.

A sub-allocator over the address range the welcome granted. Free blocks are kept in size classes, sixteen to each power of two, with a
bitmap of the classes that have any (two-level segregated fit: Masmano, Ripoll, Crespo and Real, ECRTS 2004), so that allocating and
freeing take constant time; neighbours that are free are joined at once. The charge is counted as the server counts it: a chunk is
charged while a live allocation touches it.
"""

from __future__ import annotations

from bitfusion import limits
from bitfusion.errors import DeviceMemoryError, InvalidAddressError, InvalidValueError

GRAIN = limits.ADDRESS_ALIGNMENT
CLASS_BITS = 4
"""Sixteen classes to each power of two: a block found by its class is at most 1/16 larger than the one asked for."""

CLASS_SEARCH_MAX = 8
"""Blocks of the request's own class that are tried before a larger class is taken, any block of which fits."""


class AddressSpace:
    """The range [base, base + size) with a lease of ``limit`` bytes, charged in chunks of ``chunk`` bytes."""

    def __init__(self, base: int, size: int, limit: int, chunk: int = limits.MEMORY_CHUNK_SIZE) -> None:
        self.base, self.size, self.limit, self.chunk = base, size, limit, chunk
        self._live: dict[int, int] = {}  # address -> size as asked for
        self._ends: dict[int, int] = {}  # end of a free block -> its start
        self._free: dict[int, int] = {}  # start of a free block -> its size
        self._classes: dict[int, dict[int, None]] = {}  # class -> starts of its free blocks, in order
        self._bitmap = 0
        self._edges: dict[int, int] = {}  # chunk -> allocations that begin or end in it
        self._inner = 0  # chunks that lie wholly within one allocation
        if size:
            self._insert(base, size)

    @property
    def used(self) -> int:
        """Bytes charged to the lease: whole chunks."""
        return (len(self._edges) + self._inner) * self.chunk

    @property
    def count(self) -> int:
        """Live allocations."""
        return len(self._live)

    def allocate(self, size: int) -> int:
        """The address of ``size`` new bytes, aligned to 256; 0, the null pointer, for no bytes. DeviceMemoryError if they do not fit."""
        if size < 0:
            raise InvalidValueError(f"an allocation of {size} bytes cannot be made")
        if size == 0:
            return 0
        block = -(-size // GRAIN) * GRAIN
        if block > self.limit or len(self._live) >= limits.ALLOCATION_COUNT_MAX:
            raise self._exhausted(size)
        start = self._find(block)
        if start is None or not self._fits(start, size):
            start = self._find_cheapest(block, size)
        self._take(start, block)
        self._charge(start, size)
        self._live[start] = size
        return start

    def release(self, address: int) -> None:
        """Give back what ``allocate`` returned; InvalidAddressError if no live allocation starts there."""
        if address == 0:
            return
        size = self._live.pop(address, None)
        if size is None:
            raise InvalidAddressError(f"no live allocation starts at {address:#x}: freed twice, or never allocated")
        self._discharge(address, size)
        start, end = address, address + -(-size // GRAIN) * GRAIN
        if end in self._free:
            following = self._free[end]
            self._remove(end)
            end += following
        if start in self._ends:
            previous = self._ends[start]
            self._remove(previous)
            start = previous
        self._insert(start, end - start)

    # the charge

    def _chunks(self, address: int, size: int) -> tuple[int, int]:
        return (address - self.base) // self.chunk, (address + size - 1 - self.base) // self.chunk

    def _fits(self, address: int, size: int) -> bool:
        return self.used + self._fresh(address, size) * self.chunk <= self.limit

    def _fresh(self, address: int, size: int) -> int:
        """Chunks that an allocation there would be the first to touch."""
        first, last = self._chunks(address, size)
        return last - first + 1 - (first in self._edges) - (last != first and last in self._edges)

    def _charge(self, address: int, size: int) -> None:
        first, last = self._chunks(address, size)
        for edge in {first, last}:
            self._edges[edge] = self._edges.get(edge, 0) + 1
        self._inner += max(last - first - 1, 0)

    def _discharge(self, address: int, size: int) -> None:
        first, last = self._chunks(address, size)
        for edge in {first, last}:
            self._edges[edge] -= 1
            if not self._edges[edge]:
                del self._edges[edge]
        self._inner -= max(last - first - 1, 0)

    def _exhausted(self, size: int) -> DeviceMemoryError:
        return DeviceMemoryError(
            f"out of device memory: {size} bytes asked, {self.used} of the lease's {self.limit} bytes are in use; "
            "free arrays, or lease more memory",
            requested=size,
            used=self.used,
            limit=self.limit,
        )

    # free blocks

    def _find(self, block: int) -> int | None:
        """A free block of at least ``block`` bytes, from the smallest class that has one."""
        index = _class(block)
        for _, start in zip(range(CLASS_SEARCH_MAX), self._classes.get(index, ()), strict=False):
            if self._free[start] >= block:
                return start
        larger = self._bitmap >> (index + 1)
        if larger:
            return next(iter(self._classes[index + (larger & -larger).bit_length()]))
        return next((start for start in self._classes.get(index, ()) if self._free[start] >= block), None)

    def _find_cheapest(self, block: int, size: int) -> int:
        """Where the fewest chunks are fresh, looking at every free block; asked only on the way to being out of memory."""
        candidates = [
            place
            for start, free in self._free.items()
            if free >= block
            for place in (start, start + free - block)
            if self._fits(place, size)
        ]
        if not candidates:
            raise self._exhausted(size)
        return min(candidates, key=lambda place: self._fresh(place, size))

    def _take(self, start: int, block: int) -> None:
        """Cut [start, start + block) out of the free block it lies in."""
        owner = start if start in self._free else self._ends[start + block]
        end = owner + self._free[owner]
        self._remove(owner)
        if owner < start:
            self._insert(owner, start - owner)
        if start + block < end:
            self._insert(start + block, end - start - block)

    def _insert(self, start: int, size: int) -> None:
        index = _class(size)
        self._free[start] = size
        self._ends[start + size] = start
        self._classes.setdefault(index, {})[start] = None
        self._bitmap |= 1 << index

    def _remove(self, start: int) -> None:
        size = self._free.pop(start)
        index = _class(size)
        del self._ends[start + size]
        del self._classes[index][start]
        if not self._classes[index]:
            del self._classes[index]
            self._bitmap &= ~(1 << index)


def _class(size: int) -> int:
    """The size class of a block: blocks of a class differ by less than a sixteenth."""
    grains = size // GRAIN
    shift = max(grains.bit_length() - CLASS_BITS - 1, 0)
    return (shift << CLASS_BITS) + (grains >> shift)
