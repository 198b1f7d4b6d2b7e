"""The pool: who gets what, who waits, who is told why, and what a restart brings back. How it all goes together: test_pool_life.py."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from bitfusion.errors import CapacityError, ConfigError, LocalProtocolError, QuotaError
from bitfusion.limits import GIB, MIB
from bitfusion.pool.filters import parse_filter
from bitfusion.pool.lease import Lease, LeaseEvent, LeaseState
from bitfusion.pool.placement import Strategy
from bitfusion.pool.pool import Pool
from bitfusion.pool.queue import Waiter
from bitfusion.pool.quota import Quota
from bitfusion.pool.request import Holder, LeaseRequest
from bitfusion.pool.usage import DAY_S
from tests.pool.gpus import gpus

ANA, BEN = Holder("ana", "lab"), Holder("ben", "lab")
NOON = 20_000 * DAY_S + DAY_S / 2
SECOND = (parse_filter("device.index=1"),)


def granted(pool: Pool, request: LeaseRequest, holder: Holder = ANA, now: float = NOON) -> Lease:
    lease = pool.ask(request, holder, now)
    assert isinstance(lease, Lease)
    return lease


def waiting(pool: Pool, request: LeaseRequest, holder: Holder = ANA, now: float = NOON) -> Waiter:
    waiter = pool.ask(request, holder, now)
    assert isinstance(waiter, Waiter)
    return waiter


def settled(pool: Pool, now: float = NOON) -> list[str]:
    return [waiter.id for waiter, _ in pool.settle(now)]


# asking


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10])
def test_n_equal_fractions_fit(count: int) -> None:
    pool = Pool(gpus(GIB + 12345))
    for _ in range(count):
        granted(pool, LeaseRequest(fraction=1 / count))
    waiting(pool, LeaseRequest(fraction=1 / count))


def test_a_lease_has_what_was_asked_for() -> None:
    pool = Pool(gpus(GIB, GIB, GIB))
    request = LeaseRequest(gpus=2, memory=256 * MIB, lifetime_s=60, weight=200)
    lease = pool.ask(request, ANA, NOON, held=False)
    assert isinstance(lease, Lease) and pool.leases == {lease.id: lease}
    assert (lease.holder, lease.request, lease.held) == (ANA, request, False)
    assert [(share.device.index, share.memory) for share in lease.shares] == [(0, 256 * MIB), (1, 256 * MIB)]
    assert (lease.asked_at, lease.granted_at, lease.expires_at) == (NOON, NOON, NOON + 60)
    assert [item.used for item in pool.view()] == [256 * MIB, 256 * MIB, 0]


def test_an_exclusive_lease_is_alone_also_with_little_memory() -> None:
    pool = Pool(gpus(GIB), oversubscribe=2.0)
    lease = granted(pool, LeaseRequest(memory=2 * MIB, exclusive=True))
    waiter = waiting(pool, LeaseRequest(memory=2 * MIB))
    assert pool.view()[0].used == 2 * MIB and pool.view()[0].free == 0
    pool.release(lease.id, NOON)
    assert settled(pool) == [waiter.id]
    waiting(pool, LeaseRequest(memory=2 * MIB, exclusive=True))


def test_spread() -> None:
    pool = Pool(gpus(GIB, GIB), Strategy.SPREAD)
    assert [granted(pool, LeaseRequest(memory=2 * MIB)).shares[0].device.index for _ in range(4)] == [0, 1, 0, 1]


def test_oversubscribed() -> None:
    pool = Pool(gpus(GIB), oversubscribe=1.5)
    for _ in range(3):
        granted(pool, LeaseRequest(fraction=0.5))
    waiting(pool, LeaseRequest(memory=2 * MIB))


@pytest.mark.parametrize("factor", [0.99, 0, -1, 17, float("nan"), float("inf")])
def test_a_factor_that_means_nothing(factor: float) -> None:
    with pytest.raises(ConfigError, match="oversubscribe must be 1 to 16"):
        Pool(gpus(GIB), oversubscribe=factor)


def test_two_gpus_of_one_uuid() -> None:
    with pytest.raises(ConfigError, match="same UUID"):
        Pool(gpus(GIB)[:1] * 2)


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize(
    ("request_", "messages"),
    [
        (LeaseRequest(memory=2 * GIB), ["no GPU has room for 2 GiB: Virtual GPU (virtual 0): has 512 MiB in all; Virtual "
                                        "GPU (virtual 1): has 1 GiB in all. Up to 1 GiB on one GPU would fit now"]),
        (LeaseRequest(gpus=3), ["there is no room for 3 whole GPUs", "Ask for 2 at most"]),
        (LeaseRequest(gpus=2, memory=GIB), ["there is no room for 2 GPUs with 1 GiB each", "(virtual 1): would do"]),
        (LeaseRequest(filters=(parse_filter("device.kind=cuda"),)), ["its device.kind is virtual", "or another appliance"]),
        (LeaseRequest(fraction=0.001), ["less than the smallest share, 2 MiB"]),
    ],
)  # fmt: skip
def test_what_can_never_be_is_refused_at_once(request_: LeaseRequest, messages: list[str], wait: bool) -> None:
    pool = Pool(gpus(512 * MIB, GIB))
    with pytest.raises(CapacityError) as caught:
        pool.ask(request_, ANA, NOON, wait=wait)
    assert all(message in caught.value.message for message in messages)
    assert not pool.waiters and not pool.leases


def test_who_must_not_wait_is_told_why_and_what_would_fit() -> None:
    pool = Pool(gpus(512 * MIB, GIB))
    granted(pool, LeaseRequest(memory=256 * MIB))
    with pytest.raises(CapacityError, match="Up to 256 MiB on each of 2 GPUs would fit now") as caught:
        pool.ask(LeaseRequest(gpus=2), ANA, NOON, wait=False)
    assert "virtual 0" in caught.value.message and caught.value.details["free_max"] == 256 * MIB
    granted(pool, LeaseRequest(memory=GIB))
    granted(pool, LeaseRequest(memory=256 * MIB))
    with pytest.raises(CapacityError, match="Nothing is free now"):
        pool.ask(LeaseRequest(), ANA, NOON, wait=False)
    assert not pool.waiters


# waiting


def test_first_come_first_served_within_a_priority() -> None:
    pool = Pool(gpus(GIB))
    lease = granted(pool, LeaseRequest())
    asked = [waiting(pool, LeaseRequest(priority=priority)) for priority in (0, 0, 5, -5, 5)]
    expected = [asked[index].id for index in (2, 4, 0, 1, 3)]
    assert [waiter.id for waiter in pool.waiters] == expected
    assert [pool.position(waiter.id, NOON).position for waiter in pool.waiters] == [1, 2, 3, 4, 5]
    served = []
    while pool.waiters:
        pool.release(lease.id, NOON)
        ((waiter, lease),) = pool.settle(NOON)
        assert (lease.id, lease.key, lease.holder) == (waiter.id, waiter.key, waiter.holder)
        served.append(waiter.id)
    assert served == expected


def test_who_asks_does_not_take_what_earlier_ones_could_have() -> None:
    pool = Pool(gpus(GIB))
    lease = granted(pool, LeaseRequest())
    first = waiting(pool, LeaseRequest())
    pool.release(lease.id, NOON)  # and before anybody settles
    second = waiting(pool, LeaseRequest(memory=2 * MIB))
    assert settled(pool) == [first.id]
    assert pool.position(second.id, NOON).position == 1


@pytest.mark.parametrize(
    ("leased", "earlier", "later", "passes"),
    [
        # one GPU of 16 chunks, in chunks: what is on it, who waits, who comes
        ([12], [8], 4, True),  # when the 12 go, 8 and 4 fit
        ([12], [13], 4, False),
        ([12], [12], 4, True),
        ([12], [8, 8], 4, False),  # 8 and 8 need all of it
        ([12], [8, 4], 4, False),  # the 4 of the queue fits now, and is granted before
        ([10, 2], [8], 4, True),
        ([8, 4], [8], 4, False),  # when the 4 go, 8 and 8 fill it
        ([15], [8], 1, True),
    ],
)
def test_who_may_pass(leased: list[int], earlier: list[int], later: int, passes: bool) -> None:
    pool = Pool(gpus(32 * MIB))
    for chunks in leased:
        granted(pool, LeaseRequest(memory=2 * chunks * MIB))
    for chunks in earlier:
        pool.ask(LeaseRequest(memory=2 * chunks * MIB), ANA, NOON)
    assert isinstance(pool.ask(LeaseRequest(memory=2 * later * MIB), BEN, NOON), Lease) == passes


def test_who_passes_counts_for_the_next_in_the_same_moment() -> None:
    pool = Pool(gpus(32 * MIB))
    *_, last = (granted(pool, LeaseRequest(memory=2 * chunks * MIB)) for chunks in (4, 5, 7))
    waiting(pool, LeaseRequest(memory=16 * MIB))
    first, second = (waiting(pool, LeaseRequest(memory=4 * MIB)) for _ in range(2))
    pool.release(last.id, NOON)
    assert settled(pool) == [first.id]  # 8 + 5 + 2 fit in 16 chunks, another 2 do not
    assert [waiter.id for waiter in pool.waiters][1:] == [second.id]


def test_a_small_request_passes_one_for_other_gpus_or_more_of_them() -> None:
    pool = Pool(gpus(GIB, GIB))
    granted(pool, LeaseRequest(filters=SECOND))
    waiting(pool, LeaseRequest(filters=SECOND))
    two = waiting(pool, LeaseRequest(gpus=2, fraction=0.5))
    granted(pool, LeaseRequest(fraction=0.5), BEN)  # beside it there is room for that one's half
    late = waiting(pool, LeaseRequest(memory=2 * MIB), BEN)
    standing = pool.position(late.id, NOON)
    assert (standing.position, standing.count) == (3, 3)
    assert standing.reasons == (
        ("Virtual GPU (virtual 0)", "512 MiB of its 512 MiB free are kept for requests that came earlier"),
        ("Virtual GPU (virtual 1)", "an exclusive lease is on it"),
    )
    assert pool.position(two.id, NOON).reasons[0] == ("Virtual GPU (virtual 0)", "")


def test_room_is_kept_for_all_earlier_ones_together() -> None:
    pool = Pool(gpus(GIB, GIB))
    granted(pool, LeaseRequest(filters=SECOND))
    for _ in range(2):
        waiting(pool, LeaseRequest(gpus=2, fraction=0.5))
    waiting(pool, LeaseRequest(fraction=0.25), BEN)  # beside it one of them would fit, but not both


def test_a_whole_gpu_that_is_waited_for_fills_no_more() -> None:
    pool = Pool(gpus(GIB))
    granted(pool, LeaseRequest(fraction=0.5))
    waiter = waiting(pool, LeaseRequest())
    waiting(pool, LeaseRequest(memory=2 * MIB))
    assert isinstance(pool.ask(LeaseRequest(memory=2 * MIB, priority=1), ANA, NOON), Lease)  # its turn is earlier
    pool.cancel(waiter.id)
    assert len(settled(pool)) == 1


def test_who_gives_up_is_gone_at_once() -> None:
    pool = Pool(gpus(GIB))
    granted(pool, LeaseRequest())
    first, second = (waiting(pool, LeaseRequest()) for _ in range(2))
    assert pool.cancel(first.id) is first
    assert [waiter.id for waiter in pool.waiters] == [second.id]
    assert pool.position(second.id, NOON).position == 1
    for call in (pool.cancel, lambda waiter_id: pool.position(waiter_id, NOON)):
        with pytest.raises(KeyError):
            call(first.id)


def test_a_queue_of_200_settles_fast() -> None:
    """Measured: 15 ms on an idle core; the bound is for a busy one."""
    pool = Pool(gpus(80 * GIB))
    asked = [pool.ask(LeaseRequest(fraction=1 / 64), Holder(f"user{number}"), NOON) for number in range(264)]
    started, served = time.process_time(), []
    while pool.leases:
        pool.release(next(iter(pool.leases)), NOON)
        served += settled(pool)
    assert served == [one.id for one in asked[64:]]
    assert time.process_time() - started < 0.8


# quotas: their rules and words are in test_quota.py


def test_a_quota_lets_wait_or_refuses() -> None:
    pool = Pool(gpus(GIB, GIB, GIB), quotas={"user:ana": Quota(gpus=2, priority_max=0), "group:*": Quota(gpus=2.5)})
    lease = granted(pool, LeaseRequest(gpus=2))
    waiter = waiting(pool, LeaseRequest(fraction=0.25))
    assert pool.position(waiter.id, NOON).reasons == (
        ("quota", "the quota of user ana allows 2 GPUs at once: 2 GPUs held, this takes 0.25 GPUs; "
                  "it frees up when one of their leases ends"),
    )  # fmt: skip
    granted(pool, LeaseRequest(fraction=0.5), BEN)  # she holds nobody up
    with pytest.raises(QuotaError, match=r"quota of group lab allows 2\.5 GPUs at once: 2\.5 GPUs held"):
        pool.ask(LeaseRequest(fraction=0.25), BEN, NOON, wait=False)
    with pytest.raises(QuotaError, match=r"quota of user ana allows priorities up to 0, not 1\. Ask for less, or have"):
        pool.ask(LeaseRequest(priority=1), ANA, NOON)
    with pytest.raises(QuotaError, match="quota of user ana allows 2 GPUs at once: this takes 3 GPUs"):
        pool.ask(LeaseRequest(gpus=3), ANA, NOON)
    pool.release(lease.id, NOON)
    assert settled(pool) == [waiter.id]
    assert pool.held("user:ana").gpus == 0.25 and pool.held("group:lab").memory == 768 * MIB


def test_a_quota_keeps_its_own_order() -> None:
    """What somebody's earlier request waits for, a later one of theirs does not take, nor one of their group's."""
    pool = Pool(gpus(*[GIB] * 4), quotas={"group:lab": Quota(gpus=2)})
    lease = granted(pool, LeaseRequest())
    two = waiting(pool, LeaseRequest(gpus=2))
    one = waiting(pool, LeaseRequest(), BEN)
    assert "1 GPU held, 2 GPUs wanted by earlier requests" in pool.position(one.id, NOON).reasons[0][1]
    granted(pool, LeaseRequest(), Holder("eve", "office"))
    pool.release(lease.id, NOON)
    assert settled(pool) == [two.id]
    pool.set_quota("group:lab", None)
    assert settled(pool) == [one.id]


def test_what_a_groups_quota_stops_keeps_its_place_in_the_users() -> None:
    pool = Pool(gpus(*[GIB] * 4), quotas={"user:ana": Quota(gpus=1), "group:lab": Quota(gpus=1)})
    lease = granted(pool, LeaseRequest(), BEN)
    waiter = waiting(pool, LeaseRequest())
    waiting(pool, LeaseRequest(), Holder("ana", "office"))
    pool.release(lease.id, NOON)
    assert settled(pool) == [waiter.id]


def test_whom_a_quota_of_their_own_stops_holds_not_the_group_up() -> None:
    pool = Pool(gpus(GIB, GIB), quotas={"user:ana": Quota(gpus=1), "group:lab": Quota(gpus=2)})
    granted(pool, LeaseRequest())
    waiting(pool, LeaseRequest())
    granted(pool, LeaseRequest(), BEN)


def test_a_day_of_gpu_hours() -> None:
    pool = Pool(gpus(GIB), quotas={"user:*": Quota(gpu_seconds_per_day=3600)})
    lease = granted(pool, LeaseRequest(fraction=0.5))
    granted(pool, LeaseRequest(fraction=0.25), BEN)
    later = NOON + 7200
    assert (pool.spent("user:ana", later), pool.spent("user:ben", later)) == (3600, 1800)
    waiter = waiting(pool, LeaseRequest(memory=2 * MIB), now=later)
    granted(pool, LeaseRequest(memory=2 * MIB), BEN, now=later)
    pool.release(lease.id, later)
    assert settled(pool, later) == []
    tomorrow = NOON + DAY_S / 2
    assert pool.settle_at(later) == tomorrow
    assert "allows 1 GPU-hours a day, and they are used up; the next day begins at 2024-10-05 00:00:00 UTC" in str(
        pool.position(waiter.id, later).reasons
    )
    assert settled(pool, tomorrow) == [waiter.id]
    assert pool.settle_at(tomorrow) is None


def test_a_quotas_lifetime_is_a_leases() -> None:
    pool = Pool(gpus(GIB), quotas={"user:ana": Quota(lifetime_s=100), "group:lab": Quota(lifetime_s=50)})
    assert granted(pool, LeaseRequest(memory=2 * MIB)).expires_at == NOON + 50
    assert granted(pool, LeaseRequest(memory=2 * MIB, lifetime_s=10)).expires_at == NOON + 10
    with pytest.raises(QuotaError, match="user ana allows leases of at most 100 seconds, not 200"):
        pool.ask(LeaseRequest(memory=2 * MIB, lifetime_s=200), ANA, NOON)


# the life of a lease


def test_the_life_of_a_lease() -> None:
    pool = Pool(gpus(GIB))
    lease = granted(pool, LeaseRequest())
    assert lease.state is LeaseState.GRANTED
    assert pool.attach(lease.id).state is LeaseState.ACTIVE
    assert pool.attach(lease.id).sessions == 2
    assert pool.advance(lease.id, LeaseEvent.WARN).state is LeaseState.WARNED
    assert pool.attach(lease.id).state is LeaseState.ACTIVE
    assert [pool.detach(lease.id).state for _ in range(3)] == [LeaseState.ACTIVE, LeaseState.ACTIVE, LeaseState.GRANTED]
    pool.attach(lease.id)
    assert pool.advance(lease.id, LeaseEvent.END).state is LeaseState.ENDING
    with pytest.raises(LocalProtocolError):
        pool.attach(lease.id)
    assert pool.detach(lease.id).state is LeaseState.ENDING
    assert pool.release(lease.id, NOON).state is LeaseState.RELEASED
    assert not pool.leases and pool.view()[0].free == GIB
    for call in (pool.release, pool.attach, pool.detach):
        with pytest.raises(KeyError):
            call(lease.id)


def test_whose_time_is_over() -> None:
    pool = Pool(gpus(GIB))
    first, second, _ = (granted(pool, LeaseRequest(memory=2 * MIB, lifetime_s=time_s)) for time_s in (10, 20, None))
    assert [pool.expired(NOON + after) for after in (9.9, 10, 100)] == [[], [first], [first, second]]
    pool.advance(first.id, LeaseEvent.END)
    assert pool.expired(NOON + 10) == []


# restarts


def test_after_a_restart_all_is_as_it_was() -> None:
    quotas = {"user:ana": Quota(gpus=1.5, gpu_seconds_per_day=10_000)}
    pool = Pool(gpus(GIB, GIB), quotas=quotas)
    leases = [granted(pool, LeaseRequest(fraction=0.5)), granted(pool, LeaseRequest(), BEN)]
    waiters = [waiting(pool, LeaseRequest(priority=priority), BEN) for priority in (0, 1)]
    again = Pool(gpus(GIB, GIB), quotas=quotas)
    assert again.restore(leases, reversed(waiters), {"user:ana": 5000.0}, NOON + 60) == []
    assert again.leases == pool.leases and again.view() == pool.view() and again.waiters == pool.waiters
    assert again.held("user:ana") == pool.held("user:ana")
    assert again.spent("user:ana", NOON + 60) == 5030
    assert waiting(again, LeaseRequest(), BEN).number > waiters[1].number
    again.release(leases[1].id, NOON + 60)
    assert settled(again) == [waiters[1].id]


def test_what_a_restart_cannot_bring_back() -> None:
    pool = Pool(gpus(GIB, GIB, 2 * GIB))
    shared, whole = granted(pool, LeaseRequest(fraction=0.5)), granted(pool, LeaseRequest(filters=SECOND))
    large = granted(pool, LeaseRequest(memory=2 * GIB))
    waiter = waiting(pool, LeaseRequest(memory=2 * GIB))
    ended = replace(shared, id="ended", state=LeaseState.RELEASED)
    twice = replace(shared, id="twice", shares=shared.shares * 2)
    again = Pool([replace(device, name="Renamed") for device in gpus(GIB, GIB)])
    leases = [shared, shared, ended, twice, whole, large, replace(whole, id="other")]
    lost = again.restore(leases, [waiter, replace(waiter, id=shared.id)])
    assert [(item.id, why) for item, why in lost] == [
        (shared.id, "it is there twice, or has ended"),
        ("ended", "it is there twice, or has ended"),
        ("twice", "it has a GPU twice"),
        (large.id, "Virtual GPU (GPU-virtual-0002) is not here any more"),
        ("other", "Virtual GPU (GPU-virtual-0001) has no room for it any more"),
        (waiter.id, "Renamed (virtual 0): has 1 GiB in all; Renamed (virtual 1): has 1 GiB in all"),
        (shared.id, "there is a lease or another waiter of its id"),
    ]
    assert again.leases[shared.id].shares[0].device.name == "Renamed"
    assert set(again.leases) == {shared.id, whole.id} and not again.waiters
