"""Atomics under contention: all blocks on all cores, and nothing is lost."""

from __future__ import annotations

import numpy as np
import pytest
from numba import cuda, float32, float64, int32, int64

from bitfusion.device.cooperative import cooperative_kernels, defined
from bitfusion.errors import LaunchError
from tests.device.virtual.gpu import compile_kernel, numba_type

RANDOM = np.random.default_rng(13)
COUNT = 20_000


def integers(x, out):
    i = cuda.grid(1)
    if i < x.size:
        v = x[i]
        cuda.atomic.add(out, 0, v)
        cuda.atomic.sub(out, 1, v)
        cuda.atomic.max(out, 2, v)
        cuda.atomic.min(out, 3, v)
        cuda.atomic.and_(out, 4, v)
        cuda.atomic.or_(out, 5, v)
        cuda.atomic.xor(out, 6, v)
        cuda.atomic.exch(out, 7, 12345)
        cuda.atomic.cas(out, 8, 0, v | 1)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64], ids=lambda dtype: dtype.__name__)
def test_integers(gpu, dtype):
    limits = np.iinfo(dtype)
    x = RANDOM.integers(limits.min, limits.max, COUNT, dtype)
    out = np.zeros(9, dtype)
    out[2:5] = limits.min, limits.max, ~dtype(0)
    gpu.run(integers, 100, 256, x, out)
    with np.errstate(over="ignore"):
        total = x.sum(dtype=dtype)
        expected = [total, dtype(0) - total, x.max(), x.min()]
    expected += [np.bitwise_and.reduce(x), np.bitwise_or.reduce(x), np.bitwise_xor.reduce(x), 12345]
    np.testing.assert_array_equal(out[:8], np.array(expected, dtype))
    assert out[8] in x | dtype(1)


def floats(x, out):
    i = cuda.grid(1)
    if i < x.size:
        cuda.atomic.add(out, 0, x[i])
        cuda.atomic.max(out, 1, x[i])
        cuda.atomic.min(out, 2, x[i])


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda dtype: dtype.__name__)
def test_floats(gpu, dtype):
    x = RANDOM.integers(-1000, 1000, COUNT).astype(dtype)  # whole numbers: their sum does not depend on the order
    out = np.array([0, -1e9, 1e9], dtype)
    gpu.run(floats, 100, 256, x, out)
    np.testing.assert_array_equal(out, [x.sum(dtype=np.float64), x.max(), x.min()])


def shared_histogram(x, out):
    counts = cuda.shared.array(256, int32)
    t = cuda.threadIdx.x
    for j in range(t, 256, cuda.blockDim.x):
        counts[j] = 0
    cuda.syncthreads()
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        cuda.atomic.add(counts, x[i], 1)
    cuda.syncthreads()
    for j in range(t, 256, cuda.blockDim.x):
        cuda.atomic.add(out, j, counts[j])


def test_histogram_in_shared_memory(gpu):
    x = RANDOM.integers(0, 256, COUNT).astype(np.uint8)
    out = np.zeros(256, np.int32)
    gpu.run(shared_histogram, 10, 128, x, out)
    np.testing.assert_array_equal(out, np.bincount(x, minlength=256))


def shared_floats(x, y, out_x, out_y):
    sums = cuda.shared.array(1, float32)
    peaks = cuda.shared.array(1, float64)
    if cuda.threadIdx.x == 0:
        sums[0], peaks[0] = 0, -1e300
    cuda.syncthreads()
    i = cuda.grid(1)
    cuda.atomic.add(sums, 0, x[i])
    cuda.atomic.max(peaks, 0, y[i])
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        out_x[cuda.blockIdx.x], out_y[cuda.blockIdx.x] = sums[0], peaks[0]


def test_floats_in_shared_memory(gpu):
    x, y = RANDOM.integers(0, 100, 1024).astype(np.float32), RANDOM.standard_normal(1024)
    out_x, out_y = np.zeros(8, np.float32), np.zeros(8)
    gpu.run(shared_floats, 8, 128, x, y, out_x, out_y)
    np.testing.assert_array_equal(out_x, x.reshape(8, 128).sum(1))
    np.testing.assert_array_equal(out_y, y.reshape(8, 128).max(1))


def tickets(counter, taken):
    ticket = cuda.atomic.add(counter, 0, 1)
    cuda.atomic.add(taken, ticket, 1)


def test_what_an_atomic_returns_is_taken_once(gpu):
    counter, taken = np.zeros(1, np.int64), np.zeros(COUNT, np.int64)
    gpu.run(tickets, COUNT // 100, 100, counter, taken)
    assert counter[0] == COUNT
    np.testing.assert_array_equal(taken, 1)


def locked(lock, counter):
    while cuda.atomic.cas(lock, 0, 0, 1) != 0:
        pass
    cuda.threadfence()
    counter[0] = counter[0] + 1
    cuda.threadfence()
    cuda.atomic.exch(lock, 0, 0)


def test_a_spin_lock_between_threads_and_blocks(gpu):
    counter = np.zeros(1, np.int32)
    gpu.run(locked, 8, 64, np.zeros(1, np.int32), counter)
    assert counter[0] == 8 * 64


def wait_for_predecessor(flags, values):
    """Each block waits for the one before it: it must go on while others hold the cores."""
    block = cuda.blockIdx.x
    if cuda.threadIdx.x == 0:
        if block > 0:
            while cuda.atomic.cas(flags, block - 1, 1, 1) == 0:
                pass
            values[block] += values[block - 1]
        cuda.threadfence()
        cuda.atomic.exch(flags, block, 1)


@pytest.mark.parametrize("blocks", [2, 300])
def test_blocks_that_wait_for_each_other(gpu, blocks):
    values = np.ones(blocks, np.int64)
    gpu.run(wait_for_predecessor, blocks, 32, np.zeros(blocks, np.int32), values)
    np.testing.assert_array_equal(values, np.arange(1, blocks + 1))


def grid_wide(x, y):
    grid = cuda.cg.this_grid()
    i = cuda.grid(1)
    x[i] = x[i] * int64(2)
    grid.sync()
    y[i] = x[x.size - 1 - i]


def test_a_barrier_of_the_whole_grid(gpu):
    x = np.arange(16 * 64)
    y = np.zeros_like(x)
    gpu.run(grid_wide, 16, 64, x, y)
    np.testing.assert_array_equal(y, np.arange(16 * 64)[::-1] * 2)


def test_the_definitions_that_an_nvidia_driver_is_given(gpu):
    x = np.arange(16 * 64)
    y = np.zeros_like(x)
    declared = compile_kernel(grid_wide, (numba_type(x), numba_type(y)))
    text = defined(declared.encode()).decode()
    assert declared.count(".extern .func") == 2 and ".extern .func" not in text
    assert cooperative_kernels(declared.encode()) == cooperative_kernels(text.encode()) != set()
    gpu.run(text, 16, 64, x, y)
    np.testing.assert_array_equal(y, np.arange(16 * 64)[::-1] * 2)


def handle_only(x, y):
    cuda.cg.this_grid()
    y[cuda.grid(1)] = x[cuda.grid(1)]


def test_a_grid_that_cannot_wait_for_all_its_blocks_is_refused(gpu):
    """The number that fits is what the error says, and what the device answers; shared memory makes it smaller."""
    x = np.arange(64)
    function = gpu.load(grid_wide, x, x)
    held = gpu.device.resident_blocks(function, 64, 0)
    assert held > 1000 and held // 10 < gpu.device.resident_blocks(function, 64, 100_000) < held
    assert gpu.device.resident_blocks(function, 1025, 0) == gpu.device.resident_blocks(function, 64, 1 << 20) == 0
    with pytest.raises(LaunchError, match=f"{held + 1} blocks of its grid, and the device runs {held} ") as caught:
        gpu.run(grid_wide, held + 1, 64, x, x)
    assert caught.value.cuda_name == "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE"
    x = np.arange(held * 8)
    y = np.zeros_like(x)
    gpu.run(grid_wide, held, 8, x, y)
    np.testing.assert_array_equal(y, np.arange(held * 8)[::-1] * 2)


def test_a_grid_that_never_waits_is_never_too_large(gpu):
    x = np.arange(10_000 * 32)
    y = np.zeros_like(x)
    gpu.run(handle_only, 10_000, 32, x, y)
    np.testing.assert_array_equal(y, x)


def shared_subtraction(x, out):
    sums = cuda.shared.array((4, 8), float32)
    i, j = cuda.threadIdx.x, cuda.threadIdx.y
    sums[i, j] = 100
    cuda.syncthreads()
    cuda.atomic.sub(sums, (i, (j * 3) % 8), x[i, j])
    cuda.atomic.sub(sums, (i, j), 1)
    cuda.syncthreads()
    out[i, j] = sums[i, j]


def test_what_starts_with_a_volatile_load_after_a_barrier(gpu):
    """Numba subtracts floats with a volatile load and a loop of compare-and-swap, which must not be vectorised."""
    x = RANDOM.integers(-50, 50, (4, 8)).astype(np.float32)
    out = np.zeros_like(x)
    gpu.run(shared_subtraction, 1, (4, 8), x, out)
    expected = np.full_like(x, 99)
    for j in range(8):
        expected[:, j * 3 % 8] -= x[:, j]
    np.testing.assert_array_equal(out, expected)
