"""The leases of an appliance: the pool with a clock. Grants, lets wait, and ends them in time.

Owns when a lease ends and why, and that it is free only once its last worker is gone. Where a lease goes and who is next is the pool's;
sockets and processes are the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from bitfusion.errors import CapacityError, LeaseError
from bitfusion.pool.lease import Lease, LeaseEvent, LeaseState
from bitfusion.pool.ledger import Ledger
from bitfusion.pool.pool import Pool
from bitfusion.pool.queue import Waiter
from bitfusion.pool.request import Holder, LeaseRequest
from bitfusion.pool.store import Store
from bitfusion.server.held import Held, SessionRow
from bitfusion.server.ledgers import Ledgers
from bitfusion.session.waiting import Waiting

log = logging.getLogger(__name__)

WAITER_COUNT_MAX = 4096
"""Requests in the queue; more are refused. Each is a connection, and a place that is told."""

REASON_COUNT_MAX = 16
"""Waiters at the head of the queue that are told the reason for each GPU: working them out takes as long as the queue before them."""

TELL_DELAY_S = 0.02
"""After a change of the queue: several changes at once are told as one."""

TELL_FACTOR = 10
"""Telling all waiters takes at most this part of the time, however many there are."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How long leases may live and be idle, in seconds; None: for ever."""

    lifetime_s: float | None = None
    idle_warning_s: float | None = None
    idle_timeout_s: float | None = None


@dataclass(slots=True)
class Wait:
    """A request in the queue: who is to be told, and what it was told last."""

    waiter: Waiter
    granted: asyncio.Future[Held]
    on_place: Callable[[Waiting], None]
    told: Waiting | None = None


class Leases:
    """All leases and waiters of one appliance."""

    def __init__(
        self,
        pool: Pool,
        ledgers: Ledgers,
        terms: Terms | None = None,
        store: Store | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.pool = pool
        self.ledgers = ledgers
        self.store = store or Store(None)
        self.terms = terms or Terms()
        self._clock = clock
        self._held: dict[str, Held] = {}
        self._waiting: dict[str, Wait] = {}
        self._telling: asyncio.TimerHandle | None = None
        self._turning: asyncio.TimerHandle | None = None
        """The moment at which somebody's GPU-hours begin again."""
        self._tell_delay_s = TELL_DELAY_S

    def restore(self) -> None:
        """What was there before a restart: quotas, the GPU-seconds of today, leases that are nobody's connection's.

        What was held by a connection has ended with it, and who waited has hung up.
        """
        now = self._clock()
        for subject, quota in self.store.quotas().items():
            self.pool.set_quota(subject, quota)
        kept: list[Lease] = []
        gone: list[Lease] = []
        for lease in self.store.leases():
            over = lease.held or (lease.expires_at is not None and lease.expires_at <= now)
            (gone if over else kept).append(replace(lease, state=LeaseState.GRANTED, sessions=0))
        for waiter in self.store.waiters():
            self.store.waiter_removed(waiter.id)
        for lease in gone:
            self.store.lease_ended(lease, "the appliance was restarted", 0.0, now)
        for lost, why in self.pool.restore(kept, (), self.store.spent(now), now):
            log.warning("! lease %s cannot be restored: %s", lost.id, why)
            if isinstance(lost, Lease):
                self.store.lease_ended(lost, f"the appliance was restarted, and {why}", 0.0, now)
        for lease in self.pool.leases.values():
            self._begin(lease)
            log.info("lease %s: restored", lease.id)

    # asking

    async def ask(
        self,
        request: LeaseRequest,
        holder: Holder,
        wait_s: float | None,
        on_place: Callable[[Waiting], None],
        *,
        held: bool = True,
    ) -> Held:
        """A lease, perhaps after a time in the queue; who is cancelled is gone from it. CapacityError, QuotaError."""
        if self.terms.lifetime_s is not None:
            request = replace(request, lifetime_s=min(request.lifetime_s or math.inf, self.terms.lifetime_s))
        may_wait = wait_s != 0 and len(self._waiting) < WAITER_COUNT_MAX
        asked = self.pool.ask(request, holder, self._clock(), held=held, wait=may_wait)
        if isinstance(asked, Lease):
            return self._granted(asked)
        return await self._wait(asked, wait_s, on_place)

    async def _wait(self, waiter: Waiter, wait_s: float | None, on_place: Callable[[Waiting], None]) -> Held:
        log.info("request %s: %s asks for %s and waits", waiter.id, waiter.holder, waiter.request)
        self.store.waiter_added(waiter)
        wait = self._waiting[waiter.id] = Wait(waiter, asyncio.get_running_loop().create_future(), on_place)
        try:
            self._tell_one(wait, self.pool.position(waiter.id, self._clock()).position)
            self._tell_later()
            async with asyncio.timeout(wait_s):
                return await asyncio.shield(wait.granted)
        except TimeoutError:
            if wait.granted.done():  # in the same moment
                return wait.granted.result()
            raise CapacityError(f"no room came within {wait_s:g} s: {self._why(waiter)}") from None
        except BaseException:
            if wait.granted.done() and wait.granted.exception() is None:  # and nobody wants it any more
                self.end(wait.granted.result(), "its holder went away")
            raise
        finally:
            self._forget(waiter)

    def _forget(self, waiter: Waiter) -> None:
        """It does not wait any more; if it gave up, others may pass."""
        if self._waiting.pop(waiter.id, None) is not None:
            self.pool.cancel(waiter.id)
            self.store.waiter_removed(waiter.id)
            log.info("request %s: gone from the queue", waiter.id)
            self.settle()

    def _why(self, waiter: Waiter) -> str:
        standing = self.pool.position(waiter.id, self._clock())
        reasons = "; ".join(f"{name}: {why}" for name, why in standing.reasons if why)
        return f"number {standing.position} of {standing.count} in the queue; {reasons or 'others were first'}"

    def settle(self) -> None:
        """Grant all that can be granted now; called after every change."""
        for waiter, lease in self.pool.settle(self._clock()):
            wait = self._waiting.pop(waiter.id)
            try:
                wait.granted.set_result(self._granted(lease))
            except CapacityError as error:
                wait.granted.set_exception(error)
            else:
                self._say(wait, Waiting(0, len(self._waiting)))
        self._tell_later()

    def _granted(self, lease: Lease) -> Held:
        self.store.lease_granted(lease)
        return self._begin(lease)

    def _begin(self, lease: Lease) -> Held:
        held = self._held[lease.id] = Held(lease.id)
        try:
            self.ledgers.open(lease, weight=lease.request.weight, cap=lease.request.cap)
        except BaseException:
            self.end(held, "it could not be kept")
            raise
        log.info("lease %s: %s has %s", lease.id, lease.holder, lease)
        if lease.expires_at is not None:
            left_s = max(lease.expires_at - self._clock(), 0)
            held.lifetime = asyncio.get_running_loop().call_later(left_s, self.end, held, "its time was over")
        self._watch_idle(held)
        return held

    # telling those who wait

    def _tell_later(self) -> None:
        if self._telling is None and self._waiting:
            self._telling = asyncio.get_running_loop().call_later(self._tell_delay_s, self._tell)

    def _tell(self) -> None:
        """Tell everybody who waits where they are now."""
        self._telling, started = None, time.monotonic()
        for position, waiter in enumerate(self.pool.waiters, 1):
            if wait := self._waiting.get(waiter.id):
                self._tell_one(wait, position)
        self._settle_in_time()
        self._tell_delay_s = max(TELL_DELAY_S, TELL_FACTOR * (time.monotonic() - started))

    def _settle_in_time(self) -> None:
        """Time alone may let somebody go on: look again then."""
        if self._turning is not None:
            self._turning.cancel()
            self._turning = None
        now = self._clock()
        at = self.pool.settle_at(now)
        if at is not None:
            self._turning = asyncio.get_running_loop().call_later(max(at - now, 0), self.settle)

    def _tell_one(self, wait: Wait, position: int) -> None:
        count = len(self._waiting)
        if position > REASON_COUNT_MAX:
            place = Waiting(position, count, f"{position - 1} requests are before it")
        else:
            reasons = self.pool.position(wait.waiter.id, self._clock()).reasons
            why = next((text for _, text in reasons if text), "others are before it")
            place = Waiting(position, count, why, reasons)
        self._say(wait, place)

    def _say(self, wait: Wait, place: Waiting) -> None:
        if place != wait.told:
            wait.told = place
            wait.on_place(place)

    def place_of(self, waiter: Waiter) -> Waiting:
        """What it was told last."""
        wait = self._waiting.get(waiter.id)
        return (wait.told if wait else None) or Waiting(0, len(self._waiting))

    # using

    @property
    def held(self) -> tuple[Held, ...]:
        """All leases, those that are ending too."""
        return tuple(self._held.values())

    def lease(self, held: Held) -> Lease:
        """As the pool has it; KeyError once it is free."""
        return self.pool.leases[held.id]

    def find(self, lease_id: str, key: str) -> Held:
        """The lease of that id, if that is its key. LeaseError: which of the two is wrong is not told."""
        lease, held = self.pool.leases.get(lease_id), self._held.get(lease_id)
        if lease is None or held is None or not lease.admits(key) or held.ending.is_set():
            raise LeaseError(
                f"there is no lease {lease_id[:40]!r} with that key here: it may have ended, or be another server's; ask for a new one"
            )
        return held

    @contextlib.contextmanager
    def session(self, held: Held, gpu: int, session_id: str, holder: Holder) -> Iterator[tuple[Ledger, SessionRow]]:
        """A session on GPU ``gpu`` of the lease, for the block. CapacityError if the GPU has too many."""
        with contextlib.ExitStack() as stack:
            ledger, row = stack.enter_context(self.ledgers.session(held.id, gpu))
            self.pool.attach(held.id)
            held.used_at = time.monotonic()
            found = held.sessions[session_id] = SessionRow(session_id, gpu, row, holder)
            try:
                yield ledger, found
            finally:
                del held.sessions[session_id]
                held.used_at = time.monotonic()
                self.pool.detach(held.id)
                stack.close()
                if held.ending.is_set() and not held.sessions:
                    self._free(held)

    # ends

    def end(self, held: Held, reason: str) -> None:
        """The lease is over: its sessions are told to end, and it is free when the last has. Safe to call again."""
        if held.ending.is_set():
            return
        log.info("lease %s: ends: %s", held.id, reason)
        held.reason = reason
        held.cancel_timers()
        self.pool.advance(held.id, LeaseEvent.END)
        held.ending.set()
        if not held.sessions:
            self._free(held)

    def _free(self, held: Held) -> None:
        now = self._clock()
        device_s = self.ledgers.close(held.id)
        lease = self.pool.release(held.id, now)
        del self._held[held.id]
        self.store.lease_ended(lease, held.reason, device_s, now)
        held.free.set()
        log.info("lease %s: released", held.id)
        self.settle()

    def _watch_idle(self, held: Held) -> None:
        """Look again when the lease could next have been idle for too long."""
        warning_s, timeout_s = self.terms.idle_warning_s, self.terms.idle_timeout_s
        limits = [limit for limit in (warning_s, timeout_s) if limit is not None]
        if not limits or held.ending.is_set():
            return
        idle_s, state = self.idle_s(held), self.lease(held).state
        if timeout_s is not None and idle_s >= timeout_s:
            self.end(held, f"it was idle for {idle_s:.0f} s")
            return
        if warning_s is not None and idle_s >= warning_s:
            if state is not LeaseState.WARNED:
                log.warning("! lease %s: idle for %.0f s", held.id, idle_s)
                self.pool.advance(held.id, LeaseEvent.WARN)
        elif state is LeaseState.WARNED and held.sessions:
            self.pool.advance(held.id, LeaseEvent.WAKE)
        later = [limit - idle_s for limit in limits if limit > idle_s]
        delay_s = min(later, default=min(limits))
        held.idle = asyncio.get_running_loop().call_later(max(delay_s, TELL_DELAY_S), self._watch_idle, held)

    def idle_s(self, held: Held) -> float:
        """Seconds since the lease's sessions last did something, by the GPUs' ledgers, or since the last one ended."""
        lease = self.lease(held)
        busy = min(self.ledgers.lease_usage(held.id, gpu).idle_s for gpu in range(len(lease.shares)))
        return min(busy, time.monotonic() - held.used_at)
