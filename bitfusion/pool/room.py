"""The leases on one GPU, and how much of it is left. Owns no rule of who gets it."""

from __future__ import annotations

from bitfusion.pool.placement import DeviceView
from bitfusion.pool.sums import Sums
from bitfusion.types import DeviceSpec, ServerSpec


class Room:
    """One GPU of the pool. A lease on it occupies its memory, an exclusive one all there is."""

    def __init__(self, device: DeviceSpec, server: ServerSpec, oversubscribe: float) -> None:
        self._empty = DeviceView(device, server=server, oversubscribe=oversubscribe)
        self._shares: dict[str, tuple[int, bool]] = {}
        self._view: DeviceView | None = None
        self._sums: Sums | None = None
        self.capacity = self._empty.capacity

    @property
    def view(self) -> DeviceView:
        """The GPU as placement sees it."""
        if self._view is None:
            empty = self._empty
            used = sum(memory for memory, _ in self._shares.values())
            alone = any(exclusive for _, exclusive in self._shares.values())
            self._view = DeviceView(empty.device, used, len(self._shares), alone, empty.oversubscribe, empty.server)
        return self._view

    @property
    def sums(self) -> Sums:
        """What the leases that are on it now can occupy together, whichever of them end. To be copied, not added to."""
        if self._sums is None:
            self._sums = Sums(self.capacity)
            for memory, exclusive in self._shares.values():
                self._sums.add(self.capacity if exclusive else memory)
        return self._sums

    def add(self, lease_id: str, memory: int, exclusive: bool) -> None:
        """A lease takes ``memory`` bytes."""
        assert lease_id not in self._shares, "a lease has one share of a GPU"
        self._shares[lease_id] = memory, exclusive
        self._view = None
        if self._sums is not None:
            self._sums.add(self.capacity if exclusive else memory)

    def remove(self, lease_id: str) -> None:
        """A lease gives back what it has."""
        del self._shares[lease_id]
        self._view = self._sums = None
