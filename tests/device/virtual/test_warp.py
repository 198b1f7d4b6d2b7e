"""Warp operations: lanes exchange values with the lanes of their mask, in step or after they have drifted apart."""

from __future__ import annotations

import numpy as np
import pytest
from numba import cuda, int32

from tests.device.virtual.gpu import HEADER

RANDOM = np.random.default_rng(9)
FULL = 0xFFFFFFFF


def shuffles(x, out):
    i = cuda.grid(1)
    v = x[i]
    out[0, i] = cuda.shfl_sync(FULL, v, 3)
    out[1, i] = cuda.shfl_up_sync(FULL, v, 1)
    out[2, i] = cuda.shfl_down_sync(FULL, v, 2)
    out[3, i] = cuda.shfl_xor_sync(FULL, v, 5)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64], ids=lambda dtype: dtype.__name__)
def test_shuffles(gpu, dtype):
    x = (RANDOM.standard_normal(256) * 1e6).astype(dtype)
    out = np.zeros((4, 256), dtype)
    gpu.run(shuffles, 2, 128, x, out)
    warps, lane = x.reshape(-1, 32), np.arange(32)
    sources = [np.full(32, 3), np.maximum(lane - 1, 0), np.where(lane + 2 < 32, lane + 2, lane), lane ^ 5]
    np.testing.assert_array_equal(out, [warps[:, source].ravel() for source in sources])


def votes(x, out):
    i = cuda.grid(1)
    v = x[i]
    out[0, i] = cuda.all_sync(FULL, v > -900)
    out[1, i] = cuda.any_sync(FULL, v > 900)
    out[2, i] = cuda.ballot_sync(FULL, v > 0)
    out[3, i] = cuda.match_any_sync(FULL, v & 3)
    out[4, i] = cuda.activemask()
    out[5, i] = cuda.eq_sync(FULL, v > 0)


def test_votes_and_matches(gpu):
    x = RANDOM.integers(-1000, 1000, 256).astype(np.int32)
    out = np.zeros((6, 256), np.uint32)
    gpu.run(votes, 2, 128, x, out)
    warps, bits = x.reshape(-1, 32), np.uint64(1) << np.arange(32, dtype=np.uint64)
    same = (warps[:, :, None] & 3) == (warps[:, None, :] & 3)
    positive = (warps > 0).all(1) | ~(warps > 0).any(1)
    ballots = [(warps > -900).all(1), (warps > 900).any(1), ((warps > 0) * bits).sum(1)]
    for row, expected in zip(out, ballots, strict=False):
        np.testing.assert_array_equal(row, np.repeat(expected, 32))
    np.testing.assert_array_equal(out[3], (same * bits).sum(2).ravel())
    np.testing.assert_array_equal(out[4], np.full(256, FULL))
    np.testing.assert_array_equal(out[5], np.repeat(positive, 32))


def reduce_warps(x, out):
    i = cuda.grid(1)
    v = x[i]
    distance = 16
    while distance > 0:
        v += cuda.shfl_down_sync(FULL, v, distance)
        distance //= 2
    cuda.syncwarp(FULL)
    if cuda.laneid == 0:
        out[i // 32] = v


def test_reduction_in_a_loop(gpu):
    x = RANDOM.integers(0, 1000, 384).astype(np.float32)
    out = np.zeros(12, np.float32)
    gpu.run(reduce_warps, 3, 128, x, out)
    np.testing.assert_array_equal(out, x.reshape(-1, 32).sum(1))


def two_masks(x, out):
    i = cuda.grid(1)
    v = x[i]
    if cuda.laneid < 16:
        v = cuda.shfl_xor_sync(0x0000FFFF, v, 1) + 1000
    else:
        v = cuda.shfl_xor_sync(0xFFFF0000, v, 2) + 2000
    out[i] = v


def test_lanes_of_two_branches_exchange_within_their_masks(gpu):
    x = np.arange(64, dtype=np.int32)
    out = np.zeros_like(x)
    gpu.run(two_masks, 1, 64, x, out)
    lane = x % 32
    np.testing.assert_array_equal(out, np.where(lane < 16, (x ^ 1) + 1000, (x ^ 2) + 2000))


def drifting(x, out):
    """Warps leave the loop after different rounds, and shuffle in each."""
    i = cuda.grid(1)
    v = x[i]
    for _ in range(i // 32):
        v = cuda.shfl_xor_sync(FULL, v, 1) + 1
    cuda.syncthreads()
    out[i] = v


def test_warps_that_drift_apart_meet_at_a_barrier(gpu):
    x = RANDOM.integers(0, 1000, 128).astype(np.int32)
    out = np.zeros_like(x)
    gpu.run(drifting, 1, 128, x, out)
    expected = x.copy()
    for warp in range(4):
        lanes = expected[warp * 32 : warp * 32 + 32]
        for _ in range(warp):
            lanes[:] = lanes[np.arange(32) ^ 1] + 1
    np.testing.assert_array_equal(out, expected)


def short_warp(x, out):
    i = cuda.grid(1)
    out[i] = cuda.ballot_sync(FULL, x[i] > 0) + cuda.shfl_sync(FULL, x[i], 0) * int32(0)


def test_a_warp_with_fewer_threads_than_lanes(gpu):
    x = np.ones(40, np.int32)
    out = np.zeros(40, np.uint32)
    gpu.run(short_warp, 1, 40, x, out)
    np.testing.assert_array_equal(out, [*[FULL] * 32, *[0xFF] * 8])


REDUX = (
    HEADER
    + """
.visible .entry redux(.param .u64 numbers, .param .u64 out) {
  .reg .b32 %r<9>;
  .reg .b64 %rd<6>;
  ld.param.u64 %rd1, [numbers];
  ld.param.u64 %rd2, [out];
  mov.u32 %r1, %tid.x;
  mul.wide.u32 %rd3, %r1, 4;
  add.u64 %rd1, %rd1, %rd3;
  ld.global.u32 %r2, [%rd1];
  redux.sync.add.s32 %r3, %r2, 0xffffffff;
  redux.sync.min.s32 %r4, %r2, 0xffffffff;
  redux.sync.max.u32 %r5, %r2, 0xffffffff;
  redux.sync.xor.b32 %r6, %r2, 0xffffffff;
  mul.wide.u32 %rd4, %r1, 16;
  add.u64 %rd2, %rd2, %rd4;
  st.global.v4.u32 [%rd2], {%r3, %r4, %r5, %r6};
  ret;
}
"""
)


def test_redux(gpu):
    x = RANDOM.integers(-(2**31), 2**31, 64).astype(np.int32)
    numbers, out = gpu.array(x), gpu.array(np.zeros((64, 4), np.int32))
    blob = b"".join(array.address.to_bytes(8, "little") for array in (numbers, out))
    gpu.device.launch(gpu.stream, gpu.load(REDUX), (1, 1, 1), (64, 1, 1), 0, blob)
    warps = x.reshape(2, 32)
    with np.errstate(over="ignore"):
        totals = [warps.sum(1, dtype=np.int32), warps.min(1), warps.view(np.uint32).max(1).view(np.int32)]
    expected = np.stack([*totals, np.bitwise_xor.reduce(warps, axis=1)], 1)
    np.testing.assert_array_equal(out.host(), np.repeat(expected, 32, axis=0))
