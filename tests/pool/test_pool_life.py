"""The pool through random lives: requests, releases, crashes, cancels, expiries; what must hold after every step are the invariants."""

from __future__ import annotations

from dataclasses import asdict

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bitfusion.errors import CapacityError, QuotaError
from bitfusion.limits import MEMORY_CHUNK_SIZE
from bitfusion.pool.filters import parse_filter
from bitfusion.pool.lease import Lease, LeaseEvent, LeaseState
from bitfusion.pool.placement import Strategy, choose, possible
from bitfusion.pool.pool import Pool
from bitfusion.pool.queue import Waiter, order
from bitfusion.pool.quota import Quota, need_of_lease
from bitfusion.pool.request import Holder, LeaseRequest
from tests.pool.gpus import gpus

REQUESTS = st.builds(
    LeaseRequest,
    gpus=st.sampled_from([1, 1, 1, 2]),
    memory=st.sampled_from([None, 1, *(count * MEMORY_CHUNK_SIZE for count in range(1, 7))]),
    exclusive=st.sampled_from([False, False, False, True]),
    filters=st.sampled_from([(), (), (parse_filter("device.index>=1"),), (parse_filter("device.memory>=12MiB"),)]),
    priority=st.integers(-1, 1),
    lifetime_s=st.none() | st.sampled_from([1.0, 10.0]),
) | st.builds(LeaseRequest, fraction=st.sampled_from([0.01, 0.25, 0.3, 0.5, 0.7, 1]))
HOLDERS = st.builds(Holder, user=st.sampled_from("ab"), group=st.sampled_from("xy"))
WHICH = st.integers(0, 50)


class Life(RuleBasedStateMachine):
    """One pool, and what we know of it from what it told us."""

    quotas: dict[str, Quota] = {}

    @initialize(
        sizes=st.lists(st.integers(4, 8), min_size=1, max_size=3),
        strategy=st.sampled_from(Strategy),
        oversubscribe=st.sampled_from([1.0, 1.0, 1.5]),
    )
    def begin(self, sizes: list[int], strategy: Strategy, oversubscribe: float) -> None:
        self.devices = gpus(*(size * MEMORY_CHUNK_SIZE + 1 for size in sizes))
        self.settings = {"strategy": strategy, "oversubscribe": oversubscribe, "quotas": self.quotas}
        self.pool = Pool(self.devices, **self.settings)
        self.now = 1000.0
        self.leases: dict[str, Lease] = {}
        self.waiting: dict[str, Waiter] = {}
        self.blockers: dict[str, set[str]] = {}
        """For each waiter the leases that were there before it, and those of earlier waiters: only they may hold it up."""

    # what happens

    @rule(asked=st.lists(st.tuples(REQUESTS, HOLDERS), min_size=1, max_size=5))
    def several_ask(self, asked: list[tuple[LeaseRequest, Holder]]) -> None:
        for request, holder in asked:
            self.ask(request, holder, wait=True)

    @rule(request=REQUESTS, holder=HOLDERS, wait=st.booleans())
    def ask(self, request: LeaseRequest, holder: Holder, wait: bool) -> None:
        try:
            asked = self.pool.ask(request, holder, self.now, wait=wait)
        except (CapacityError, QuotaError) as error:
            refused_for_good = not possible(request, self.pool.view()) or isinstance(error, QuotaError)
            assert refused_for_good or not wait
            return
        if isinstance(asked, Lease):
            self.grant(asked, request.priority)
        else:
            assert wait
            self.waiting[asked.id] = asked
            self.blockers[asked.id] = set(self.leases)
        self.settle()

    @precondition(lambda self: self.leases)
    @rule(which=WHICH)
    def release(self, which: int) -> None:
        self.end(list(self.leases)[which % len(self.leases)])
        self.settle()

    @precondition(lambda self: self.leases)
    @rule(which=WHICH, event=st.sampled_from([LeaseEvent.WARN, LeaseEvent.END]))
    def advance(self, which: int, event: LeaseEvent) -> None:
        lease_id = list(self.leases)[which % len(self.leases)]
        if self.pool.leases[lease_id].state in (LeaseState.GRANTED, LeaseState.ACTIVE):
            self.pool.advance(lease_id, event)

    @precondition(lambda self: self.leases)
    @rule(which=WHICH)
    def attach_and_crash(self, which: int) -> None:
        """Its only session dies, and the lease with it."""
        lease_id = list(self.leases)[which % len(self.leases)]
        if self.pool.leases[lease_id].state is not LeaseState.ENDING:
            self.pool.attach(lease_id)
            self.pool.detach(lease_id)
            self.end(lease_id)
            self.settle()

    @precondition(lambda self: self.waiting)
    @rule(which=WHICH)
    def cancel(self, which: int) -> None:
        waiter_id = list(self.waiting)[which % len(self.waiting)]
        assert self.pool.cancel(waiter_id) == self.waiting.pop(waiter_id)
        self.settle()

    @rule(seconds=st.sampled_from([-5.0, 0.5, 5.0, 86400.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for lease in self.pool.expired(self.now):
            assert lease.expires_at is not None and lease.expires_at <= self.now
            self.end(lease.id)
        self.settle()

    @rule()
    def restart(self) -> None:
        """From plain data, as the store keeps it."""
        plain = [asdict(lease) for lease in self.pool.leases.values()], [asdict(one) for one in self.pool.waiters]
        spent = {subject: self.pool.spent(subject, self.now) for subject in ("user:a", "user:b", "group:x", "group:y")}
        self.pool = Pool(self.devices, **self.settings)
        leases, waiters = map(Lease.from_plain, plain[0]), map(Waiter.from_plain, plain[1])
        assert self.pool.restore(leases, waiters, spent, self.now) == []

    def end(self, lease_id: str) -> None:
        del self.leases[lease_id]
        assert self.pool.release(lease_id, self.now).state is LeaseState.RELEASED
        for blockers in self.blockers.values():
            blockers.discard(lease_id)

    def grant(self, lease: Lease, priority: int) -> None:
        """For waiters of a lower priority it was earlier, even if it came now."""
        self.leases[lease.id] = lease
        for waiter in self.waiting.values():
            if waiter.request.priority < priority:
                self.blockers[waiter.id].add(lease.id)

    def settle(self) -> None:
        granted = self.pool.settle(self.now)
        assert [waiter.id for waiter, _ in granted] == [
            one.id for one in sorted((one for one, _ in granted), key=order)
        ]
        for waiter, lease in granted:
            assert (lease.id, lease.key, lease.request) == (waiter.id, waiter.key, waiter.request)
            assert self.waiting.pop(waiter.id) == waiter
            self.grant(lease, waiter.request.priority)
            for other in self.waiting.values():
                if order(waiter) < order(other):
                    self.blockers[other.id].add(lease.id)
        assert self.pool.settle(self.now) == []

    def teardown(self) -> None:
        """When nobody asks any more and all that is granted ends, everybody is served."""
        if not hasattr(self, "pool"):
            return
        self.now += 86400  # where hours of a day are limited
        self.settle()
        for _ in range(len(self.waiting) + 1):
            for lease_id in list(self.leases):
                self.end(lease_id)
            self.now += 86400
            self.settle()
        assert not self.waiting

    # what must hold

    @invariant()
    def no_gpu_has_more_than_it_can(self) -> None:
        for item in self.pool.view():
            here = [
                (lease, share)
                for lease in self.leases.values()
                for share in lease.shares
                if share.device == item.device
            ]
            assert item.used == sum(share.memory for _, share in here) <= item.capacity
            assert item.lease_count == len(here)
            assert all(0 < share.memory <= item.size and not share.memory % MEMORY_CHUNK_SIZE for _, share in here)
            assert item.exclusive == any(lease.request.exclusive for lease, _ in here)
            assert len(here) == 1 or not item.exclusive

    @invariant()
    def a_lease_has_what_was_asked_for(self) -> None:
        assert set(self.pool.leases) == set(self.leases)
        for lease in self.leases.values():
            assert len({share.device.uuid for share in lease.shares}) == len(lease.shares) == lease.request.gpus
            for share in lease.shares:
                assert share.memory == lease.request.memory_on(share.device.memory_size)
                assert all(
                    str(one).partition(">")[0] in ("device.index", "device.memory") for one in lease.request.filters
                )

    @invariant()
    def the_queue_is_in_order_and_its_first_does_not_fit(self) -> None:
        waiters = self.pool.waiters
        assert list(waiters) == sorted(self.waiting.values(), key=order)
        for position, waiter in enumerate(waiters, 1):
            standing = self.pool.position(waiter.id, self.now)
            assert (standing.position, standing.count) == (position, len(waiters))
            assert any(why for _, why in standing.reasons)
        if waiters and not self.quotas:
            assert choose(waiters[0].request, self.pool.view(), self.pool.strategy) is None

    @invariant()
    def who_is_first_waits_only_for_those_before_it(self) -> None:
        """Nobody starves: however many came later, and got something, it is no more than what was there that stands in its way."""
        if self.waiting and not self.quotas:
            assert self.blockers[self.pool.waiters[0].id]


class LifeWithQuotas(Life):
    """The same where some have quotas."""

    quotas = {
        "user:a": Quota(gpus=1.5, memory=10 * MEMORY_CHUNK_SIZE),
        "group:*": Quota(gpus=2, gpu_seconds_per_day=60),
        "group:y": Quota(lifetime_s=5, priority_max=0),
    }

    @invariant()
    def nobody_holds_more_than_their_quota(self) -> None:
        for subject in ("user:a", "user:b", "group:x", "group:y"):
            kind, _, name = subject.partition(":")
            leases = [one for one in self.leases.values() if getattr(one.holder, kind) == name]
            gpus = sum(need_of_lease(lease).gpus for lease in leases)
            memory = sum(need_of_lease(lease).memory for lease in leases)
            assert (self.pool.held(subject).gpus, self.pool.held(subject).memory) == (gpus, memory)
            if quota := self.quotas.get(subject) or self.quotas.get(f"{kind}:*"):
                assert gpus <= (quota.gpus or gpus) and memory <= (quota.memory or memory)
                for lease in leases:
                    assert lease.request.priority <= (1 if quota.priority_max is None else quota.priority_max)
                    if quota.lifetime_s is not None:
                        lifetime_s = min(lease.request.lifetime_s or quota.lifetime_s, quota.lifetime_s)
                        assert lease.expires_at == lease.granted_at + lifetime_s


TestLife = Life.TestCase
TestLifeWithQuotas = LifeWithQuotas.TestCase
TestLife.settings = TestLifeWithQuotas.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
