"""A request that waits for its user's GPU-hours goes on when the day turns, though nothing else happens."""

from __future__ import annotations

import asyncio
import time

from bitfusion.limits import GIB
from bitfusion.pool.pool import Pool
from bitfusion.pool.quota import Quota
from bitfusion.pool.request import Holder, LeaseRequest
from bitfusion.pool.usage import DAY_S
from bitfusion.server.leases import Leases
from bitfusion.server.ledgers import Ledgers
from bitfusion.types import DeviceSpec

DEVICE = DeviceSpec("null", 0, "Null device", "GPU-null", 8 * GIB)
LEFT_S = 0.3
"""Of the day when the test begins."""


async def test_a_new_day_lets_those_go_on_whose_hours_were_used_up():
    started, midnight = time.monotonic(), 20_000 * DAY_S

    def clock():
        return midnight - LEFT_S + time.monotonic() - started

    pool = Pool([DEVICE], quotas={"user:ana": Quota(gpu_seconds_per_day=1.0)})
    leases = Leases(pool, Ledgers([DEVICE]), clock=clock)
    pool.restore((), (), {"user:ana": 5.0}, clock())
    places = []
    held = await asyncio.wait_for(leases.ask(LeaseRequest(memory=GIB), Holder("ana"), 30, places.append), 30)
    assert clock() >= midnight and "GPU" in places[0].reason
    leases.end(held, "the test is over")
    leases.ledgers.stop()
