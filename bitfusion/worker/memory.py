"""The memory of one session as the server sees it: which ranges are live, which chunks are mapped, what the lease is charged.

The client chooses the addresses (docs/reference/wire.md section 5.1); this checks them and never believes them. A chunk is
charged while a live allocation touches it. Chunks stay mapped when their last allocation goes, because memory used again costs
no page faults, and are given back when the lease needs room elsewhere; at once where the lease has other sessions, which could not ask for
them. Not the client's allocator, and not what maps (``chunks.py``).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter

from bitfusion import limits
from bitfusion.device.base import Device
from bitfusion.errors import DeviceMemoryError, InvalidAddressError
from bitfusion.worker.account import Account, Sole
from bitfusion.worker.chunks import Chunks

CHUNK = limits.MEMORY_CHUNK_SIZE


class SessionMemory:
    """Live allocations and mapped chunks of one session with a lease of ``limit`` bytes at ``base``..``base + size``.

    ``account`` says what the lease's other sessions use; without one there are none.
    """

    def __init__(self, device: Device, base: int, size: int, limit: int, account: Account | None = None) -> None:
        self.base, self.size, self.limit = base, size, limit
        self._device = device
        self._account = account or Sole()
        self._chunks = Chunks(device, base, self._account)
        self._starts: list[int] = []
        self._sizes: dict[int, int] = {}
        self._live: Counter[int] = Counter()  # chunk -> live allocations that touch it
        self._refused: set[int] = set()  # where the client believes it has an allocation that we refused

    @property
    def used(self) -> int:
        """Bytes charged to the lease, by all its sessions."""
        return len(self._live) * CHUNK + self._account.others_used()

    def allocate(self, address: int, size: int) -> None:
        """Note a live allocation and map what it needs. InvalidAddressError, DeviceMemoryError.

        An allocation that finds no memory is remembered: its client was not there to hear of it, and will release it.
        """
        self._check_place(address, size)
        self._refused.discard(address)
        try:
            self._charge(address, size)
        except DeviceMemoryError:
            if len(self._refused) < limits.ALLOCATION_COUNT_MAX:
                self._refused.add(address)
            raise
        self._starts.insert(bisect_right(self._starts, address), address)
        self._sizes[address] = size
        self._device.allocate(address, size)

    def _charge(self, address: int, size: int) -> None:
        chunks = range((address - self.base) // CHUNK, (address + size - 1 - self.base) // CHUNK + 1)
        fresh = sum(chunk not in self._live for chunk in chunks)
        if fresh:
            used = self.used
            if used + fresh * CHUNK > self.limit or not self._map(chunks):
                raise DeviceMemoryError(
                    f"out of device memory: {size} bytes asked, {used} of the lease's {self.limit} bytes are in use",
                    requested=size,
                    used=used,
                    limit=self.limit,
                )
        self._live.update(chunks)
        if fresh:
            self._note_idle()

    def release(self, address: int) -> None:
        """The end of the allocation that starts at ``address``; InvalidAddressError if none does."""
        if address in self._refused:
            self._refused.remove(address)
            return
        size = self._sizes.pop(address, None)
        if size is None:
            raise InvalidAddressError(f"no live allocation starts at {address:#x}: freed twice, or never allocated")
        self._device.release(address, size)
        del self._starts[bisect_right(self._starts, address) - 1]
        emptied = []
        for chunk in range((address - self.base) // CHUNK, (address + size - 1 - self.base) // CHUNK + 1):
            self._live[chunk] -= 1
            if not self._live[chunk]:
                del self._live[chunk]
                emptied.append(chunk)
        if emptied:
            if self.is_away or self._account.is_shared():
                self._chunks.unmap(emptied)
            self._note_idle()

    def check(self, address: int, size: int) -> None:
        """InvalidAddressError unless ``size`` bytes at ``address`` lie within one live allocation."""
        index = bisect_right(self._starts, address) - 1
        start = self._starts[index] if index >= 0 else 0
        if index < 0 or address + size > start + self._sizes[start]:
            raise InvalidAddressError(
                f"{size} bytes at {address:#x} are not within a live allocation of this session: "
                "freed memory, or an address that is not its own",
                address=address,
            )

    def _check_place(self, address: int, size: int) -> None:
        if address % limits.ADDRESS_ALIGNMENT or address < self.base or address + size > self.base + self.size:
            raise InvalidAddressError(f"an allocation of {size} bytes at {address:#x} is outside the session's range")
        if len(self._starts) >= limits.ALLOCATION_COUNT_MAX:
            raise DeviceMemoryError(
                f"over {limits.ALLOCATION_COUNT_MAX} live allocations", requested=size, used=self.used, limit=self.limit
            )
        index = bisect_right(self._starts, address)
        before = self._starts[index - 1] if index else None
        after = self._starts[index] if index < len(self._starts) else None
        if (before is not None and before + self._sizes[before] > address) or (
            after is not None and address + size > after
        ):
            raise InvalidAddressError(f"an allocation of {size} bytes at {address:#x} overlaps a live one")

    def _map(self, chunks: range) -> bool:
        """Map those of ``chunks`` that are nowhere, giving others that are idle back first where the lease has no room for both.

        False where other sessions of the lease were faster.
        """
        mapped, saved = self._chunks.mapped, self._chunks.saved
        wanted = [chunk for chunk in chunks if chunk not in mapped and chunk not in saved]
        room = (self.limit - self._account.others_mapped()) // CHUNK
        excess = len(mapped) + len(saved) + len(wanted) - room
        if excess > 0:
            idle = sorted(chunk for chunk in mapped if chunk not in self._live and chunk not in chunks)
            self._chunks.unmap(idle[:excess])
        return self._chunks.map(wanted, self.limit)

    def _note_idle(self) -> None:
        self._account.note_idle((len(self._chunks.mapped) + len(self._chunks.saved) - len(self._live)) * CHUNK)

    # where more is leased than there is

    @property
    def is_away(self) -> bool:
        """Whether some of it is on the host: nothing may touch the device's memory before ``restore``."""
        return bool(self._chunks.saved)

    def evict(self) -> int:
        """Move all to the host, for others; the bytes moved. DeviceError, OSError: what was not moved stays where it is."""
        self._chunks.unmap([chunk for chunk in self._chunks.mapped if chunk not in self._live])
        self._note_idle()
        return self._chunks.save()

    def abort(self) -> None:
        """From any thread: wait for no room any more."""
        self._account.abort()

    def restore(self) -> None:
        """Bring it back. DeviceMemoryError if there is no room in time: nothing is lost, and the next work tries again."""
        self._chunks.restore()
