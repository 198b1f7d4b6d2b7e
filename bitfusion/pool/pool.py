"""The pool of one appliance: its GPUs and the leases on them. The sum of a GPU's leases never exceeds its memory."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from bitfusion.errors import CapacityError
from bitfusion.limits import MEMORY_CHUNK_SIZE
from bitfusion.pool.lease import Lease, LeaseEvent, Share, apply
from bitfusion.pool.placement import DeviceView, Refusal, place
from bitfusion.pool.request import LeaseRequest
from bitfusion.types import DeviceSpec, format_size


class Pool:
    """Leases on ``devices``. A lease takes its memory when it is admitted and gives it back when it is released."""

    def __init__(self, devices: Sequence[DeviceSpec]) -> None:
        self._devices = tuple(devices)
        self._leases: dict[str, Lease] = {}

    @property
    def leases(self) -> Mapping[str, Lease]:
        """The leases that hold memory, by id."""
        return MappingProxyType(self._leases)

    def view(self) -> tuple[DeviceView, ...]:
        """Every GPU with what its leases hold, as placement sees it."""
        return tuple(self._view_of(device) for device in self._devices)

    def _view_of(self, device: DeviceSpec) -> DeviceView:
        held = [share.memory for lease in self._leases.values() for share in lease.shares if share.device == device]
        return DeviceView(device, sum(held), len(held))

    def admit(self, request: LeaseRequest) -> Lease:
        """A new lease; CapacityError gives the reason for every GPU and what would fit."""
        placed = place(request, self.view())
        if isinstance(placed, Refusal):
            raise CapacityError(
                f"no GPU has room for {request}: {placed}. {_advice(placed.free_max)}", free_max=placed.free_max
            )
        lease = Lease(secrets.token_hex(8), (Share(placed.device, placed.memory),))
        self._leases[lease.id] = lease
        return lease

    def advance(self, lease_id: str, event: LeaseEvent) -> Lease:
        """Move a lease along its life; KeyError for a lease that holds nothing (any more)."""
        lease = self._leases[lease_id]
        self._leases[lease_id] = lease = replace(lease, state=apply(lease.state, event))
        return lease

    def release(self, lease_id: str) -> None:
        """Give a lease's memory back; KeyError for a lease that holds nothing (any more)."""
        self.advance(lease_id, LeaseEvent.RELEASE)
        del self._leases[lease_id]


def _advice(free_max: int) -> str:
    if free_max < MEMORY_CHUNK_SIZE:
        return "Nothing is free now; try again when a lease has ended"
    return f"Up to {format_size(free_max)} on one GPU would fit now"
