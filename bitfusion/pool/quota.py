"""Quotas: what users and groups may have, which of them stands in a request's way, and when it frees up. No clock: the time is an argument.

A quota belongs to a subject: ``user:alice``, ``group:staff``, or ``user:*`` and ``group:*`` for everybody who has none of their own
(each of them has that much, not all together). Both the user's and the group's apply.

GPUs are counted by what a lease withholds from others: of each GPU the part of its memory, all of one that it is alone on. So quotas
can be handed out until they add up to the appliance, and 64 leases of 1/64 are one GPU, of which an hour is one GPU-hour. A request is
counted, before it is placed, as on the GPUs where it would take the most of those it could be given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction

from bitfusion.errors import ConfigError
from bitfusion.pool.lease import Lease, worth
from bitfusion.pool.placement import DeviceView, eligible
from bitfusion.pool.plain import known
from bitfusion.pool.request import LIFETIME_MAX_S, PRIORITY_MAX, Holder, LeaseRequest
from bitfusion.pool.usage import DAY_S, Usage, gpu_seconds, midnight
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


@dataclass(frozen=True, slots=True)
class Hindrance:
    """A quota that stands in the way."""

    subject: str
    reason: str
    frees_at: float | None = None
    """Unix seconds at which it will be out of the way by itself; None: when something ends that has no time of its own, or never."""

    def __str__(self) -> str:
        return self.reason


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
    return Need(lease.worth, sum(share.device.memory_size if alone else share.memory for share in lease.shares))


def ceiling(request: LeaseRequest, holder: Holder, need: Need, quotas: Mapping[str, Quota]) -> Hindrance | None:
    """The quota that could never allow the request, whatever ends."""
    for subject, quota in applying(quotas, holder):
        for reason in _ceilings(request, need, quota):
            return Hindrance(subject, f"the quota of {_shown(subject)} {reason}")
    return None


def _ceilings(request: LeaseRequest, need: Need, quota: Quota) -> Iterator[str]:
    if quota.priority_max is not None and request.priority > quota.priority_max:
        yield f"allows priorities up to {quota.priority_max}, not {request.priority}"
    if quota.lifetime_s is not None and request.lifetime_s is not None and request.lifetime_s > quota.lifetime_s:
        yield f"allows leases of at most {quota.lifetime_s:g} seconds, not {request.lifetime_s:g}"
    if quota.gpus is not None and need.gpus > quota.gpus:
        yield f"allows {_gpus(quota.gpus)} at once, {request} may take {_gpus(need.gpus)}"
    if quota.memory is not None and need.memory > quota.memory:
        yield f"allows {format_size(quota.memory)} at once, {request} may take {format_size(need.memory)}"
    if quota.gpu_seconds_per_day == 0:
        yield "allows no GPU time"


def stands_in_the_way(
    request: LeaseRequest,
    holder: Holder,
    need: Need,
    quotas: Mapping[str, Quota],
    held: Mapping[str, Need],
    leases: Iterable[Lease],
    usage: Usage,
    now: float,
) -> Hindrance | None:
    """The quota that does not allow the request now. ``held``: what each subject has already; ``leases``: those that are running."""
    for subject, quota in applying(quotas, holder):
        has = held.get(subject, Need())
        if quota.gpus is not None and has.gpus + need.gpus > quota.gpus:
            reason = f"allows {_gpus(quota.gpus)} at once, {_gpus(has.gpus)} are held and {request} may take {_gpus(need.gpus)}"
        elif quota.memory is not None and has.memory + need.memory > quota.memory:
            reason = (
                f"allows {format_size(quota.memory)} at once, {format_size(has.memory)} are held and {request} may take "
                f"{format_size(need.memory)}"
            )
        elif quota.gpu_seconds_per_day is not None and spent(subject, leases, usage, now) >= quota.gpu_seconds_per_day:
            at = midnight(now) + DAY_S
            reason = (
                f"of {quota.gpu_seconds_per_day / 3600:g} GPU-hours a day is used up; it starts again at {_clock(at)}"
            )
            return Hindrance(subject, f"the quota of {_shown(subject)} {reason}", at)
        else:
            continue
        frees_at = _frees_at(subject, quota, has, need, leases)
        when = "when a lease of theirs ends" if frees_at is None else f"at {_clock(frees_at)} at the latest"
        return Hindrance(subject, f"the quota of {_shown(subject)} {reason}; it frees up {when}", frees_at)
    return None


def spent(subject: str, leases: Iterable[Lease], usage: Usage, now: float) -> float:
    """GPU-seconds of the day so far, running leases included."""
    since = midnight(now)
    running = sum(gpu_seconds(lease, since, now) for lease in leases if subject in subjects(lease.holder))
    return usage.spent(subject, now) + running


def _frees_at(subject: str, quota: Quota, has: Need, need: Need, leases: Iterable[Lease]) -> float | None:
    """When enough of the subject's leases will have reached their own ends."""
    ending = [(lease.expires_at, lease) for lease in leases if subject in subjects(lease.holder)]
    for expires_at, lease in sorted(((at, lease) for at, lease in ending if at is not None), key=lambda pair: pair[0]):
        has -= need_of_lease(lease)
        if (quota.gpus is None or has.gpus + need.gpus <= quota.gpus) and (
            quota.memory is None or has.memory + need.memory <= quota.memory
        ):
            return expires_at
    return None


def lifetime(request: LeaseRequest, holder: Holder, quotas: Mapping[str, Quota]) -> float | None:
    """Seconds that the lease may live: what was asked for, and no longer than any quota allows."""
    limits = [request.lifetime_s, *(quota.lifetime_s for _, quota in applying(quotas, holder))]
    least = min((limit for limit in limits if limit is not None), default=math.inf)
    return None if least == math.inf else least


def _shown(subject: str) -> str:
    kind, _, name = subject.partition(":")
    return f"{kind} {name or '(without a name)'}"


def _gpus(count: Fraction | float) -> str:
    return "1 GPU" if count == 1 else f"{float(count):.4g} GPUs"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
