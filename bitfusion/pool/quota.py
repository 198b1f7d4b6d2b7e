"""Quotas: what users and groups may have, which of them stands in a request's way, and when it frees up. No clock: the time is an argument.

A quota belongs to a subject: ``user:alice``, ``group:staff``, or ``user:*`` and ``group:*`` for everybody who has none of their own
(each of them has that much, not all together). Both the user's and the group's apply.

GPUs are counted by what a lease withholds from others: of each GPU the part of its memory, all of one that it is alone on. So quotas
can be handed out until they add up to the appliance, and 64 leases of 1/64 are one GPU, of which an hour is one GPU-hour. A request is
counted, before it is placed, as on the GPUs where it would take the most of those it could be given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum, auto
from fractions import Fraction

from bitfusion.errors import ConfigError
from bitfusion.pool.lease import Lease, leasable, worth
from bitfusion.pool.placement import DeviceView, eligible
from bitfusion.pool.plain import known
from bitfusion.pool.request import LIFETIME_MAX_S, PRIORITY_MAX, Holder, LeaseRequest
from bitfusion.pool.usage import DAY_S, midnight
from bitfusion.types import SIZE_MAX, format_size


@dataclass(frozen=True, slots=True)
class Quota:
    """What one subject may have; None: no limit. ConfigError for what means nothing."""

    gpus: float | None = None
    """GPUs at once; half a GPU is 0.5."""
    memory: int | None = None
    """Bytes at once, of all GPUs together."""
    gpu_seconds_per_day: float | None = None
    """Of a day in UTC. When they are used up nothing new is granted; what runs is not taken away."""
    lifetime_s: float | None = None
    """The longest a lease may live, and how long one does that does not say."""
    priority_max: int | None = None

    def __post_init__(self) -> None:
        _check("gpus", self.gpus, 0, 1 << 20)
        _check("memory", self.memory, 0, SIZE_MAX * 1024)
        _check("gpu_seconds_per_day", self.gpu_seconds_per_day, 0, DAY_S * (1 << 20))
        _check("lifetime_s", self.lifetime_s, 1, LIFETIME_MAX_S)
        _check("priority_max", self.priority_max, -PRIORITY_MAX, PRIORITY_MAX)
        if not all(isinstance(value, int | None) for value in (self.memory, self.priority_max)):
            raise ConfigError("quota: memory and priority_max are whole numbers")

    @classmethod
    def from_plain(cls, value: object) -> Quota:
        """What ``asdict`` gave; ConfigError for anything else."""
        return cls(**known(cls, value))  # type: ignore[arg-type]  # each is checked


def _check(name: str, value: object, low: float, high: float) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:  # NaN compares false
        raise ConfigError(f"quota: {name} must be {low} to {high}, or nothing for no limit, not {value!r:.40}")


@dataclass(frozen=True, slots=True)
class Need:
    """What counts against quotas, of a request or of leases together."""

    gpus: Fraction = Fraction()
    memory: int = 0

    def __add__(self, other: Need) -> Need:
        return Need(self.gpus + other.gpus, self.memory + other.memory)

    def __sub__(self, other: Need) -> Need:
        return Need(self.gpus - other.gpus, self.memory - other.memory)


class Limit(StrEnum):
    """What a quota limits."""

    GPUS = auto()
    MEMORY = auto()
    GPU_SECONDS_PER_DAY = auto()
    LIFETIME_S = auto()
    PRIORITY_MAX = auto()


NOTHING = Need()


@dataclass(frozen=True, slots=True)
class Hindrance:
    """A quota that stands in the way of a request."""

    subject: str
    limit: Limit
    quota: Quota
    request: LeaseRequest
    need: Need
    held: Need = NOTHING
    """What the subject has."""
    ahead: Need = NOTHING
    """What the subject's earlier waiters want."""

    def __str__(self) -> str:
        return f"the quota of {_shown(self.subject)} allows {_reason(self)}"


def subjects(holder: Holder) -> tuple[str, str]:
    """Whose quotas apply."""
    return f"user:{holder.user}", f"group:{holder.group}"


def check_subject(subject: str) -> str:
    """The subject as it is written; ConfigError if nobody could have that quota."""
    kind, colon, name = subject.partition(":")
    if kind not in ("user", "group") or not colon or not name or len(name) > 256 or not name.isprintable():
        raise ConfigError(
            f"a quota is somebody's: write user:NAME or group:NAME (or user:* for every user), not {subject[:60]!r}"
        )
    return subject


def applying(quotas: Mapping[str, Quota], holder: Holder) -> Iterator[tuple[str, Quota]]:
    """The quotas of ``holder``, each with its subject."""
    for subject in subjects(holder):
        quota = quotas.get(subject) or quotas.get(subject.partition(":")[0] + ":*")
        if quota is not None:
            yield subject, quota


def need_of(request: LeaseRequest, view: Sequence[DeviceView]) -> Need:
    """What a request counts before it is placed."""
    able = [item for item in view if eligible(request, item)]
    sizes = [item.size if request.exclusive else request.memory_on(item.device.memory_size) for item in able]
    parts = [worth(size, item.device, request.exclusive) for size, item in zip(sizes, able, strict=True)]
    return Need(
        sum(sorted(parts, reverse=True)[: request.gpus], Fraction()),
        sum(sorted(sizes, reverse=True)[: request.gpus]),
    )


def need_of_lease(lease: Lease) -> Need:
    """What a lease counts. One that is alone on its GPUs counts all of their memory."""
    alone = lease.request.exclusive
    return Need(lease.worth, sum(leasable(share.device) if alone else share.memory for share in lease.shares))


def ceiling(request: LeaseRequest, holder: Holder, need: Need, quotas: Mapping[str, Quota]) -> Hindrance | None:
    """The quota that could never allow the request, whatever ends."""
    for subject, quota in applying(quotas, holder):
        if (limit := _ceiling(request, need, quota)) is not None:
            return Hindrance(subject, limit, quota, request, need)
    return None


def _ceiling(request: LeaseRequest, need: Need, quota: Quota) -> Limit | None:
    if quota.priority_max is not None and request.priority > quota.priority_max:
        return Limit.PRIORITY_MAX
    if quota.lifetime_s is not None and request.lifetime_s is not None and request.lifetime_s > quota.lifetime_s:
        return Limit.LIFETIME_S
    if quota.gpu_seconds_per_day == 0:
        return Limit.GPU_SECONDS_PER_DAY
    return _exceeded(need, quota)


def _exceeded(need: Need, quota: Quota) -> Limit | None:
    if quota.gpus is not None and need.gpus > quota.gpus:
        return Limit.GPUS
    if quota.memory is not None and need.memory > quota.memory:
        return Limit.MEMORY
    return None


def stands_in_the_way(
    request: LeaseRequest,
    holder: Holder,
    need: Need,
    quotas: Mapping[str, Quota],
    held: Mapping[str, Need],
    ahead: Mapping[str, Need],
    spent: Callable[[str], float],
) -> Hindrance | None:
    """The quota that does not allow the request now. For each subject: ``held`` is what it has, ``ahead`` what its earlier waiters want,
    ``spent`` gives the GPU-seconds it has used today, running leases included.
    """
    for subject, quota in applying(quotas, holder):
        has, wanted = held.get(subject, NOTHING), ahead.get(subject, NOTHING)
        limit = _exceeded(has + wanted + need, quota)
        if limit is None and quota.gpu_seconds_per_day is not None and spent(subject) >= quota.gpu_seconds_per_day:
            limit = Limit.GPU_SECONDS_PER_DAY
        if limit is not None:
            return Hindrance(subject, limit, quota, request, need, has, wanted)
    return None


def frees_at(hindrance: Hindrance, leases: Iterable[Lease], now: float) -> float | None:
    """Unix seconds at which the quota will be out of the way by itself; None: nobody knows, it takes a lease's end or an earlier waiter's.

    ``leases``: those of the quota's subject.
    """
    if hindrance.limit is Limit.GPU_SECONDS_PER_DAY:
        return midnight(now) + DAY_S
    ending = [(lease.expires_at, lease) for lease in leases if lease.expires_at is not None]
    left = hindrance.held + hindrance.ahead + hindrance.need
    for expires_at, lease in sorted(ending, key=lambda pair: pair[0]):
        left -= need_of_lease(lease)
        if _exceeded(left, hindrance.quota) is None:
            return expires_at
    return None


def explain(hindrance: Hindrance, leases: Iterable[Lease], now: float) -> str:
    """The quota that is in the way now, and when it frees up."""
    at = frees_at(hindrance, leases, now)
    if hindrance.limit is Limit.GPU_SECONDS_PER_DAY:
        return f"{hindrance}; the next day begins at {clock(midnight(now) + DAY_S)}"
    when = f"at {clock(at)} at the latest" if at is not None else "when one of their leases ends"
    return f"{hindrance}; it frees up {when}"


def lifetime(request: LeaseRequest, holder: Holder, quotas: Mapping[str, Quota]) -> float | None:
    """Seconds that the lease may live: what was asked for, and no longer than any quota allows."""
    limits = [request.lifetime_s, *(quota.lifetime_s for _, quota in applying(quotas, holder))]
    return min((limit for limit in limits if limit is not None), default=None)


def _reason(hindrance: Hindrance) -> str:
    """``2 GPUs at once: 1.5 are held, this takes 1``."""
    quota, request, need = hindrance.quota, hindrance.request, hindrance.need
    match hindrance.limit:
        case Limit.GPUS:
            parts = [_gpus(part.gpus) for part in (hindrance.held, hindrance.ahead, need)]
            return f"{_gpus(quota.gpus or 0)} at once: {_sum(parts, hindrance)}"
        case Limit.MEMORY:
            parts = [format_size(part.memory) for part in (hindrance.held, hindrance.ahead, need)]
            return f"{format_size(quota.memory or 0)} at once: {_sum(parts, hindrance)}"
        case Limit.GPU_SECONDS_PER_DAY:
            return f"{(quota.gpu_seconds_per_day or 0) / 3600:.4g} GPU-hours a day, and they are used up"
        case Limit.LIFETIME_S:
            return f"leases of at most {quota.lifetime_s:g} seconds, not {request.lifetime_s:g}"
        case Limit.PRIORITY_MAX:
            return f"priorities up to {quota.priority_max}, not {request.priority}"


def _sum(parts: Sequence[str], hindrance: Hindrance) -> str:
    held, ahead, need = parts
    said = [f"{held} held"] if hindrance.held != NOTHING else []
    said += [f"{ahead} wanted by earlier requests"] if hindrance.ahead != NOTHING else []
    return ", ".join([*said, f"this takes {need}"])


def _shown(subject: str) -> str:
    kind, _, name = subject.partition(":")
    return f"{kind} {name or '(without a name)'}"


def _gpus(count: Fraction | float) -> str:
    return "1 GPU" if count == 1 else f"{float(count):.4g} GPUs"


def clock(at: float) -> str:
    """A moment for people; in UTC, which is the same for client and appliance."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
