"""Where a lease goes: a pure function of request and view of the pool, which also says why each GPU was refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, auto

from bitfusion.limits import MEMORY_CHUNK_SIZE
from bitfusion.pool.lease import Share, leasable
from bitfusion.pool.request import LeaseRequest
from bitfusion.types import DeviceSpec, ServerSpec, format_size

UNKNOWN_SERVER = ServerSpec()


class Strategy(StrEnum):
    """Which of the GPUs that will do are taken. Among equals the first."""

    PACK = auto()
    """The fullest, so that whole ones stay free."""
    SPREAD = auto()
    """The emptiest, so that few share one."""


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One GPU as placement sees it: ``used`` bytes held by ``lease_count`` leases."""

    device: DeviceSpec
    used: int = 0
    lease_count: int = 0
    exclusive: bool = False
    """The lease on it is alone."""
    oversubscribe: float = 1.0
    server: ServerSpec = UNKNOWN_SERVER
    size: int = field(init=False)
    """Bytes that one lease can have: the memory in whole chunks."""
    capacity: int = field(init=False)
    """Bytes that all leases together can have."""
    free: int = field(init=False)
    """Bytes that a lease could still have here."""

    def __post_init__(self) -> None:
        size = leasable(self.device)
        capacity = int(size * self.oversubscribe) // MEMORY_CHUNK_SIZE * MEMORY_CHUNK_SIZE
        object.__setattr__(self, "size", size)
        object.__setattr__(self, "capacity", capacity)
        object.__setattr__(self, "free", 0 if self.exclusive else min(size, capacity - self.used))


Allowance = Callable[[DeviceView], int]
"""Of a GPU's free bytes those that the request may take without delaying anybody who asked earlier."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The request fits: a share of as many different GPUs as it asks for."""

    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """The request does not fit now."""

    request: LeaseRequest
    reasons: tuple[tuple[str, str], ...]
    """Each GPU's name and why not; an empty reason: that one would do, but more are needed."""
    free_max: int
    """Bytes that each of as many GPUs as were asked for has free now, of those that the filters leave."""
    possible: bool
    """Whether it would fit if nobody else were there."""

    def __str__(self) -> str:
        return "; ".join(f"{name}: {why or 'would do'}" for name, why in self.reasons) or "the appliance offers no GPUs"

    @property
    def advice(self) -> str:
        """What to do."""
        if self.request.gpus > len(self.reasons) > 0:
            return f"Ask for {len(self.reasons)} at most: there are no more GPUs here"
        if self.free_max >= MEMORY_CHUNK_SIZE:
            where = "one GPU" if self.request.gpus == 1 else f"each of {self.request.gpus} GPUs"
            return f"Up to {format_size(self.free_max)} on {where} would fit now"
        if self.possible:
            return "Nothing is free now; try again when a lease has ended"
        return "It would not fit here if nobody else were there: ask for what the GPUs have, or another appliance"


def place(
    request: LeaseRequest,
    view: Sequence[DeviceView],
    strategy: Strategy = Strategy.PACK,
    allowance: Allowance | None = None,
) -> Placement | Refusal:
    """GPUs for ``request`` by ``strategy``, or a reason for each GPU."""
    shares = choose(request, view, strategy, allowance)
    return refusal(request, view, allowance) if shares is None else Placement(shares)


def choose(
    request: LeaseRequest, view: Sequence[DeviceView], strategy: Strategy, allowance: Allowance | None = None
) -> tuple[Share, ...] | None:
    """The shares of ``place``, in the appliance's order of GPUs; None where they do not fit, for which no reasons are made."""
    fitting = [index for index, item in enumerate(view) if fits(request, item, allowance)]
    if len(fitting) < request.gpus:
        return None
    fitting.sort(key=lambda index: view[index].free, reverse=strategy is Strategy.SPREAD)
    devices = [view[index].device for index in sorted(fitting[: request.gpus])]
    return tuple(Share(device, request.memory_on(device.memory_size)) for device in devices)


def fits(request: LeaseRequest, item: DeviceView, allowance: Allowance | None = None) -> bool:
    """Whether there is room on this GPU now: as if ``_obstacles`` found nothing, but the queue asks this a thousand times a second."""
    wanted = request.memory_on(item.device.memory_size)
    if not 0 < wanted <= item.free or (request.exclusive and item.lease_count):
        return False
    if request.filters and any(condition.refuse(item.device, item.server) for condition in request.filters):
        return False
    return allowance is None or occupied(request, item) <= allowance(item)


def eligible(request: LeaseRequest, item: DeviceView) -> bool:
    """Whether there would be room on this GPU if nobody else were on it."""
    return 0 < request.memory_on(item.device.memory_size) <= item.size and not any(
        condition.refuse(item.device, item.server) for condition in request.filters
    )


def possible(request: LeaseRequest, view: Sequence[DeviceView]) -> bool:
    """Whether the request would fit if nobody else were there."""
    return sum(eligible(request, item) for item in view) >= request.gpus


def occupied(request: LeaseRequest, item: DeviceView) -> int:
    """Bytes of the GPU that nobody else can have beside the request: an exclusive one leaves nothing."""
    return item.capacity if request.exclusive else request.memory_on(item.device.memory_size)


def refusal(request: LeaseRequest, view: Sequence[DeviceView], allowance: Allowance | None = None) -> Refusal:
    """Why each GPU will not do, and what would."""
    matching = [item for item in view if not any(one.refuse(item.device, item.server) for one in request.filters)]
    free = sorted(
        (item.free if allowance is None else min(item.free, allowance(item)) for item in matching), reverse=True
    )
    return Refusal(
        request,
        tuple((name_of(item.device), next(_obstacles(request, item, allowance), "")) for item in view),
        free_max=free[request.gpus - 1] if len(free) >= request.gpus else 0,
        possible=possible(request, view),
    )


def _obstacles(request: LeaseRequest, item: DeviceView, allowance: Allowance | None) -> Iterator[str]:
    """What keeps the request from this GPU, the lasting first."""
    yield from _lasting(request, item)
    wanted = request.memory_on(item.device.memory_size)
    leases = "1 lease" if item.lease_count == 1 else f"{item.lease_count} leases"
    if item.exclusive:
        yield "an exclusive lease is on it"
    if request.exclusive and item.lease_count:
        yield f"{leases} on it, and one that nobody is on is needed"
    if wanted > item.free:
        yield f"{leases} on it, {format_size(item.free)} of {format_size(item.capacity)} free, {format_size(wanted)} needed"
    if allowance is not None and occupied(request, item) > (most := allowance(item)):
        free = item.capacity - item.used
        yield f"{format_size(free - most)} of its {format_size(free)} free are kept for requests that came earlier"


def _lasting(request: LeaseRequest, item: DeviceView) -> Iterator[str]:
    """What keeps the request from this GPU for ever."""
    for condition in request.filters:
        if (why := condition.refuse(item.device, item.server)) is not None:
            yield why
    wanted = request.memory_on(item.device.memory_size)
    if wanted > item.size:
        yield f"has {format_size(item.size)} in all"
    if wanted == 0:
        yield f"{request.fraction:g} of it is less than the smallest share, {format_size(MEMORY_CHUNK_SIZE)}"


def name_of(device: DeviceSpec) -> str:
    """A GPU's name for people."""
    return f"{device.name} ({device.kind} {device.index})"
