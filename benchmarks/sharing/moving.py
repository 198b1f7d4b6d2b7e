"""An oversubscribed GPU: how long a session pauses while another's memory goes to the host and its own comes back."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.sharing.place import offered
from bitfusion.cli.bench.measure import spread
from bitfusion.client.client import connect
from bitfusion.limits import MIB

IDLE_S = 0.6
"""Longer than a session keeps its place while it does nothing (server/residence.py)."""


def measure(size_mib: int, rounds: int) -> dict[str, Any]:
    """Seconds until four bytes of a session that is away are read, and of a memcpy of as many bytes as are moved."""
    lease, gpu = size_mib + 16, size_mib * 3 // 2
    with ExitStack() as stack:
        address = stack.enter_context(offered(f"virtual:1x{gpu}MiB", "--oversubscribe", "2"))
        first, second = (stack.enter_context(connect(address, memory=f"{lease}MiB")) for _ in range(2))
        host = np.random.default_rng(1).integers(0, 256, size_mib * MIB, np.uint8)
        arrays = [client.to_device(host) for client in (first, second)]
        first.synchronize()
        pauses = []
        for number in range(rounds + 2):
            time.sleep(IDLE_S)
            started = time.perf_counter()
            assert (arrays[number % 2][:4].copy_to_host() == host[:4]).all()
            pauses.append(time.perf_counter() - started)
        assert all((array.copy_to_host() == host).all() for array in arrays)
    target, copies = np.empty_like(host), []
    for _ in range(rounds):
        started = time.perf_counter()
        target[:] = host
        target[:] = host
        copies.append(time.perf_counter() - started)
    pause, copy = spread(np.array(pauses[2:])), spread(np.array(copies))
    return {
        "memory_mib": size_mib,
        "pause_s": {"p50": pause.p50, "p99": pause.p99},
        "bytes_per_s": 2 * size_mib * MIB / pause.p50,
        "memcpy_s": {"p50": copy.p50, "p99": copy.p99},
    }
