"""Grids and blocks: every thread runs once and knows where it is; what does not fit is refused before anything runs."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numba import cuda

from bitfusion.errors import LaunchError
from tests.device.virtual.gpu import HEADER, Gpu, dim3

SHAPES = [
    ((1,), (1,)),
    ((7,), (33,)),
    ((1,), (1024,)),
    ((3, 5), (17, 3)),
    ((2, 3, 4), (5, 6, 7)),
    ((1, 1, 5), (1, 1, 64)),
    ((1, 4), (1, 1024)),
]


def where(out):
    x, y, z = cuda.grid(3)
    width, height, _ = cuda.gridsize(3)
    i = (z * height + y) * width + x
    out[i, 0] += 1
    out[i, 1] = cuda.threadIdx.x
    out[i, 2] = cuda.threadIdx.y
    out[i, 3] = cuda.threadIdx.z
    out[i, 4] = cuda.blockIdx.x
    out[i, 5] = cuda.blockIdx.y
    out[i, 6] = cuda.blockIdx.z
    out[i, 7] = cuda.blockDim.x * 10000 + cuda.blockDim.y * 100 + cuda.blockDim.z
    out[i, 8] = cuda.gridDim.x * 10000 + cuda.gridDim.y * 100 + cuda.gridDim.z
    out[i, 9] = cuda.laneid


@pytest.mark.parametrize(("grid", "block"), SHAPES)
def test_every_thread_runs_once_and_knows_where_it_is(gpu, grid, block):
    grid, block = dim3(grid), dim3(block)
    width, height, depth = (g * b for g, b in zip(grid, block, strict=True))
    out = np.zeros((width * height * depth, 10), np.int64)
    gpu.run(where, grid, block, out)
    z, y, x = (index.ravel() for index in np.indices((depth, height, width)))
    bx, by, bz = block
    lane = (x % bx + y % by * bx + z % bz * bx * by) % 32
    sizes = [np.full_like(x, shape[0] * 10000 + shape[1] * 100 + shape[2]) for shape in (block, grid)]
    expected = [np.ones_like(x), x % bx, y % by, z % bz, x // bx, y // by, z // bz, *sizes, lane]
    np.testing.assert_array_equal(out, np.stack(expected, 1))


def fill2d(a, b):
    i, j = cuda.grid(2)
    if 0 < i < a.shape[0] - 1 and 0 < j < a.shape[1] - 1:
        b[i, j] = a[i, j] + a[i - 1, j] + a[i + 1, j] + a[i, j - 1] + a[i, j + 1]


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_stencil_on_either_layout(gpu, order):
    a = np.asarray(np.random.default_rng(3).integers(0, 100, (50, 37)), order=order)
    b = np.zeros_like(a)
    device = [gpu.array(np.ascontiguousarray(a)), gpu.array(np.ascontiguousarray(b))]
    gpu.launch(fill2d, (4, 5), (16, 8), *device)
    expected = np.zeros_like(a)
    expected[1:-1, 1:-1] = a[1:-1, 1:-1] + a[:-2, 1:-1] + a[2:, 1:-1] + a[1:-1, :-2] + a[1:-1, 2:]
    np.testing.assert_array_equal(device[1].host(), expected)


def stride(x, out):
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        out[i] = x[i] * 2


@pytest.mark.parametrize("blocks", [1, 2, 100])
def test_a_grid_stride_loop(gpu, blocks):
    x = np.arange(10_000)
    out = np.zeros_like(x)
    gpu.run(stride, blocks, 64, x, out)
    np.testing.assert_array_equal(out, x * 2)


def count(out):
    cuda.atomic.add(out, 0, 1)


def test_many_blocks(gpu):
    out = np.zeros(1, np.int64)
    gpu.run(count, (300, 20, 5), 2, out)
    assert out[0] == 60_000


def test_info_of_a_function(gpu: Gpu):
    text = (
        HEADER
        + """
    .shared .align 16 .b8 tile[2000];
    .visible .entry kernel(.param .u8 a, .param .f64 b, .param .align 8 .b8 c[12], .param .u16 d)
    .maxntid 256, 1, 1
    {
      .local .align 4 .b8 scratch[64];
      .reg .b32 %r<3>;
      mov.u32 %r1, tile;
      st.shared.u32 [%r1], %r1;
      st.local.u32 [scratch], %r1;
      ret;
    }
    """
    )
    info = gpu.load(text).info
    assert info.name == "kernel"
    assert info.parameters == ((0, 1), (8, 8), (16, 12), (28, 2))
    assert info.arguments_size == 30
    assert info.shared_size == 2000
    assert info.local_size == 64
    assert info.threads_max == 256


EMPTY = HEADER + ".visible .entry kernel() { ret; }"
SHARED = HEADER + (
    ".shared .b8 tile[40000]; .visible .entry kernel() { .reg .b32 %r1; mov.u32 %r1, tile; st.shared.u32 [%r1], %r1; ret; }"
)
BOUNDED = HEADER + ".visible .entry kernel() .maxntid 64 { ret; }"
REQUIRED = HEADER + ".visible .entry kernel() .reqntid 8, 4 { ret; }"


@pytest.mark.parametrize(
    ("text", "grid", "block", "shared", "arguments", "words"),
    [
        (EMPTY, (1, 1, 1), (1025, 1, 1), 0, b"", "1025 threads"),
        (EMPTY, (1, 1, 1), (32, 32, 2), 0, b"", "2048 threads"),
        (EMPTY, (1, 1, 1), (1, 1, 65), 0, b"", "65"),
        (EMPTY, (1, 1, 1), (0, 1, 1), 0, b"", "0 threads"),
        (EMPTY, (0, 1, 1), (1, 1, 1), 0, b"", "grid"),
        (EMPTY, (1, 65536, 1), (1, 1, 1), 0, b"", "grid"),
        (EMPTY, (1, 1, 1), (1, 1, 1), 163 * 1024 + 1, b"", "shared memory"),
        (SHARED, (1, 1, 1), (1, 1, 1), 163 * 1024 - 39999, b"", "40000"),
        (EMPTY, (1, 1, 1), (1, 1, 1), -1, b"", "shared memory"),
        (BOUNDED, (1, 1, 1), (65, 1, 1), 0, b"", "at most 64"),
        (REQUIRED, (1, 1, 1), (32, 1, 1), 0, b"", "compiled for blocks"),
        (EMPTY, (1, 1, 1), (1, 1, 1), 0, b"12345678", "0 bytes of arguments, not 8"),
    ],
)
def test_a_launch_that_does_not_fit_is_refused(gpu, text, grid, block, shared, arguments, words):
    function = gpu.load(text)
    with pytest.raises(LaunchError, match=words):
        gpu.device.launch(gpu.stream, function, grid, block, shared, arguments)
    gpu.device.launch(gpu.stream, gpu.load(EMPTY), (1, 1, 1), (1, 1, 1), 0, b"")  # nothing is poisoned


def test_the_largest_shapes_run(gpu):
    for grid, block, shared in (
        ((1, 1, 1), (1024, 1, 1), 163 * 1024),
        ((1, 65535, 1), (1, 1, 1), 0),
        ((1, 1, 1), (4, 4, 64), 0),
    ):
        gpu.device.launch(gpu.stream, gpu.load(EMPTY), grid, block, shared, b"")
    gpu.device.launch(gpu.stream, gpu.load(REQUIRED), (1, 1, 1), (8, 4, 1), 0, b"")


def test_busy_time_grows_with_kernels(gpu):
    assert gpu.device.busy_ns == 0
    gpu.run(stride, 4, 64, np.arange(100_000), np.zeros(100_000, np.int64))
    assert 0 < gpu.device.busy_ns < 60e9


def test_two_devices_run_side_by_side(gpu):
    other = Gpu()
    x = np.arange(20_000)
    outs = [np.zeros_like(x), np.zeros_like(x)]

    def work(device, out):
        for _ in range(20):
            device.run(stride, 50, 64, x, out)

    threads = [threading.Thread(target=work, args=pair) for pair in zip((gpu, other), outs, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for out in outs:
        np.testing.assert_array_equal(out, x * 2)
    other.device.close()
