"""Copies to and from the device by size, against the same bytes through a plain socket.

To the device is counted until the device has the data (copy and synchronize), the floor until an acknowledgement of one
byte; from the device is counted from the request to the last byte, on both. Buffers on all sides are reused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bitfusion.cli.bench.ground import Ground
from bitfusion.cli.bench.measure import Seconds, interleave, spread
from bitfusion.client.array import DeviceArray

SIZES = tuple(4096 * 4**power for power in range(9))  # 4 KiB to 256 MiB
SIZES_QUICK = (4 << 10, 64 << 10, 1 << 20, 64 << 20)


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Median rates in GB/s (10^9 bytes a second); ``..._p99_gbps``: that of the copy 99 of 100 beat."""

    size: int
    h2d_gbps: float
    h2d_p99_gbps: float
    floor_h2d_gbps: float
    h2d_ratio: float
    d2h_gbps: float
    d2h_p99_gbps: float
    floor_d2h_gbps: float
    d2h_ratio: float


def measure(ground: Ground) -> list[Bandwidth]:
    """Every size, the smallest first."""
    sizes = SIZES_QUICK if ground.quick else SIZES
    counts = [_rounds(size, ground.quick) for size in sizes]
    with ground.client() as client, ground.progress.stage("copies", sum(counts) + len(counts)) as advance:
        found = []
        for size, rounds in zip(sizes, counts, strict=True):
            array = client.to_device(np.ones(size, np.uint8))
            found.append(_one(ground, array, rounds, advance))
            del array
    return found


def _rounds(size: int, quick: bool) -> int:
    """Enough for a steady median, at most about a second a direction."""
    return max(5, min(50, (256 << 20) // size)) if quick else max(7, min(300, (1 << 30) // size))


def _one(ground: Ground, array: DeviceArray, rounds: int, advance: Callable[[], None]) -> Bandwidth:
    source, target = np.ones(array.nbytes, np.uint8), np.ones(array.nbytes, np.uint8)
    client = array.client

    def h2d() -> None:
        array.copy_to_device(source)
        client.synchronize()

    def d2h() -> None:
        array.copy_to_host(target)

    with (
        ground.floor.exchange(array.nbytes, 1) as floor_h2d,
        ground.floor.exchange(1, array.nbytes) as floor_d2h,
        ground.placed(ground.placements[0]),
    ):
        times = interleave([floor_h2d, h2d, floor_d2h, d2h], rounds=rounds, advance=advance)
    floor_in, ours_in, floor_out, ours_out = (_rates(array.nbytes, sample) for sample in times)
    return Bandwidth(
        array.nbytes,
        *ours_in,
        floor_in[0],
        ours_in[0] / floor_in[0],
        *ours_out,
        floor_out[0],
        ours_out[0] / floor_out[0],
    )


def _rates(size: int, sample: Seconds) -> tuple[float, float]:
    times = spread(sample)
    return size / times.p50 / 1e9, size / times.p99 / 1e9
