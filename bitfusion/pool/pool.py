"""The pool of one appliance: admits, grants, queues, releases. The sum of a GPU's leases never exceeds its memory.

One object in one process, without an await between the look and the grant, decides; so admission is exact. It has no clock and
does no I/O: times are arguments (Unix seconds), and ``server/leases.py`` gives it both. Who changes something calls ``settle`` afterwards.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from bitfusion.errors import CapacityError, ConfigError, QuotaError
from bitfusion.limits import MEMORY_CHUNK_SIZE
from bitfusion.pool.lease import Lease, LeaseEvent, LeaseState, Share, apply
from bitfusion.pool.placement import DeviceView, Refusal, Strategy, choose, refusal
from bitfusion.pool.queue import Claims, Queue, Waiter
from bitfusion.pool.quota import (
    Hindrance,
    Need,
    Quota,
    applying,
    ceiling,
    check_subject,
    lifetime,
    need_of,
    need_of_lease,
    stands_in_the_way,
    subjects,
)
from bitfusion.pool.request import Holder, LeaseRequest
from bitfusion.pool.room import Room
from bitfusion.pool.usage import Usage
from bitfusion.types import DeviceSpec, ServerSpec, format_size

OVERSUBSCRIBE_MAX = 16.0
"""Memory beyond the GPU's own lies in host memory; more than this is a slip."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where somebody stands in the queue."""

    position: int
    """1 for the next."""
    count: int
    """How many wait."""
    reasons: tuple[tuple[str, str], ...]
    """For each GPU its name and why not; an empty reason: that one would do. Where a quota stands in the way only ``("quota", why)``."""


class Pool:
    """Leases on ``devices``, whose UUIDs all differ. A lease takes its memory when it is granted and gives it back when it is released."""

    def __init__(
        self,
        devices: Sequence[DeviceSpec],
        strategy: Strategy = Strategy.PACK,
        oversubscribe: float = 1.0,
        quotas: Mapping[str, Quota] | None = None,
        server: ServerSpec | None = None,
    ) -> None:
        if not 1 <= oversubscribe <= OVERSUBSCRIBE_MAX:  # NaN compares false
            raise ConfigError(f"oversubscribe must be 1 to {OVERSUBSCRIBE_MAX:g}, not {oversubscribe}")
        self.strategy = Strategy(strategy)
        self._rooms = {device.uuid: Room(device, server or ServerSpec(), oversubscribe) for device in devices}
        if len(self._rooms) < len(devices):
            raise ConfigError("two of the devices have the same UUID")
        self._leases: dict[str, Lease] = {}
        self._queue = Queue()
        self._number = 0
        self._quotas: dict[str, Quota] = {check_subject(key): quota for key, quota in (quotas or {}).items()}
        self._held: dict[str, Need] = {}
        self._usage = Usage()

    # what there is

    @property
    def leases(self) -> Mapping[str, Lease]:
        """The leases that hold memory, by id."""
        return MappingProxyType(self._leases)

    @property
    def waiters(self) -> tuple[Waiter, ...]:
        """The queue, in its order."""
        return tuple(self._queue)

    @property
    def quotas(self) -> Mapping[str, Quota]:
        """By subject: ``user:alice``, ``group:staff``, ``user:*``."""
        return MappingProxyType(self._quotas)

    def view(self) -> tuple[DeviceView, ...]:
        """Every GPU with what its leases hold, as placement sees it."""
        return tuple(room.view for room in self._rooms.values())

    # asking

    def ask(
        self, request: LeaseRequest, holder: Holder, now: float, held: bool = True, wait: bool = True
    ) -> Lease | Waiter:
        """A lease if one can be granted now, else a place in the queue.

        CapacityError and QuotaError where that can never be, or must not wait; they give the reason for every GPU, and what would fit.
        """
        view = self.view()
        need = need_of(request, view) if self._quotas else Need()
        self._check_possible(request, holder, view, need)
        waiter = Waiter(secrets.token_hex(8), secrets.token_urlsafe(32), holder, request, now, held, self._number)
        self._number += 1
        claims, ahead = self._gather(self._queue.before(waiter))
        hindrance = self._hindrance(waiter, ahead, now)
        shares = None if hindrance else choose(request, view, self.strategy, claims.allowance)
        if shares is not None:
            return self._grant(waiter, shares, now)
        if not wait:
            if hindrance:
                raise QuotaError(f"{hindrance}")
            raise _capacity_error(request, refusal(request, view, claims.allowance))
        self._queue.add(waiter)
        return waiter

    def _check_possible(self, request: LeaseRequest, holder: Holder, view: Sequence[DeviceView], need: Need) -> None:
        refused = refusal(request, view)
        if not refused.possible:
            raise _capacity_error(request, refused)
        if hindrance := ceiling(request, holder, need, self._quotas):
            raise QuotaError(f"{hindrance}")

    def settle(self, now: float) -> list[tuple[Waiter, Lease]]:
        """Grant all that can be granted now, in the queue's order."""
        granted = []
        claims, ahead = Claims(tuple(self._rooms.values())), dict[str, Need]()
        for waiter in self._queue:
            if self._hindrance(waiter, ahead, now):
                self._claim_quota(waiter, ahead)
                continue
            shares = choose(waiter.request, self.view(), self.strategy, claims.allowance)
            if shares is None:
                claims.add(waiter.request)
                self._claim_quota(waiter, ahead)
            else:
                self._queue.remove(waiter.id)
                granted.append((waiter, self._grant(waiter, shares, now)))
                claims.grant(shares, waiter.request)
        return granted

    def cancel(self, waiter_id: str) -> Waiter:
        """Somebody does not wait any more; KeyError if nobody of that id waits."""
        return self._queue.remove(waiter_id)

    def position(self, waiter_id: str, now: float) -> Standing:
        """Where a waiter stands and why; KeyError if nobody of that id waits."""
        position = self._queue.position(waiter_id)
        waiter = self.waiters[position - 1]
        claims, ahead = self._gather(self._queue.before(waiter))
        if hindrance := self._hindrance(waiter, ahead, now):
            return Standing(position, len(self._queue), (("quota", str(hindrance)),))
        return Standing(position, len(self._queue), refusal(waiter.request, self.view(), claims.allowance).reasons)

    def _gather(self, waiters: Iterable[Waiter], now: float = 0.0) -> tuple[Claims, dict[str, Need]]:
        claims, ahead = Claims(tuple(self._rooms.values())), dict[str, Need]()
        for waiter in waiters:
            if not self._hindrance(waiter, ahead, now):
                claims.add(waiter.request)
            self._claim_quota(waiter, ahead)
        return claims, ahead

    def _hindrance(self, waiter: Waiter, ahead: Mapping[str, Need], now: float) -> Hindrance | None:
        if not self._quotas:
            return None
        held = {
            subject: self._held.get(subject, Need()) + ahead.get(subject, Need()) for subject in subjects(waiter.holder)
        }
        need = need_of(waiter.request, self.view())
        return stands_in_the_way(
            waiter.request, waiter.holder, need, self._quotas, held, self._leases.values(), self._usage, now
        )

    def _claim_quota(self, waiter: Waiter, ahead: dict[str, Need]) -> None:
        for subject, _ in applying(self._quotas, waiter.holder):
            ahead[subject] = ahead.get(subject, Need()) + need_of(waiter.request, self.view())

    def _grant(self, waiter: Waiter, shares: tuple[Share, ...], now: float) -> Lease:
        limit = lifetime(waiter.request, waiter.holder, self._quotas)
        lease = Lease(
            waiter.id,
            waiter.key,
            waiter.holder,
            waiter.request,
            shares,
            asked_at=waiter.asked_at,
            granted_at=now,
            expires_at=None if limit is None else now + limit,
            held=waiter.held,
        )
        self._take(lease)
        return lease

    def _take(self, lease: Lease) -> None:
        for share in lease.shares:
            self._rooms[share.device.uuid].add(lease.id, share.memory, lease.request.exclusive)
        self._leases[lease.id] = lease
        for subject in subjects(lease.holder):
            self._held[subject] = self._held.get(subject, Need()) + need_of_lease(lease)

    # the life of a lease

    def advance(self, lease_id: str, event: LeaseEvent) -> Lease:
        """Move a lease along its life; KeyError for a lease that holds nothing (any more)."""
        lease = self._leases[lease_id]
        self._leases[lease_id] = lease = replace(lease, state=apply(lease.state, event))
        return lease

    def attach(self, lease_id: str) -> Lease:
        """A session comes to a lease; KeyError for a lease that holds nothing, LocalProtocolError for one that is ending."""
        lease = self._leases[lease_id]
        if not lease.sessions or lease.state is not LeaseState.ACTIVE:
            lease = self.advance(lease_id, LeaseEvent.START)
        self._leases[lease_id] = lease = replace(lease, sessions=lease.sessions + 1)
        return lease

    def detach(self, lease_id: str) -> Lease:
        """A session has gone from a lease; KeyError for a lease that holds nothing."""
        lease = self._leases[lease_id]
        assert lease.sessions > 0, "a session detaches once"
        self._leases[lease_id] = lease = replace(lease, sessions=lease.sessions - 1)
        return lease if lease.sessions else self.advance(lease_id, LeaseEvent.STOP)

    def release(self, lease_id: str, now: float | None = None) -> Lease:
        """Give a lease's memory back; KeyError for a lease that holds nothing (any more). Without ``now`` its GPU-seconds do not count."""
        lease = self.advance(lease_id, LeaseEvent.RELEASE)
        del self._leases[lease_id]
        for share in lease.shares:
            self._rooms[share.device.uuid].remove(lease_id)
        for subject in subjects(lease.holder):
            self._held[subject] -= need_of_lease(lease)
            if not self._held[subject].memory:
                del self._held[subject]
        if now is not None:
            self._usage.add(lease, subjects(lease.holder), now)
        return lease

    def expired(self, now: float) -> list[Lease]:
        """Leases whose time is over and that are not ending yet."""
        return [
            lease
            for lease in self._leases.values()
            if lease.expires_at is not None and lease.expires_at <= now and lease.state is not LeaseState.ENDING
        ]

    # settings and restarts

    def set_quota(self, subject: str, quota: Quota | None) -> None:
        """From now on; None: no limit. What is granted already stays. ConfigError for a subject that nobody could be."""
        check_subject(subject)
        if quota is None:
            self._quotas.pop(subject, None)
        else:
            self._quotas[subject] = quota

    def restore(
        self,
        leases: Iterable[Lease],
        waiters: Iterable[Waiter] = (),
        spent: Mapping[str, float] | None = None,
        now: float = 0.0,
    ) -> list[tuple[Lease, str]]:
        """After a restart: what was there before. Gives the leases that cannot be, with the reason: a GPU that is gone or smaller now.

        ``spent``: the GPU-seconds of today, by subject, of leases that have ended.
        """
        lost = []
        for lease in leases:
            if why := self._why_lost(lease):
                lost.append((lease, why))
            else:
                self._take(self._at_home(lease))
        for waiter in waiters:
            self._queue.add(waiter)
            self._number = max(self._number, waiter.number + 1)
        self._usage = Usage(spent, now)
        return lost

    def _why_lost(self, lease: Lease) -> str | None:
        for share in lease.shares:
            room = self._rooms.get(share.device.uuid)
            if room is None:
                return f"{share.device.name} ({share.device.uuid}) is not here any more"
            if share.memory > room.view.free or (lease.request.exclusive and room.view.lease_count):
                return f"{share.device.name} ({share.device.uuid}) has no room for it any more"
        return None

    def _at_home(self, lease: Lease) -> Lease:
        shares = (Share(self._rooms[share.device.uuid].view.device, share.memory) for share in lease.shares)
        return replace(lease, shares=tuple(shares))

    def admit(self, request: LeaseRequest) -> Lease:
        """A new lease of one GPU at once, of nobody, for a session that cannot wait. CapacityError."""
        if request.gpus > 1:
            raise CapacityError(
                f"{request.gpus} GPUs were asked for; a session has 1 GPU in this version, open one session per GPU"
            )
        lease = self.ask(request, Holder(), math.nan, wait=False)
        assert isinstance(lease, Lease)
        return lease


def _capacity_error(request: LeaseRequest, refused: Refusal) -> CapacityError:
    where = "no GPU has room for" if request.gpus == 1 else "there is no room for"
    return CapacityError(f"{where} {request}: {refused}. {_advice(request, refused)}", free_max=refused.free_max)


def _advice(request: LeaseRequest, refused: Refusal) -> str:
    if refused.free_max < MEMORY_CHUNK_SIZE:
        return "Nothing is free now; try again when a lease has ended"
    where = "one GPU" if request.gpus == 1 else f"each of {request.gpus} GPUs"
    return f"Up to {format_size(refused.free_max)} on {where} would fit now"
