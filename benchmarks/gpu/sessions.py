"""What a session costs on this device: to open it, with the GPU's context, until its first kernel is done; and to allocate."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.gpu.place import Place, rounded
from bitfusion.cli.bench.launch import ARGUMENTS, load
from bitfusion.cli.bench.measure import spread
from bitfusion.limits import MIB

ALLOCATION = 1024 * MIB


def measure(place: Place) -> dict[str, object]:
    """Milliseconds: ``first_kernel_ms`` from connect to the first kernel done, ``allocate_ms`` of fresh memory, ``again_ms`` of used."""
    first = np.array([_first_kernel(place) for _ in range(4 if place.quick else 9)][1:])
    with place.client() as client:
        size = min(ALLOCATION, client.welcome.memory_limit // 2)
        fresh, again = _allocate(client, size), _allocate(client, size)
        figures = {
            "device": client.device.name,
            "first_kernel_ms": {"p50": spread(first).p50, "p99": spread(first).p99},
            "allocated_size": size,
            "allocate_ms": fresh,
            "again_ms": again,
        }
    if place.cuda:
        from benchmarks.gpu.pinned import allocate_ms

        figures["in_process_allocate_ms"] = allocate_ms(place.spec.uuid, size)
    return rounded(figures)


def _first_kernel(place: Place) -> float:
    started = time.perf_counter()
    with place.client() as client:
        load(client).launch(1, 1, ARGUMENTS)
        client.synchronize()
        return (time.perf_counter() - started) * 1e3


def _allocate(client, size: int) -> float:
    started = time.perf_counter()
    array = client.device_array(size, np.uint8)
    client.synchronize()
    elapsed = time.perf_counter() - started
    array.free()
    client.synchronize()
    return elapsed * 1e3
