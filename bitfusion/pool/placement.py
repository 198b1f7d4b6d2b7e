"""Where a lease goes: a pure function of request and view of the pool, which also says why each GPU was refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bitfusion.limits import MEMORY_CHUNK_SIZE
from bitfusion.pool.request import LeaseRequest
from bitfusion.types import DeviceSpec, format_size


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One GPU as placement sees it: ``used`` bytes held by ``lease_count`` leases."""

    device: DeviceSpec
    used: int = 0
    lease_count: int = 0

    @property
    def size(self) -> int:
        """Bytes that can be leased: the memory in whole chunks."""
        return self.device.memory_size // MEMORY_CHUNK_SIZE * MEMORY_CHUNK_SIZE

    @property
    def free(self) -> int:
        """Bytes no lease holds."""
        return self.size - self.used


@dataclass(frozen=True, slots=True)
class Placement:
    """The request fits: ``memory`` bytes of ``device``."""

    device: DeviceSpec
    memory: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """The request fits nowhere. ``reasons``: each GPU's name and why not. ``free_max``: the most that one has free."""

    reasons: tuple[tuple[str, str], ...]
    free_max: int

    def __str__(self) -> str:
        return "; ".join(f"{name}: {reason}" for name, reason in self.reasons) or "the appliance offers no GPUs"


def place(request: LeaseRequest, view: Sequence[DeviceView]) -> Placement | Refusal:
    """Pack: the GPU with the least free memory that will do, so that whole GPUs stay free; the first among equals."""
    fitting = [item for item in view if _refuse(request, item) is None]
    if not fitting:
        reasons = tuple((_name(item.device), _refuse(request, item) or "") for item in view)
        return Refusal(reasons, max((item.free for item in view), default=0))
    best = min(fitting, key=lambda item: item.free)
    return Placement(best.device, request.memory_on(best.device.memory_size))


def _refuse(request: LeaseRequest, item: DeviceView) -> str | None:
    """Why the request does not fit on this GPU; None if it does."""
    wanted = request.memory_on(item.device.memory_size)
    if wanted > item.size:
        return f"has {format_size(item.size)} in all"
    if wanted == 0:
        return f"{request} is less than its smallest share, {format_size(MEMORY_CHUNK_SIZE)}"
    if wanted > item.free:
        leases = "1 lease" if item.lease_count == 1 else f"{item.lease_count} leases"
        return (
            f"{leases} on it, {format_size(item.free)} of {format_size(item.size)} free, {format_size(wanted)} needed"
        )
    return None


def _name(device: DeviceSpec) -> str:
    return f"{device.name} ({device.kind} {device.index})"
