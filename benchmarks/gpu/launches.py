"""Launches of one small kernel: how many a second, and one with a wait, through bitfusion.cuda and through numba.cuda in this process."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks.gpu.place import Place, rounded
from bitfusion import cuda
from bitfusion.cli.bench.measure import interleave, spread


def kernel_of(cuda: ModuleType) -> Any:
    """The kernel, made by one of the two."""

    @cuda.jit
    def scale(values, factor):
        i = cuda.grid(1)
        if i < values.size:
            values[i] *= factor

    return scale


def measure(place: Place) -> dict[str, object]:
    """``posted_per_s`` counts from the first launch until the device has run the last; ``call_us`` is one launch with a wait."""
    count, rounds = (1_000, 5) if place.quick else (5_000, 15)
    with place.client() as client, cuda.use(client):
        names = {"bitfusion": cuda}
        if place.cuda:
            import numba
            from numba import cuda as numba_cuda

            numba.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
            names["numba"] = numba_cuda
        loops = [_loop(module, count) for module in names.values()]
        calls = [_loop(module, 1) for module in names.values()]
        posted = interleave(loops, rounds=rounds)
        waited = interleave(calls, rounds=rounds, calls=50)
        figures: dict[str, Any] = {"device": client.device.name, "count": count}
    for name, many, one in zip(names, posted, waited, strict=True):
        call = spread(one, 1e6)
        figures[name] = {"posted_per_s": count / spread(many).p50, "call_us": {"p50": call.p50, "p99": call.p99}}
    if "numba" in figures:
        figures["posted_ratio"] = figures["bitfusion"]["posted_per_s"] / figures["numba"]["posted_per_s"]
        figures["call_ratio"] = figures["bitfusion"]["call_us"]["p50"] / figures["numba"]["call_us"]["p50"]
    return rounded(figures)


def _loop(module: Any, count: int) -> Callable[[], None]:
    """``count`` launches and one wait."""
    launch, values = kernel_of(module)[1, 32], module.to_device(np.ones(32, np.float32))
    factor = np.float32(1)

    def run() -> None:
        for _ in range(count):
            launch(values, factor)
        module.synchronize()

    run()
    return run
