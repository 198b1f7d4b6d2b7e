"""The queue: its order, and that whoever passes delays nobody, held against every set of leases that could end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfusion.errors import ConfigError
from bitfusion.limits import MEMORY_CHUNK_SIZE
from bitfusion.pool.filters import parse_filter
from bitfusion.pool.lease import Lease
from bitfusion.pool.placement import DeviceView, Strategy, eligible, occupied
from bitfusion.pool.pool import Pool
from bitfusion.pool.queue import Claims, Queue, Waiter
from bitfusion.pool.request import Holder, LeaseRequest
from bitfusion.pool.room import Room
from bitfusion.types import ServerSpec
from tests.pool.gpus import gpu, gpus

CHUNK = MEMORY_CHUNK_SIZE


def waiter(number: int, priority: int = 0) -> Waiter:
    return Waiter(f"{number:016x}", "secret", Holder("ana"), LeaseRequest(priority=priority), 5.0, number=number)


def test_order() -> None:
    queue, waiters = Queue(), [waiter(0), waiter(1, 5), waiter(2), waiter(3, -5), waiter(4, 5)]
    for item in (waiters[index] for index in (3, 0, 4, 2, 1)):
        queue.add(item)
    assert [item.number for item in queue] == [1, 4, 0, 2, 3]
    assert [queue.position(item.id) for item in waiters] == [3, 1, 4, 5, 2]
    assert [item.number for item in queue.before(waiters[2])] == [1, 4, 0]
    assert [item.number for item in queue.before(waiter(9, 5))] == [1, 4]
    assert queue.remove(waiters[4].id) is waiters[4] and waiters[4].id not in queue and len(queue) == 4
    with pytest.raises(KeyError):
        queue.remove(waiters[4].id)
    with pytest.raises(ConfigError, match="waits already"):
        queue.add(waiters[0])


def test_a_waiter_as_plain_data() -> None:
    one = replace(waiter(7), request=LeaseRequest(memory=CHUNK, filters=(parse_filter("device.kind=cuda"),)))
    assert Waiter.from_plain(asdict(one)) == one
    assert "secret" not in repr(one) and "secret" not in str(one)
    for field in ("id", "key", "holder", "request", "asked_at", "held", "number"):
        plain = asdict(one)
        del plain[field]
        with pytest.raises(ConfigError, match=f"{field} is missing"):
            Waiter.from_plain(plain)


# who may pass

SIZES = st.integers(1, 6)
ONE_GPU = st.just(1)
ONE_OR_TWO = st.sampled_from([(), (parse_filter("device.index=0"),), (parse_filter("device.index=1"),)])


def requests(gpus: st.SearchStrategy[int]) -> st.SearchStrategy[LeaseRequest]:
    """Of one GPU or more of up to six chunks."""
    return st.builds(
        LeaseRequest,
        gpus,
        memory=SIZES.map(lambda size: size * CHUNK),
        exclusive=st.sampled_from([False, False, False, True]),
        filters=ONE_OR_TWO,
    )


T = TypeVar("T")


def subsets(things: Sequence[T]) -> Iterator[tuple[T, ...]]:
    """Of all sizes, from none to all."""
    return itertools.chain.from_iterable(itertools.combinations(things, count) for count in range(len(things) + 1))


@given(size=st.integers(4, 10), leased=st.lists(SIZES, max_size=4), wanted=st.lists(requests(ONE_GPU), max_size=4))
def test_what_may_be_taken_is_what_the_fullest_set_leaves(
    size: int, leased: list[int], wanted: list[LeaseRequest]
) -> None:
    """Exactly that: not a chunk more, which would delay somebody, nor less."""
    room = Room(gpu(0, size * CHUNK), ServerSpec(), 1.0)
    for number, chunks in enumerate(leased):
        if chunks * CHUNK <= room.view.free:
            room.add(str(number), chunks * CHUNK, exclusive=False)
    claims = Claims({room.view.device.uuid: room})
    things = leases = [memory for memory, _ in room._shares.values()]
    for request in wanted:
        claims.add(request)
        claims.allowance(room.view)  # asked in between, the sums are kept up
        if eligible(request, room.view):
            things = [*things, occupied(request, room.view)]
    fullest = max(total for total in map(sum, subsets(things)) if total <= room.capacity)
    allowed = claims.allowance(room.view)
    assert allowed == room.capacity - (fullest if things is not leases else 0)


Placed = dict[int, int]
"""Bytes occupied by GPU."""


def choices(request: LeaseRequest, view: Sequence[DeviceView]) -> Iterator[Placed]:
    """Every way to place a request on an empty appliance."""
    able = [index for index, item in enumerate(view) if eligible(request, item)]
    for chosen in itertools.combinations(able, request.gpus):
        yield {index: occupied(request, view[index]) for index in chosen}


def fit(parts: Sequence[Placed], view: Sequence[DeviceView]) -> bool:
    return all(sum(part.get(index, 0) for part in parts) <= item.capacity for index, item in enumerate(view))


def parts_of(lease: Lease, view: Sequence[DeviceView]) -> Placed:
    return {share.device.index: occupied(lease.request, view[share.device.index]) for share in lease.shares}


@settings(max_examples=300)
@given(
    sizes=st.lists(st.integers(4, 12), min_size=1, max_size=2),
    leased=st.lists(requests(ONE_GPU), min_size=1, max_size=4),
    waiting=st.lists(requests(st.integers(1, 2)), min_size=1, max_size=4),
    passers=st.lists(requests(ONE_GPU), min_size=1, max_size=4),
    strategy=st.sampled_from(Strategy),
)
def test_all_that_was_possible_for_earlier_ones_stays_possible(
    sizes: list[int],
    leased: list[LeaseRequest],
    waiting: list[LeaseRequest],
    passers: list[LeaseRequest],
    strategy: Strategy,
) -> None:
    """Whichever leases end, and wherever earlier waiters go then: what fits without the passer fits with it."""
    pool = Pool(gpus(*(size * CHUNK for size in sizes)), strategy)
    view = pool.view()
    for request in (*leased, *waiting, *passers):
        before, earlier = list(pool.leases.values()), pool.waiters[:3]
        if sum(eligible(request, item) for item in view) < request.gpus:
            continue
        passer = pool.ask(request, Holder(), 0.0)
        if not isinstance(passer, Lease) or not earlier:
            continue
        with_it = parts_of(passer, view)
        for left in subsets([parts_of(lease, view) for lease in before]):
            for going in itertools.product(*([{}, *choices(one.request, view)] for one in earlier)):
                if fit([*left, *going], view):
                    assert fit([*left, *going, with_it], view), (left, going, with_it)


@settings(max_examples=300)
@given(
    sizes=st.lists(st.integers(4, 12), min_size=1, max_size=2),
    leased=st.lists(requests(ONE_GPU), min_size=1, max_size=5),
    waiting=st.lists(requests(st.integers(1, 2)), min_size=1, max_size=4),
    passers=st.lists(requests(ONE_GPU), min_size=1, max_size=3),
    ends=st.randoms(use_true_random=False),
    strategy=st.sampled_from(Strategy),
)
def test_the_first_starts_at_the_same_moment_with_and_without_passers(
    sizes: list[int],
    leased: list[LeaseRequest],
    waiting: list[LeaseRequest],
    passers: list[LeaseRequest],
    ends: object,
    strategy: Strategy,
) -> None:
    """Two pools, in which the same leases end in the same order; in one of them others came later, and stay."""
    alone, crowded = (Pool(gpus(*(size * CHUNK for size in sizes)), strategy) for _ in range(2))
    moments: list[int | None] = []
    view = alone.view()
    here, then, later = (
        [one for one in some if sum(eligible(one, item) for item in view) >= one.gpus]
        for some in (leased, waiting, passers)
    )
    order: list[int] | None = None
    for pool in (alone, crowded):
        for request in (*here, *then):
            pool.ask(request, Holder(), 0.0)
        if not pool.waiters:
            return
        first, present = pool.waiters[0].id, list(pool.leases)
        if order is None:
            order = list(range(len(present)))
            ends.shuffle(order)
        if pool is crowded:
            for request in later:
                pool.ask(request, Holder(), 0.0)
        moments.append(None)
        for moment, index in enumerate(order):
            pool.release(present[index], 0.0)
            if first in [one.id for one, _ in pool.settle(0.0)]:
                moments[-1] = moment
                break
    assert moments[0] is not None and moments[0] == moments[1]
