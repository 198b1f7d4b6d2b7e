"""H2D and D2H by size: through bitfusion, between pinned memory and the GPU in this process, and the same bytes through a socket.

The pinned copy is what a program beside the GPU could have; the socket is what bounds us. To the device is counted until
the device has the data, from the device until the host has it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext

import numpy as np

from benchmarks.gpu.place import Place, rounded
from bitfusion.cli.bench.floors import Floor
from bitfusion.cli.bench.measure import interleave, spread
from bitfusion.limits import KIB, MIB

SIZES = (4 * KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB, 256 * MIB)
SIZES_QUICK = (64 * KIB, 4 * MIB, 64 * MIB)


def measure(place: Place) -> dict[str, object]:
    """Rates in GB/s (10^9 bytes a second), medians, for every size, and their ratios."""
    sizes = SIZES_QUICK if place.quick else SIZES
    with ExitStack() as stack:
        client, floor = stack.enter_context(place.client()), stack.enter_context(Floor())
        pinned = stack.enter_context(_pinned(place, max(sizes)))
        rows = []
        for size in sizes:
            array, source = client.to_device(np.ones(size, np.uint8)), np.ones(size, np.uint8)
            tasks: dict[str, Callable[[], object]] = {
                "h2d": lambda array=array, source=source: (array.copy_to_device(source), client.synchronize()),
                "d2h": lambda array=array, source=source: array.copy_to_host(source),
                "socket_h2d": stack.enter_context(floor.exchange(size, 1)),
                "socket_d2h": stack.enter_context(floor.exchange(1, size)),
            }
            if pinned is not None:
                tasks["pinned_h2d"] = lambda size=size: pinned.h2d(size)
                tasks["pinned_d2h"] = lambda size=size: pinned.d2h(size)
            rows.append(_row(size, tasks, _rounds(size, place.quick)))
    return rounded({"device": client.device.name, "rows": rows})


def _pinned(place: Place, size: int):
    if not place.cuda:
        return nullcontext()
    from benchmarks.gpu.pinned import PinnedCopies

    return PinnedCopies(place.spec.uuid, size)


def _rounds(size: int, quick: bool) -> int:
    return max(5, min(40 if quick else 200, (512 * MIB) // size))


def _row(size: int, tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    samples = interleave(list(tasks.values()), rounds=rounds)
    rates = {name: size / spread(sample).p50 / 1e9 for name, sample in zip(tasks, samples, strict=True)}
    row = {"size": size, **{f"{name}_gbps": rate for name, rate in rates.items()}}
    for way in ("h2d", "d2h"):
        for floor in ("socket", "pinned"):
            if f"{floor}_{way}" in rates:
                row[f"{way}_to_{floor}"] = rates[way] / rates[f"{floor}_{way}"]
    return row
