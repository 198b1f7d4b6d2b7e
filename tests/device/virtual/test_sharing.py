"""Grids whose blocks update the same memory: every block runs once, whoever runs it, and no update is lost."""

from __future__ import annotations

import numpy as np
import pytest
from numba import cuda

from bitfusion.device.virtual.launch_record import LaunchRecord
from bitfusion.device.virtual.sharing import TRIAL_SHARE, run_contended

RANDOM = np.random.default_rng(31)


class Runner:
    """Takes blocks as workers do, which count once more when they find none left."""

    def __init__(self, total: int, helpers: int) -> None:
        self.record = LaunchRecord(total=total, workers=helpers + 1)
        self.blocks: list[int] = []
        self.workers: list[int] = []

    def run(self, helpers: int) -> None:
        assert self.record.workers == helpers + 1
        self.workers.append(helpers + 1)
        self.blocks += range(self.record.next, self.record.total)
        self.record.next = self.record.total + helpers + 1


@pytest.mark.parametrize("helpers", [0, 1, 7])
@pytest.mark.parametrize("total", [1, 2, 15, 16, 17, 100, 1000, 100 * TRIAL_SHARE])
def test_every_block_runs_once(total, helpers):
    runner = Runner(total, helpers)
    run_contended(runner.record, helpers, runner.run)
    assert runner.blocks == list(range(total))
    assert len(runner.workers) in (1, 3)
    assert set(runner.workers) <= {1, helpers + 1}


def update_all(numbers, sums, largest, counts):
    i = cuda.grid(1)
    cuda.atomic.add(sums, 0, numbers[i])
    cuda.atomic.max(largest, 0, numbers[i])
    cuda.atomic.add(counts, numbers[i] % 16, 1)
    cuda.atomic.inc(counts, 16, 10**6)


@pytest.mark.parametrize("blocks", [1, 3, 64, 500])
def test_no_update_is_lost(gpu, blocks):
    numbers = RANDOM.integers(0, 1000, blocks * 64).astype(np.uint32)
    sums, largest, counts = np.zeros(1, np.float64), np.zeros(1, np.uint32), np.zeros(17, np.uint32)
    gpu.run(update_all, blocks, 64, numbers, sums, largest, counts)
    assert (sums[0], largest[0], counts[16]) == (numbers.sum(), numbers.max(), numbers.size)
    np.testing.assert_array_equal(counts[:16], np.bincount(numbers % 16, minlength=16))


def test_only_kernels_that_update_global_memory_are_tried_both_ways(gpu):
    def plain(x):
        x[cuda.grid(1)] += 1

    x = gpu.array(np.zeros(64, np.uint32))
    assert not gpu.load(plain, x).code.contended
    assert gpu.load(update_all, x, gpu.array(np.zeros(1, np.float64)), x, x).code.contended
