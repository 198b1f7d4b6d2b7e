"""Shared memory and barriers: threads of a block wait for each other and see what the others wrote."""

from __future__ import annotations

import numpy as np
import pytest
from numba import cuda, float32, int32

from tests.device.virtual.gpu import HEADER

RANDOM = np.random.default_rng(5)
TILE = 16


def matmul(a, b, c):
    tile_a = cuda.shared.array((TILE, TILE), float32)
    tile_b = cuda.shared.array((TILE, TILE), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    column, row = cuda.grid(2)
    total = float32(0)
    for k in range((a.shape[1] + TILE - 1) // TILE):
        tile_a[ty, tx] = 0
        tile_b[ty, tx] = 0
        if row < a.shape[0] and tx + k * TILE < a.shape[1]:
            tile_a[ty, tx] = a[row, tx + k * TILE]
        if column < b.shape[1] and ty + k * TILE < b.shape[0]:
            tile_b[ty, tx] = b[ty + k * TILE, column]
        cuda.syncthreads()
        for n in range(TILE):
            total += tile_a[ty, n] * tile_b[n, tx]
        cuda.syncthreads()
    if row < c.shape[0] and column < c.shape[1]:
        c[row, column] = total


@pytest.mark.parametrize(("m", "k", "n"), [(16, 16, 16), (50, 30, 41), (1, 100, 1), (33, 1, 65)])
def test_tiled_matmul(gpu, m, k, n):
    a, b = RANDOM.standard_normal((m, k)).astype(np.float32), RANDOM.standard_normal((k, n)).astype(np.float32)
    c = np.zeros((m, n), np.float32)
    gpu.run(matmul, (-(-n // TILE), -(-m // TILE)), (TILE, TILE), a, b, c)
    np.testing.assert_allclose(c, a.astype(np.float64) @ b, rtol=1e-4, atol=1e-4)


def reduce_block(x, out):
    partial = cuda.shared.array(256, float32)
    t = cuda.threadIdx.x
    total = float32(0)
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        total += x[i]
    partial[t] = total
    cuda.syncthreads()
    half = cuda.blockDim.x // 2
    while half > 0:
        if t < half:
            partial[t] += partial[t + half]
        cuda.syncthreads()
        half //= 2
    if t == 0:
        out[cuda.blockIdx.x] = partial[0]


def test_tree_reduction(gpu):
    x = RANDOM.standard_normal(5000).astype(np.float32)
    out = np.zeros(4, np.float32)
    gpu.run(reduce_block, 4, 256, x, out)
    assert out.sum() == pytest.approx(x.sum(dtype=np.float64), abs=1e-3)


def scan(x, y):
    buffers = cuda.shared.array((2, 256), float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    buffers[0, t] = x[i]
    cuda.syncthreads()
    source, distance = 0, 1
    while distance < 256:
        target = 1 - source
        if t >= distance:
            buffers[target, t] = buffers[source, t] + buffers[source, t - distance]
        else:
            buffers[target, t] = buffers[source, t]
        cuda.syncthreads()
        source = target
        distance *= 2
    y[i] = buffers[source, t]


def test_inclusive_scan(gpu):
    x = RANDOM.integers(0, 10, 768).astype(np.float32)
    y = np.zeros_like(x)
    gpu.run(scan, 3, 256, x, y)
    np.testing.assert_array_equal(y, x.reshape(3, 256).cumsum(1).ravel())


def reverse(x, y):
    dynamic = cuda.shared.array(0, float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    dynamic[t] = x[i]
    cuda.syncthreads()
    y[i] = dynamic[cuda.blockDim.x - 1 - t]


@pytest.mark.parametrize("block", [1, 32, 100, 1024])
def test_dynamic_shared_memory(gpu, block):
    x = RANDOM.standard_normal(3 * block).astype(np.float32)
    y = np.zeros_like(x)
    gpu.run(reverse, 3, block, x, y, shared=4 * block)
    np.testing.assert_array_equal(y, x.reshape(3, block)[:, ::-1].ravel())


def static_and_dynamic(x, y):
    static = cuda.shared.array(64, int32)
    dynamic = cuda.shared.array(0, int32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    static[t] = x[i]
    dynamic[t] = -x[i]
    cuda.syncthreads()
    y[i] = static[63 - t] * 1000 + dynamic[(t + 1) % 64]


def test_dynamic_shared_memory_lies_behind_the_static(gpu):
    x = RANDOM.integers(0, 100, 128).astype(np.int32)
    y = np.zeros_like(x)
    gpu.run(static_and_dynamic, 2, 64, x, y, shared=256)
    blocks = x.reshape(2, 64)
    np.testing.assert_array_equal(y, (blocks[:, ::-1] * 1000 - np.roll(blocks, -1, 1)).ravel())


def counted(x, out):
    i = cuda.grid(1)
    out[0, i] = cuda.syncthreads_count(int32(x[i] > 0))
    out[1, i] = cuda.syncthreads_and(int32(x[i] > -1000))
    out[2, i] = cuda.syncthreads_or(int32(x[i] > 990))


def test_barriers_that_count(gpu):
    x = RANDOM.integers(-1000, 1000, 384).astype(np.int32)
    out = np.zeros((3, 384), np.int32)
    gpu.run(counted, 3, 128, x, out)
    blocks = x.reshape(3, 128)
    expected = [(blocks > 0).sum(1), (blocks > -1000).all(1), (blocks > 990).any(1)]
    np.testing.assert_array_equal(out, np.repeat(expected, 128, axis=1))


def divergent(x, y):
    shared = cuda.shared.array(64, int32)
    t = cuda.threadIdx.x
    shared[t] = 0
    cuda.syncthreads()
    if t < 32:
        shared[t] = x[t]
        cuda.syncthreads()
        y[t] = shared[63 - t]
    else:
        shared[t] = x[t] * 2
        cuda.syncthreads()
        y[t] = shared[63 - t]


def test_one_barrier_reached_through_two_branches(gpu):
    """Numba may merge the branches or keep them: the barrier of sm_70 and later counts threads, wherever they wait."""
    x = RANDOM.integers(0, 100, 64).astype(np.int32)
    y = np.zeros_like(x)
    gpu.run(divergent, 1, 64, x, y)
    np.testing.assert_array_equal(y, np.where(np.arange(64) < 32, x, x * 2)[::-1])


def leave_early(x, y):
    shared = cuda.shared.array(64, int32)
    t = cuda.threadIdx.x
    if t >= 40:
        return
    shared[t] = x[t]
    cuda.syncthreads()
    y[t] = shared[39 - t]


def test_a_thread_that_has_ended_is_not_waited_for(gpu):
    x = np.arange(64, dtype=np.int32)
    y = np.zeros_like(x)
    gpu.run(leave_early, 2, 64, x, y)
    np.testing.assert_array_equal(y, [*x[:40][::-1], *[0] * 24])


def different_rounds(x, y):
    shared = cuda.shared.array(64, int32)
    t = cuda.threadIdx.x
    shared[t] = x[t]
    cuda.syncthreads()
    total = 0
    for i in range(t % 7):  # inner work differs from thread to thread
        total += shared[(t + i) % 64]
    cuda.syncthreads()
    shared[t] = total
    cuda.syncthreads()
    y[t] = shared[63 - t]


def test_work_of_different_length_between_barriers(gpu):
    x = RANDOM.integers(0, 100, 64).astype(np.int32)
    y = np.zeros_like(x)
    gpu.run(different_rounds, 1, 64, x, y)
    totals = [sum(x[(t + i) % 64] for i in range(t % 7)) for t in range(64)]
    np.testing.assert_array_equal(y, totals[::-1])


NAMED = (
    HEADER
    + """
.shared .align 4 .b8 flags[256];
.visible .entry named(.param .u64 out) {
  .reg .pred %p<3>;
  .reg .b32 %r<6>;
  .reg .b64 %rd<4>;
  ld.param.u64 %rd1, [out];
  mov.u32 %r1, %tid.x;
  shl.b32 %r2, %r1, 2;
  setp.ge.u32 %p1, %r1, 32;
  @%p1 bra CONSUMER;
  mov.u32 %r3, flags;
  add.u32 %r3, %r3, %r2;
  add.u32 %r4, %r1, 7;
  st.shared.u32 [%r3], %r4;
  bar.arrive 3, 64;
  bra DONE;
CONSUMER:
  bar.sync 3, 64;
  mov.u32 %r3, flags;
  add.u32 %r3, %r3, %r2;
  ld.shared.u32 %r4, [%r3+-128];
  cvt.u64.u32 %rd2, %r2;
  add.u64 %rd3, %rd1, %rd2;
  st.global.u32 [%rd3], %r4;
DONE:
  ret;
}
"""
)


def test_named_barrier_with_producers_and_consumers(gpu):
    out = gpu.array(np.zeros(64, np.int32))
    gpu.device.launch(gpu.stream, gpu.load(NAMED), (1, 1, 1), (64, 1, 1), 0, out.address.to_bytes(8, "little"))
    np.testing.assert_array_equal(out.host(), [*[0] * 32, *range(7, 39)])
