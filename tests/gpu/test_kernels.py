"""Kernels written in Python, each checked against NumPy: elements, tiles in shared memory, reductions, atomics, functions, limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.errors import KernelFaultError, KernelRaisedError, LaunchError

COMPILES = True
"""These kernels are compiled: the double of the driver does not run them."""

TILE = 16
THREADS = 128


@pytest.fixture(autouse=True)
def current(client):
    with cuda.use(client):
        yield


def random(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


@cuda.jit
def saxpy(a, x, y, out):
    i = cuda.grid(1)
    if i < x.size:
        out[i] = a * x[i] + y[i]


@pytest.mark.parametrize("count", [1, 1000, 1_000_003])
def test_saxpy(count):
    x, y = random(count), random(count, 1)[:, 0]
    out = cuda.device_array(count, np.float32)
    saxpy[-(-count // 256), 256](np.float32(2.5), cuda.to_device(x), cuda.to_device(y), out)
    np.testing.assert_allclose(out.copy_to_host(), np.float32(2.5) * x + y, rtol=1e-6, atol=1e-6)


@cuda.jit(debug=True, opt=False)
def root(values):
    i = cuda.grid(1)
    assert values[i] >= 0, "a root of a negative number"
    values[i] = math.sqrt(values[i])


def test_an_assertion_that_fails():
    values = cuda.to_device(np.array([4, 9, -1, 16], np.float32))
    for _ in range(2):
        with pytest.raises(KernelRaisedError, match=r"In function 'root', .* a root of a negative number$") as caught:
            root[1, 4](values)
        assert isinstance(caught.value, AssertionError)
        assert caught.value.details["thread"] == "(2, 0, 0)"
    root[1, 2](values)
    np.testing.assert_allclose(values.copy_to_host()[:2], np.array([4, 9]) ** (1 / 8), rtol=1e-6)


def test_host_arrays_go_there_and_back():
    x, y, out = random(1000), random(1000), np.zeros(1000, np.float32)
    saxpy[4, 256](np.float32(2), x, y, out)
    np.testing.assert_allclose(out, 2 * x + y, rtol=1e-6, atol=1e-6)


@cuda.jit
def matmul(a, b, out):
    tile_a = cuda.shared.array((TILE, TILE), np.float32)
    tile_b = cuda.shared.array((TILE, TILE), np.float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    total = np.float32(0)
    for start in range(0, a.shape[1], TILE):
        tile_a[y, x] = a[row, start + x] if row < a.shape[0] and start + x < a.shape[1] else np.float32(0)
        tile_b[y, x] = b[start + y, column] if start + y < b.shape[0] and column < b.shape[1] else np.float32(0)
        cuda.syncthreads()
        for k in range(TILE):
            total += tile_a[y, k] * tile_b[k, x]
        cuda.syncthreads()
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = total


@pytest.mark.parametrize("shape", [(64, 64, 64), (50, 33, 71)])
def test_tiled_matmul(shape):
    rows, inner, columns = shape
    a, b = random(rows, inner), random(inner, columns)
    out = cuda.device_array((rows, columns), np.float32)
    grid = (-(-columns // TILE), -(-rows // TILE))
    matmul[grid, (TILE, TILE)](cuda.to_device(a), cuda.to_device(b), out)
    np.testing.assert_allclose(out.copy_to_host(), a @ b, rtol=1e-4, atol=1e-4)


@cuda.jit
def neighbours(before, after):
    i = cuda.grid(1)
    before[i] = i
    cuda.cg.this_grid().sync()
    after[i] = before[(i + cuda.blockDim.x) % before.size]


def test_a_barrier_of_the_whole_grid():
    threads = 8
    before, after = np.zeros(threads, np.int32), np.zeros(threads, np.int32)
    neighbours[1, threads](before, after)
    (kernel,) = neighbours.overloads.values()
    held = kernel.max_cooperative_grid_blocks(threads)
    before, after = np.zeros(held * threads, np.int32), np.zeros(held * threads, np.int32)
    neighbours[held, threads](before, after)
    np.testing.assert_array_equal(after, np.roll(np.arange(held * threads), -threads))
    with pytest.raises(LaunchError, match=f"the device runs {held} of them at once"):
        neighbours[held + 1, threads](before, after)


@cuda.jit
def block_sums(values, sums):
    part = cuda.shared.array(THREADS, np.float64)
    thread, i = cuda.threadIdx.x, cuda.grid(1)
    part[thread] = values[i] if i < values.size else 0.0
    step = THREADS // 2
    while step:
        cuda.syncthreads()
        if thread < step:
            part[thread] += part[thread + step]
        step //= 2
    if thread == 0:
        sums[cuda.blockIdx.x] = part[0]


def test_reduction():
    values = np.random.default_rng(0).standard_normal(10_001)
    blocks = -(-values.size // THREADS)
    sums = cuda.device_array(blocks, np.float64)
    block_sums[blocks, THREADS](cuda.to_device(values), sums)
    np.testing.assert_allclose(sums.copy_to_host().sum(), values.sum(), rtol=1e-10)


@cuda.jit
def histogram(values, counts, highest):
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        cuda.atomic.add(counts, values[i], 1)
        cuda.atomic.max(highest, 0, values[i])


def test_atomics():
    values = np.random.default_rng(0).integers(0, 37, 50_000).astype(np.int32)
    counts, highest = cuda.to_device(np.zeros(37, np.int64)), cuda.to_device(np.zeros(1, np.int32))
    histogram[20, 128](cuda.to_device(values), counts, highest)
    np.testing.assert_array_equal(counts.copy_to_host(), np.bincount(values, minlength=37))
    assert highest.copy_to_host()[0] == values.max()


@cuda.jit(device=True)
def length(x, y):
    return math.sqrt(x * x + y * y)


@cuda.jit
def lengths(points, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = length(points[i, 0], points[i, 1])


def test_device_functions_and_views():
    points = random(500, 4).astype(np.float64)
    out = cuda.device_array(500, np.float64)
    lengths[2, 256](cuda.to_device(points)[:, 1:3], out)
    np.testing.assert_allclose(out.copy_to_host(), np.hypot(points[:, 1], points[:, 2]), rtol=1e-14)


@cuda.jit
def reverse(values):
    whole = cuda.shared.array(0, np.int32)
    i = cuda.threadIdx.x
    for start in range(i, values.size, cuda.blockDim.x):
        whole[start] = values[start]
    cuda.syncthreads()
    for start in range(i, values.size, cuda.blockDim.x):
        values[start] = whole[values.size - 1 - start]


@pytest.mark.parametrize("count", [1000, 15_000])
def test_dynamic_shared_memory_also_beyond_48_kib(count):
    values = cuda.to_device(np.arange(count, dtype=np.int32))
    reverse[1, 256, 0, 4 * count](values)
    np.testing.assert_array_equal(values.copy_to_host(), np.arange(count)[::-1])


@cuda.jit
def three_dimensions(out):
    x, y, z = cuda.grid(3)
    if x < out.shape[0] and y < out.shape[1] and z < out.shape[2]:
        out[x, y, z] = x * 10_000 + y * 100 + z


def test_a_grid_of_three_dimensions():
    out = cuda.device_array((11, 13, 17), np.int64)
    three_dimensions[(3, 4, 5), (4, 4, 4)](out)
    x, y, z = np.indices(out.shape)
    np.testing.assert_array_equal(out.copy_to_host(), x * 10_000 + y * 100 + z)


@cuda.jit
def far(values, distance):
    values[distance] = 1


def test_an_access_far_outside_is_a_fault():
    far[1, 1](cuda.to_device(np.zeros(10)), np.int64(1) << 40)
    with pytest.raises(KernelFaultError) as caught:
        cuda.synchronize()
    assert caught.value.cuda_name == "CUDA_ERROR_ILLEGAL_ADDRESS"


def test_too_many_threads():
    x = cuda.to_device(random(10))
    with pytest.raises(LaunchError):
        saxpy[1, 1025](np.float32(1), x, x, x)
    assert cuda.to_device(random(10)).copy_to_host().size == 10
