"""The accounts of users and groups: their quotas, what each holds and has used today. Owns no rule: those are in quota.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from bitfusion.pool.lease import Lease
from bitfusion.pool.placement import DeviceView
from bitfusion.pool.queue import Waiter
from bitfusion.pool.quota import (
    NOTHING,
    Hindrance,
    Limit,
    Need,
    Quota,
    ceiling,
    check_subject,
    explain,
    lifetime,
    need_of,
    need_of_lease,
    stands_in_the_way,
    subjects,
)
from bitfusion.pool.request import Holder, LeaseRequest
from bitfusion.pool.usage import DAY_S, Usage, gpu_seconds, midnight

NEED_COUNT_MAX = 10_000
"""Requests whose counts are kept: more than wait."""

Ahead = dict[str, Need]
"""What earlier waiters want, by subject."""


class Accounts:
    """One for the pool, whose GPUs are ``view``: which leases there are on them does not matter here."""

    def __init__(self, view: tuple[DeviceView, ...], quotas: Mapping[str, Quota]) -> None:
        self._view = view
        self._quotas = {check_subject(subject): quota for subject, quota in quotas.items()}
        self._held: dict[str, Need] = {}
        self._leases: dict[str, dict[str, Lease]] = {}
        """By subject and id."""
        self._usage = Usage()
        self._needs: dict[LeaseRequest, Need] = {}
        self._spent: tuple[float, dict[str, float]] = (0.0, {})
        """At that moment, by subject: the queue asks for the same again and again."""

    @property
    def quotas(self) -> Mapping[str, Quota]:
        """By subject."""
        return MappingProxyType(self._quotas)

    def set_quota(self, subject: str, quota: Quota | None) -> None:
        """From now on; None: no limit. ConfigError for a subject that nobody could be."""
        check_subject(subject)
        if quota is None:
            self._quotas.pop(subject, None)
        else:
            self._quotas[subject] = quota

    def restore(self, spent: Mapping[str, float], now: float) -> None:
        """What ended leases have used of today."""
        self._usage = Usage(spent, now)
        self._spent = (0.0, {})

    def held(self, subject: str) -> Need:
        """What its leases count."""
        return self._held.get(subject, NOTHING)

    def spent(self, subject: str, now: float) -> float:
        """GPU-seconds of the day so far, running leases included."""
        at, known = self._spent
        if at != now:
            at, known = self._spent = now, {}
        if subject not in known:
            running = self._leases.get(subject, {}).values()
            known[subject] = self._usage.spent(subject, now) + sum(
                gpu_seconds(lease, midnight(now), now) for lease in running
            )
        return known[subject]

    # leases come and go

    def take(self, lease: Lease) -> None:
        """It is granted."""
        for subject in subjects(lease.holder):
            self._held[subject] = self.held(subject) + need_of_lease(lease)
            self._leases.setdefault(subject, {})[lease.id] = lease
        self._spent = (0.0, {})

    def give(self, lease: Lease, now: float | None) -> None:
        """It is released; without ``now`` its GPU-seconds do not count."""
        for subject in subjects(lease.holder):
            del self._leases[subject][lease.id]
            if self._leases[subject]:
                self._held[subject] -= need_of_lease(lease)
            else:
                del self._leases[subject], self._held[subject]
        if now is not None:
            self._usage.add(lease, subjects(lease.holder), now)
        self._spent = (0.0, {})

    # requests

    def lifetime(self, request: LeaseRequest, holder: Holder) -> float | None:
        """Seconds that the lease may live; None: for ever."""
        return lifetime(request, holder, self._quotas)

    def ceiling(self, request: LeaseRequest, holder: Holder) -> Hindrance | None:
        """The quota that could never allow it."""
        return ceiling(request, holder, self._need(request), self._quotas) if self._quotas else None

    def hindrance(self, waiter: Waiter, ahead: Ahead, now: float) -> Hindrance | None:
        """The quota that does not allow it now."""
        if not self._quotas:
            return None
        return stands_in_the_way(
            waiter.request,
            waiter.holder,
            self._need(waiter.request),
            self._quotas,
            self._held,
            ahead,
            lambda subject: self.spent(subject, now),
        )

    def claim(self, waiter: Waiter, hindrance: Hindrance | None, ahead: Ahead) -> None:
        """It waits: nobody behind it may take what it wants of its quotas. Whom a quota of their own stops, holds up none of the group."""
        if not self._quotas:
            return
        user, group = subjects(waiter.holder)
        for subject in (user,) if hindrance is not None and hindrance.subject == user else (user, group):
            ahead[subject] = ahead.get(subject, NOTHING) + self._need(waiter.request)

    def explain(self, hindrance: Hindrance, now: float) -> str:
        """For people."""
        return explain(hindrance, self._leases.get(hindrance.subject, {}).values(), now)

    def turn_at(self, hindrances: Iterable[Hindrance], now: float) -> float | None:
        """Unix seconds at which time alone lets one of them go: when the next day begins, for those who have used up theirs."""
        waits = any(hindrance.limit is Limit.GPU_SECONDS_PER_DAY for hindrance in hindrances)
        return midnight(now) + DAY_S if waits else None

    def _need(self, request: LeaseRequest) -> Need:
        if request not in self._needs:
            if len(self._needs) >= NEED_COUNT_MAX:
                self._needs.clear()
            self._needs[request] = need_of(request, self._view)
        return self._needs[request]
