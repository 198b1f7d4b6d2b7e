"""Many clients ask at once for small shares of one GPU: how long each waits, in which order, and whether the GPU is ever leased twice."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import uvloop

from benchmarks.sharing.place import offered
from bitfusion.client.async_control import AsyncControl, open_control

FRACTION = 1 / 64
HELD_S = 0.05
"""How long each client keeps its lease."""


def measure(clients: int) -> dict[str, Any]:
    """Waiting times in milliseconds, in the order of asking; rounds of 64 leases of HELD_S each are what cannot be avoided."""
    with offered("virtual:1x8GiB") as address:
        return uvloop.run(_measure(address, clients))


async def _measure(address: str, clients: int) -> dict[str, Any]:
    controls = [await open_control(address) for _ in range(clients)]
    watcher = await open_control(address)
    served: list[tuple[int, float]] = []
    done = asyncio.Event()
    watching = asyncio.create_task(_watch(watcher, done))
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, control in enumerate(controls):
            group.create_task(_hold(number, control, served))
    total_s = time.perf_counter() - started
    done.set()
    leased_max, size = await watching
    for control in [*controls, watcher]:
        await control.close()
    waits = [wait_s * 1e3 for _, wait_s in served]
    order = [number for number, _ in served]
    return {
        "clients": clients,
        "wait_ms": waits,
        "total_s": total_s,
        "floor_s": -(-clients // 64) * HELD_S,
        "in_order": order == sorted(order),
        "leased_max": leased_max,
        "memory_size": size,
    }


async def _hold(number: int, control: AsyncControl, served: list[tuple[int, float]]) -> None:
    started = time.perf_counter()
    grant = await control.request(fraction=FRACTION)
    served.append((number, time.perf_counter() - started))
    await asyncio.sleep(HELD_S)  # the lease's use
    await control.release(grant.id, grant.key)


async def _watch(control: AsyncControl, done: asyncio.Event) -> tuple[int, int]:
    """The most that was ever seen leased, and the GPU's size."""
    leased_max = size = 0
    while not done.is_set():
        (gpu,) = (await control.list())["gpus"]
        leased_max, size = max(leased_max, gpu["leased_size"]), gpu["memory_size"]
        await asyncio.sleep(0.005)
    return leased_max, size
