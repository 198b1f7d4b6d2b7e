"""GPU-seconds: by what a lease withholds from others, of one day in UTC."""

from __future__ import annotations

import pytest

from bitfusion.limits import GIB, MIB
from bitfusion.pool.lease import Lease, Share
from bitfusion.pool.request import Holder, LeaseRequest
from bitfusion.pool.usage import DAY_S, Usage, gpu_seconds, midnight
from tests.pool.gpus import gpu

NOON = 20_000 * DAY_S + DAY_S / 2


def lease(*memory: int, exclusive: bool = False, granted_at: float = NOON) -> Lease:
    shares = tuple(Share(gpu(index), size) for index, size in enumerate(memory))
    request = LeaseRequest(memory=memory[0], exclusive=exclusive)
    return Lease("id", "key", Holder("ana", "lab"), request, shares, granted_at=granted_at)


@pytest.mark.parametrize(
    ("leased", "start", "end", "seconds"),
    [
        (lease(GIB), NOON, NOON + 100, 100),
        (lease(GIB // 2), NOON, NOON + 100, 50),
        (lease(GIB // 64), NOON, NOON + 3600, 56.25),
        (lease(GIB // 2, GIB // 4), NOON, NOON + 100, 75),
        (lease(2 * MIB, exclusive=True), NOON, NOON + 100, 100),
        (lease(GIB), NOON - 1000, NOON + 100, 100),  # not before it was granted
        (lease(GIB), NOON + 60, NOON + 100, 40),
        (lease(GIB), NOON, NOON - 5, 0),  # a clock that went back
    ],
)
def test_gpu_seconds(leased: Lease, start: float, end: float, seconds: float) -> None:
    assert gpu_seconds(leased, start, end) == seconds


def test_a_day_begins_at_midnight_with_nothing() -> None:
    usage = Usage({"user:ana": 10.0}, NOON)
    assert usage.spent("user:ana", NOON) == 10
    usage.add(lease(GIB), ["user:ana", "group:lab"], NOON + 30)
    assert (usage.spent("user:ana", NOON), usage.spent("group:lab", NOON)) == (40, 30)
    assert usage.spent("user:ana", NOON - DAY_S) == 40  # a clock that went back
    evening = lease(GIB, granted_at=NOON + 3600)
    tomorrow = midnight(NOON) + DAY_S
    usage.add(evening, ["user:ana"], tomorrow + 60)
    assert usage.spent("user:ana", tomorrow + 60) == 60  # of which none is yesterday's
    assert usage.spent("group:lab", tomorrow + 60) == 0
