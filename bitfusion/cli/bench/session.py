"""How long a program waits at its start, from connect until its first kernel is done, and what idle sessions cost.

The kernel is Python, as programs have it: captured, sent, compiled, loaded and run. Cold: a kernel the appliance has never
seen, which it must compile. Warm: one from its cache. The floor is a plain TCP connection with one echo.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitfusion import cuda
from bitfusion.cli.bench.ground import Ground
from bitfusion.cli.bench.measure import Seconds, Spread, interleave, spread

HELLO_SIZE = 400
"""Bytes of a hello and of a welcome, about: what the floor's echo carries."""


@dataclass(frozen=True, slots=True)
class Session:
    """Milliseconds. ``idle_private_mib``: what a session without work has for itself; None on a server not our own."""

    cold_ms: float
    warm_ms: float
    warm_p99_ms: float
    connect_ms: Spread
    floor_connect_ms: Spread
    ratio: float
    idle_private_mib: float | None


def measure(ground: Ground) -> Session:
    """Cold starts first: the warm ones find what the last of them left."""
    cold_rounds, rounds = (2, 5) if ground.quick else (5, 30)
    idle_private_mib = _idle_private(ground)

    def connect() -> None:
        ground.client().close()

    def floor_connect() -> None:
        with ground.floor.exchange(HELLO_SIZE, HELLO_SIZE) as exchange:
            exchange()

    with ground.progress.stage("session starts", cold_rounds + rounds + 1) as advance:
        seeds = [random.randrange(2**31) for _ in range(cold_rounds)]
        cold = np.concatenate([_cold(ground, seed, advance) for seed in seeds])
        tasks = (lambda: _start(ground, seeds[-1]), connect, floor_connect)
        warm, connected, plain = interleave(tasks, rounds=rounds, advance=advance)
    warm_ms, connect_ms, floor_ms = (spread(sample, 1e3) for sample in (warm, connected, plain))
    return Session(
        spread(cold, 1e3).p50,
        warm_ms.p50,
        warm_ms.p99,
        connect_ms,
        floor_ms,
        connect_ms.p50 / floor_ms.p50,
        idle_private_mib,
    )


def _cold(ground: Ground, seed: int, advance: Callable[[], None]) -> Seconds:
    (sample,) = interleave([lambda: _start(ground, seed)], rounds=1, warm_rounds=0, advance=advance)
    return sample


def _start(ground: Ground, seed: int) -> None:
    """Connect, run a kernel that is the same for the same ``seed`` only, and close."""

    def mark(out: Any) -> None:
        out[cuda.grid(1)] = seed

    with ground.client() as client, cuda.use(client):
        cuda.jit(mark)[1, 32](client.device_array(32, np.int64))
        client.synchronize()


def _idle_private(ground: Ground) -> float | None:
    """MiB that only the worker of an idle session has: private pages, clean and dirty (proc(5), smaps_rollup)."""
    with ground.client() as client:
        client.synchronize()
        sizes = [_private_size(worker) for worker in ground.workers()]
    return max(sizes) / 2**20 if sizes else None


def _private_size(pid: int) -> int:
    fields = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
    return sum(int(words[1]) * 1024 for words in fields if words[0] in ("Private_Clean:", "Private_Dirty:"))
