"""How many blocks run at once: against figures of NVIDIA's occupancy calculator, and a grid that waits for all of its blocks."""

from __future__ import annotations

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.cuda.occupancy import blocks_per_multiprocessor, fullest_block
from bitfusion.errors import LaunchError
from bitfusion.types import FunctionInfo

A100 = {
    "MAX_BLOCKS_PER_MULTIPROCESSOR": 32,
    "MAX_THREADS_PER_BLOCK": 1024,
    "MAX_THREADS_PER_MULTIPROCESSOR": 2048,
    "MAX_REGISTERS_PER_MULTIPROCESSOR": 65536,
    "MAX_SHARED_MEMORY_PER_MULTIPROCESSOR": 164 * 1024,
    "RESERVED_SHARED_MEMORY_PER_BLOCK": 1024,
}


@pytest.mark.parametrize(
    ("threads", "registers", "static", "dynamic", "blocks"),
    [
        (32, 16, 0, 0, 32),  # the blocks
        (256, 32, 0, 0, 8),  # the threads
        (33, 32, 0, 0, 32),
        (1000, 32, 0, 0, 2),  # whole warps
        (256, 64, 0, 0, 4),  # the registers
        (256, 65, 0, 0, 3),
        (128, 32, 48 * 1024, 0, 3),  # the shared memory
        (128, 32, 1024, 163 * 1024, 0),
        (128, 32, 0, 163 * 1024, 1),
        (1025, 32, 0, 0, 0),
        (0, 32, 0, 0, 0),
    ],
)
def test_the_scarcest_decides(threads, registers, static, dynamic, blocks):
    info = FunctionInfo("kernel", 0, (), registers, static, 0, 0, 1024)
    assert blocks_per_multiprocessor(info, A100, threads, dynamic) == blocks


@pytest.mark.parametrize(
    ("registers", "shared", "threads_max", "fullest"),
    [
        (32, lambda threads: 0, 0, (2, 1024)),
        (32, lambda threads: 0, 200, (16, 128)),  # 2048 threads; blocks of 192 are 1920
        (64, lambda threads: 0, 0, (1, 1024)),
        (40, lambda threads: 0, 0, (3, 544)),  # 51 warps
        (32, lambda threads: 160 * threads, 0, (1, 1024)),
        (32, lambda threads: 200 * 1024, 0, (0, 0)),
    ],
)
def test_the_fullest_block(registers, shared, threads_max, fullest):
    info = FunctionInfo("kernel", 0, (), registers, 0, 0, 0, 1024)
    held, threads = fullest_block(info, A100, shared, threads_max)
    assert (held, threads) == fullest


def test_a_context_tells_what_fits(client):
    @cuda.jit("void(int32[::1])")
    def nothing(values):
        pass

    (kernel,) = nothing.overloads.values()
    context = cuda.current_context()
    blocks, threads = context.get_max_potential_block_size(kernel, 0, 0, 1024)
    held = context.get_active_blocks_per_multiprocessor(kernel, threads, 0)
    assert held * client.device.attributes["MULTIPROCESSOR_COUNT"] == blocks > 0


def test_a_device_that_tells_nothing_runs_a_block():
    assert blocks_per_multiprocessor(FunctionInfo("kernel", 0, (), 32, 0, 0, 0, 1024), {}, 128, 0) == 1


def test_as_many_blocks_can_wait_for_each_other(client):
    @cuda.jit("void(int32[::1], int32[::1])")  # compiled here: not where the tests are gathered
    def neighbours(before, after):
        before[cuda.blockIdx.x] = cuda.blockIdx.x + 1
        cuda.cg.this_grid().sync()
        after[cuda.blockIdx.x] = before[(cuda.blockIdx.x + 1) % cuda.gridDim.x]

    neighbours[1, 64](np.zeros(1, np.int32), np.zeros(1, np.int32))
    (kernel,) = neighbours.overloads.values()
    count = kernel.max_cooperative_grid_blocks(64)
    assert count == kernel.max_cooperative_grid_blocks((8, 8)) == kernel.max_cooperative_grid_blocks((4, 4, 4)) > 0
    before, after = np.zeros(count, np.int32), np.zeros(count, np.int32)
    neighbours[count, 64](before, after)
    np.testing.assert_array_equal(after, np.roll(np.arange(count) + 1, -1))
    assert kernel.max_cooperative_grid_blocks(2048) == 0
    with pytest.raises(LaunchError, match=f"runs {count} of them at once"):
        neighbours[count + 1, 64](before, after)
