"""Warp operations: lanes exchange values with the lanes of their mask, in step or after they have drifted apart."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from numba import cuda, int32

from tests.device.virtual.gpu import HEADER
from tests.device.virtual.ptx import kernel, run

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


def sources(mode, operand, control, linear):
    """(the lane each lane gets its value from, whether that is the one it asked for): PTX ISA, 9.7.9.6, as in its pseudocode."""
    lane, distance, clamp, segment = linear % 32, operand & 31, control & 31, control >> 8 & 31
    first, last = lane & segment, (lane & segment) | (clamp & ~segment)
    wanted = {
        "up": lane - distance,
        "down": lane + distance,
        "bfly": lane ^ distance,
        "idx": first | (distance & ~segment),
    }[mode]
    inside = wanted >= last if mode == "up" else wanted <= last
    return np.where(inside, wanted, lane), inside


SHAPES = [(64, 1), (40, 1), (16, 4), (8, 12), (12, 8)]
THREADS = 96
OPERANDS = {
    "%r4": lambda _: 5,
    "%r5": lambda linear: 7 * linear,
    "0": lambda _: 0,
    "16": lambda _: 16,
    "33": lambda _: 33,
}


@pytest.mark.parametrize("where", ["all", "first warp"])
@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_a_shuffle_finds_its_source_in_every_segment(gpu, mode, where):
    """Operands are the same for all threads (%r4), of each thread (%r5) or constants; beside each result its predicate is stored."""
    usual = 0 if mode == "up" else 31
    controls = {"%r5": (0, 7, 31, 0x1C1F, 0x1003), "%r4": (usual, 0x1800)}
    cases = [(operand, control) for operand in OPERANDS for control in controls.get(operand, (usual, 0x1C00 | usual))]
    lines = [
        "mov.u32 %r1, %ntid.x; mov.u32 %r2, %tid.y; mad.lo.u32 %r0, %r2, %r1, %r0; mul.lo.u32 %r5, %r0, 7;",
        "mov.u32 %r3, %nctaid.x; add.u32 %r4, %r3, 4; mad.wide.u32 %rd3, %r0, 4, %rd0; ld.global.u32 %r6, [%rd3];",
        "mad.wide.u32 %rd4, %r0, 8, %rd1;"
        + ("setp.ge.u32 %p1, %r0, 32; @%p1 bra end;" if where == "first warp" else ""),
    ]
    for index, (operand, control) in enumerate(cases):
        lines.append(f"shfl.sync.{mode}.b32 %r7|%p2, %r6, {operand}, {control}, -1; selp.b32 %r8, 1, 0, %p2;")
        lines.append(f"st.global.v2.u32 [%rd4+{8 * THREADS * index}], {{%r7, %r8}};")
    function = gpu.load(kernel("\n".join([*lines, "end:"]), 2))
    for shape in SHAPES:
        linear = np.arange(shape[0] * shape[1])
        values = RANDOM.integers(0, 2**31, linear.size).astype(np.int32)
        arrays = gpu.array(values), gpu.array(np.full((len(cases), THREADS, 2), -1, np.int32))
        blob = b"".join(array.address.to_bytes(8, "little") for array in arrays)
        gpu.device.launch(gpu.stream, function, (1, 1, 1), (*shape, 1), 0, blob)
        taking = linear < (32 if where == "first warp" else linear.size)
        for (operand, control), out in zip(cases, arrays[1].host(), strict=True):
            source, asked = sources(mode, OPERANDS[operand](linear), control, linear)
            source += linear - linear % 32
            there = np.flatnonzero(taking & (source < linear.size))
            np.testing.assert_array_equal(out[there, 0], values[source[there]], f"{shape} {operand} {control:#x}")
            np.testing.assert_array_equal(
                out[: linear.size, 1], np.where(taking, asked, -1), f"{shape} {operand} {control:#x}"
            )


def last_block(x, out):
    """Some lanes, or whole warps, have ended."""
    i = cuda.grid(1)
    if i >= x.size:
        return
    out[0, i] = cuda.ballot_sync(FULL, x[i] > 0)
    out[1, i] = cuda.shfl_up_sync(FULL, x[i], 1)
    cuda.syncthreads()
    out[2, i] = cuda.shfl_xor_sync(FULL, x[i], 1)


@pytest.mark.parametrize("size", [1, 20, 32, 50, 128, 160])
def test_lanes_that_have_ended_are_not_waited_for(gpu, size):
    x, out = RANDOM.integers(-100, 100, size).astype(np.int32), np.zeros((3, size), np.uint32)
    gpu.run(last_block, 2, 128, x, out)
    i = np.arange(size)
    warps = [x[base : base + 32] for base in range(0, size, 32)]
    ballots = [sum(int(value > 0) << lane for lane, value in enumerate(warp)) for warp in warps]
    np.testing.assert_array_equal(out[0], np.repeat(ballots, [len(warp) for warp in warps]))
    np.testing.assert_array_equal(out[1].view(np.int32), x[np.where(i % 32 == 0, i, i - 1)])
    there = (i ^ 1) < size
    np.testing.assert_array_equal(out[2].view(np.int32)[there], x[(i ^ 1)[there]])


def test_operands_of_a_shuffle_are_kept_where_lanes_drift_apart(gpu):
    """Odd lanes come by another way, and the operands' registers are written again: one of them by the shuffle itself."""
    body = """
    and.b32 %r1, %r0, 1; setp.eq.u32 %p1, %r1, 1; mul.lo.u32 %r2, %r0, 3; mov.u32 %r3, 31; mul.lo.u32 %r4, %r0, 100;
    @%p1 bra odd; shfl.sync.bfly.b32 %r4, %r4, 2, 31, 0x55555555; bra together;
    odd: add.u32 %r2, %r2, 1; shfl.sync.bfly.b32 %r4, %r4, 4, 31, 0xaaaaaaaa;
    together: shfl.sync.idx.b32 %r2|%p2, %r4, %r2, %r3, -1; mov.u32 %r3, 0;
    shfl.sync.bfly.b32 %r5, %r2, 1, 31, -1; sub.u32 %r2, %r2, %r5;
    mad.wide.u32 %rd1, %r0, 4, %rd0; st.global.u32 [%rd1], %r2;
    """
    out = np.zeros(64, np.int32)
    run(gpu, kernel(body), out, block=64)
    i = np.arange(64)
    values = np.where(i % 2 == 0, i ^ 2, i ^ 4) * 100
    found = values[(i & ~31) | ((3 * i + i % 2) & 31)]
    np.testing.assert_array_equal(out, found - found[i ^ 1])


@pytest.mark.parametrize("shape", [(256, 1, 1), (16, 16, 1), (8, 2, 16), (24, 8, 1)])
def test_warps_run_loops_of_shuffles_by_themselves(gpu, shape):
    width, height, depth = shape

    def loop(x, out):
        """Each warp for itself runs a loop of shuffles in which it sometimes branches."""
        tx, ty, tz = cuda.threadIdx.x, cuda.threadIdx.y, cuda.threadIdx.z
        v = x[tx, ty, tz]
        for round_ in range((tx + width * (ty + height * tz)) // 32 + 1):
            if round_ % 2 == 0:
                v += cuda.shfl_xor_sync(FULL, v, 1 << round_ % 5)
            if cuda.any_sync(FULL, v > 1000):
                v -= 500
        out[tx, ty, tz] = v

    expected, lane = RANDOM.integers(0, 1000, (width * height * depth // 32, 32)).astype(np.int32), np.arange(32)
    x = np.ascontiguousarray(expected.reshape(depth, height, width).T)
    out = np.zeros_like(x)
    gpu.run(loop, 1, shape, x, out)
    for warp, v in enumerate(expected):
        for round_ in range(warp + 1):
            v += v[lane ^ 1 << round_ % 5] if round_ % 2 == 0 else 0
            v -= 500 * (v > 1000).any()
    np.testing.assert_array_equal(out.T.ravel(), expected.ravel())


BETWEEN_SHUFFLES = {
    "plain": "add.f32 %f1, %f1, %f1; mad.lo.s32 %r3, %r3, 5, %r0;",
    "predicated": "setp.gt.s32 %p1, %r3, 5; @%p1 add.u32 %r3, %r3, 1;",
    "rounded": "add.rz.f32 %f1, %f1, 0f3f800000; cvt.rn.f16.f32 %h1, %f1; cvt.f32.f16 %f1, %h1;",
    "special": "sin.approx.f32 %f1, %f1; ex2.approx.f32 %f1, %f1; div.s32 %r3, %r3, %r0; mul.hi.u64 %rd3, %rd3, 12345678;",
    "memory": "mad.wide.u32 %rd2, %r0, 4, %rd0; ld.global.u32 %r3, [%rd2]; st.global.u32 [%rd2], %r0;",
    "branch": "setp.gt.s32 %p1, %r3, 5; @%p1 bra over; add.u32 %r3, %r3, 7; over:",
}


@pytest.mark.parametrize("code", BETWEEN_SHUFFLES.values(), ids=BETWEEN_SHUFFLES)
def test_nothing_is_said_about_code_between_shuffles(gpu, capfd, code):
    """LLVM complains on standard error where it is told to vectorise what it cannot."""
    shuffle = "shfl.sync.bfly.b32 %r3, %r3, 1, 31, -1;"
    run(
        gpu,
        kernel(f"mov.u32 %r3, %r0; mov.f32 %f1, 0f3f800000; {shuffle} {code} {shuffle}"),
        np.zeros(32, np.int32),
        block=32,
    )
    assert capfd.readouterr() == ("", "")


def test_a_warp_that_spins_on_another_lets_it_run(gpu):
    body = """
    mov.u32 %r1, 0; shr.u32 %r2, %r0, 5; setp.eq.u32 %p1, %r2, 1; @%p1 bra signal;
    spin: ld.volatile.shared.u32 %r3, [flag]; add.u32 %r1, %r1, 1; setp.eq.u32 %p2, %r3, 0;
    vote.sync.any.pred %p3, %p2, -1; @%p3 bra spin; bra end;
    signal: shfl.sync.idx.b32 %r4, %r0, 5, 31, -1; st.volatile.shared.u32 [flag], %r4; mov.u32 %r3, %r4;
    end: mad.wide.u32 %rd1, %r0, 4, %rd0; st.global.u32 [%rd1], %r3;
    """
    out = np.zeros(64, np.int32)
    start = "st.shared.u32 [flag], 0; bar.sync 0;"
    run(gpu, kernel(start + body, declarations=".shared .align 4 .u32 flag;"), out, block=64)
    np.testing.assert_array_equal(out, 37)


@pytest.mark.parametrize(
    "operation",
    [
        "bar.sync 0;",
        "shfl.sync.idx.b32 %r11, %r0, 0, 31, -1;",
        "shfl.sync.idx.b32 %r11, %r0, %r6, 31, %r10;",
        "bar.warp.sync -1;",
        "bar.warp.sync %r10;",
        "activemask.b32 %r11;",
    ],
)
def test_lanes_that_meet_in_different_iterations_know_their_own(gpu, operation):
    """Even threads stop in even iterations, odd ones in odd."""
    body = f"""and.b32 %r6, %r0, 1; mov.u32 %r7, 0; mov.u32 %r8, 0; setp.eq.u32 %p3, %r6, 0; selp.b32 %r10, 0x55555555, 0xAAAAAAAA, %p3;
    LOOP: setp.ge.u32 %p0, %r7, 8; @%p0 bra END; add.u32 %r9, %r6, %r7; and.b32 %r9, %r9, 1; setp.eq.u32 %p1, %r9, 1; @%p1 bra SKIP;
    {operation} mad.lo.u32 %r8, %r8, 3, %r7;
    SKIP: add.u32 %r7, %r7, 1; bra LOOP;
    END: mul.wide.u32 %rd5, %r0, 4; add.u64 %rd2, %rd5, %rd0; st.global.u32 [%rd2], %r8;"""
    out = np.zeros(64, np.uint32)
    run(gpu, kernel(body), out, block=64)
    wanted = [functools.reduce(lambda total, i: 3 * total + i, range(first, 8, 2), 0) for first in (0, 1)]
    np.testing.assert_array_equal(out, np.tile(wanted, 32))
