"""The pool of one appliance: admits, grants, queues, releases. The sum of a GPU's leases never exceeds its memory.

One object in one process, without an await between the look and the grant, decides; so admission is exact. It has no clock and
does no I/O: times are arguments (Unix seconds), and ``server/leases.py`` gives it both. Who changes something calls ``settle`` afterwards.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from bitfusion.errors import CapacityError, ConfigError, QuotaError
from bitfusion.pool.accounts import Accounts, Ahead
from bitfusion.pool.lease import Lease, LeaseEvent, LeaseState, Share, apply
from bitfusion.pool.placement import DeviceView, Refusal, Strategy, choose, possible, refusal
from bitfusion.pool.queue import Claims, Queue, Waiter
from bitfusion.pool.quota import Hindrance, Need, Quota
from bitfusion.pool.request import Holder, LeaseRequest
from bitfusion.pool.room import Room
from bitfusion.types import DeviceSpec, ServerSpec

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
        self._accounts = Accounts(self.view(), quotas or {})

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
        return self._accounts.quotas

    def view(self) -> tuple[DeviceView, ...]:
        """Every GPU with what its leases hold, as placement sees it."""
        return tuple(room.view for room in self._rooms.values())

    def held(self, subject: str) -> Need:
        """GPUs and bytes of a subject's leases, as quotas count them."""
        return self._accounts.held(subject)

    def spent(self, subject: str, now: float) -> float:
        """A subject's GPU-seconds of the day (UTC) so far, running leases included."""
        return self._accounts.spent(subject, now)

    # asking

    def ask(
        self, request: LeaseRequest, holder: Holder, now: float, held: bool = True, wait: bool = True
    ) -> Lease | Waiter:
        """A lease if one can be granted now, else a place in the queue.

        CapacityError and QuotaError where that can never be, or must not wait; they give the reason for every GPU, and what would fit.
        """
        view = self.view()
        if not possible(request, view):
            raise _capacity_error(refusal(request, view))
        if hindrance := self._accounts.ceiling(request, holder):
            raise QuotaError(f"{hindrance}. Ask for less, or have the quota raised")
        waiter = Waiter(secrets.token_hex(8), secrets.token_urlsafe(32), holder, request, now, held, self._number)
        claims, ahead = self._gather(waiter, now)
        hindrance = self._accounts.hindrance(waiter, ahead, now)
        shares = None if hindrance else choose(request, view, self.strategy, claims.allowance)
        if shares is None and not wait:
            if hindrance:
                raise QuotaError(self._accounts.explain(hindrance, now))
            raise _capacity_error(refusal(request, view, claims.allowance))
        self._number += 1
        if shares is not None:
            return self._grant(waiter, shares, now)
        self._queue.add(waiter)
        return waiter

    def settle(self, now: float) -> list[tuple[Waiter, Lease]]:
        """Grant all that can be granted now, in the queue's order."""
        granted: list[tuple[Waiter, Lease]] = []
        claims, ahead = Claims(self._rooms), Ahead()
        refused = set()
        """What did not fit: nothing ends here, so it will not fit for others who ask for the same."""
        for waiter in self._queue:
            hindrance, shares, shape = self._accounts.hindrance(waiter, ahead, now), None, _shape(waiter.request)
            if hindrance is None:
                if shape not in refused:
                    shares = choose(waiter.request, self.view(), self.strategy, claims.allowance)
                if shares is not None:
                    self._queue.remove(waiter.id)
                    granted.append((waiter, self._grant(waiter, shares, now)))
                    claims.grant(waiter.request, shares)
                    continue
                refused.add(shape)
                claims.add(waiter.request)
            self._accounts.claim(waiter, hindrance, ahead)
        return granted

    def settle_at(self, now: float) -> float | None:
        """Unix seconds at which time alone could let somebody go who waits (a day's GPU-hours begin again); None: never."""
        ahead, found = Ahead(), list[Hindrance]()
        for waiter in self._queue:
            if hindrance := self._accounts.hindrance(waiter, ahead, now):
                found.append(hindrance)
        return self._accounts.turn_at(found, now)

    def cancel(self, waiter_id: str) -> Waiter:
        """Somebody does not wait any more; KeyError if nobody of that id waits."""
        return self._queue.remove(waiter_id)

    def position(self, waiter_id: str, now: float) -> Standing:
        """Where a waiter stands and why; KeyError if nobody of that id waits."""
        position = self._queue.position(waiter_id)
        waiter = self._queue[waiter_id]
        claims, ahead = self._gather(waiter, now)
        if hindrance := self._accounts.hindrance(waiter, ahead, now):
            reasons: tuple[tuple[str, str], ...] = (("quota", self._accounts.explain(hindrance, now)),)
        else:
            reasons = refusal(waiter.request, self.view(), claims.allowance).reasons
        return Standing(position, len(self._queue), reasons)

    def _gather(self, waiter: Waiter, now: float) -> tuple[Claims, Ahead]:
        """What those want whose turn is earlier."""
        claims, ahead = Claims(self._rooms), Ahead()
        for earlier in self._queue.before(waiter):
            hindrance = self._accounts.hindrance(earlier, ahead, now)
            if hindrance is None:
                claims.add(earlier.request)
            self._accounts.claim(earlier, hindrance, ahead)
        return claims, ahead

    def _grant(self, waiter: Waiter, shares: tuple[Share, ...], now: float) -> Lease:
        limit = self._accounts.lifetime(waiter.request, waiter.holder)
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
        self._accounts.take(lease)

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
        self._accounts.give(lease, now)
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
        self._accounts.set_quota(subject, quota)

    def restore(
        self,
        leases: Iterable[Lease],
        waiters: Iterable[Waiter] = (),
        spent: Mapping[str, float] | None = None,
        now: float = 0.0,
    ) -> list[tuple[Lease | Waiter, str]]:
        """What was there before a restart, into a pool that nobody has asked yet. Gives those that cannot be, with the reason: a GPU is
        gone, or smaller now.

        ``spent``: the GPU-seconds of today, by subject, of leases that have ended. Sessions are counted as they were: ``detach`` those
        that did not survive.
        """
        lost: list[tuple[Lease | Waiter, str]] = []
        for lease in leases:
            if why := self._why_lost(lease):
                lost.append((lease, why))
            else:
                self._take(self._at_home(lease))
        for waiter in waiters:
            if waiter.id in self._leases or waiter.id in self._queue:
                lost.append((waiter, "there is a lease or another waiter of its id"))
            elif not possible(waiter.request, self.view()):
                lost.append((waiter, f"{refusal(waiter.request, self.view())}"))
            else:
                self._queue.add(waiter)
            self._number = max(self._number, waiter.number + 1)
        self._accounts.restore(spent or {}, now)
        return lost

    def _why_lost(self, lease: Lease) -> str | None:
        if lease.id in self._leases or lease.state is LeaseState.RELEASED:
            return "it is there twice, or has ended"
        if len({share.device.uuid for share in lease.shares}) < len(lease.shares):
            return "it has a GPU twice"
        for share in lease.shares:
            room = self._rooms.get(share.device.uuid)
            if room is None:
                return f"{share.device.name} ({share.device.uuid}) is not here any more"
            if share.memory > room.view.free or (lease.request.exclusive and room.view.lease_count):
                return f"{share.device.name} ({share.device.uuid}) has no room for it any more"
        return None

    def _at_home(self, lease: Lease) -> Lease:
        """With the GPUs as they are known now."""
        shares = (Share(self._rooms[share.device.uuid].view.device, share.memory) for share in lease.shares)
        return replace(lease, shares=tuple(shares))


def _shape(request: LeaseRequest) -> tuple[object, ...]:
    """All that placement looks at."""
    return request.gpus, request.memory, request.fraction, request.exclusive, request.filters


def _capacity_error(refused: Refusal) -> CapacityError:
    where = "no GPU has room for" if refused.request.gpus == 1 else "there is no room for"
    return CapacityError(f"{where} {refused.request}: {refused}. {refused.advice}", free_max=refused.free_max)
