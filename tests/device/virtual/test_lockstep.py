"""Loops that the threads of a block run side by side: the results are those of threads that run one after the other."""

from __future__ import annotations

import numpy as np
import pytest
from numba import cuda, float32, int32

from bitfusion.device.virtual.compile import compile_module
from bitfusion.device.virtual.layout import SUSPENSION, CompileOptions
from bitfusion.errors import KernelFaultError
from tests.device.virtual.gpu import Gpu, compile_kernel, numba_type

RANDOM = np.random.default_rng(23)
LOCKSTEP = SUSPENSION["lockstep"]


def strided(x, out):
    total = float32(0)
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        total += x[i]
    out[cuda.grid(1)] = total


def strided_while(x, out):
    i, total = cuda.grid(1), float32(0)
    while i < x.size:
        total += x[i]
        i += cuda.gridsize(1)
    out[cuda.grid(1)] = total


def backwards(x, out):
    total = float32(0)
    for i in range(x.size - 1 - cuda.grid(1), -1, -cuda.gridsize(1)):
        total += x[i]
    out[cuda.grid(1)] = total


OPTIONS = {
    "checked": CompileOptions(),
    "unchecked": CompileOptions(bounds_check=False),
    "all checks": CompileOptions(shared_check=True),
}


@pytest.fixture(scope="module", params=OPTIONS)
def either(request, tmp_path_factory):
    """A device with checks, one without and one with all; each compiles a kernel once."""
    gpu = Gpu(options=OPTIONS[request.param], cache_dir=tmp_path_factory.mktemp("objects"))
    yield gpu
    gpu.device.close()


@pytest.mark.parametrize("size", [0, 1, 100, 511, 512, 513, 1000, 4096, 5001])
@pytest.mark.parametrize("kernel", [strided, strided_while, backwards], ids=lambda kernel: kernel.__name__)
def test_strides_of_the_grid(either, kernel, size):
    x = RANDOM.integers(0, 100, size).astype(np.float32)
    for blocks, threads in ((4, 128), (3, 33), (2, 1), (1, 7)):
        count = blocks * threads
        out = np.zeros(count, np.float32)
        either.run(kernel, blocks, threads, x, out)
        order = x[::-1] if kernel is backwards else x
        padded = np.zeros(-(-size // count) * count, np.float32)
        padded[:size] = order
        np.testing.assert_array_equal(out, padded.reshape(-1, count).sum(0))


def triangular(x, out):
    i = cuda.grid(1)
    total = float32(0)
    for j in range(i):
        total += x[j]
    out[i] = total


def counted_by_data(x, counts, out):
    i = cuda.grid(1)
    total = float32(0)
    for j in range(counts[i]):
        total += x[i + j]
    out[i] = total


def left_by_data(x, counts, out):
    i = cuda.grid(1)
    total, j = float32(0), 0
    while j < 64:
        if j == counts[i]:
            break
        total += x[i + j]
        j += 1
    out[i] = total


def rounds_by_data(x, counts, out):
    """The inner loop is run side by side, the outer is left when the data say so."""
    i = cuda.grid(1)
    total = float32(0)
    for _ in range(counts[i] % 4):
        for j in range(x.size - 512):
            total += x[i + j]
    out[i] = total


def skipped_by_data(x, counts, out):
    """Some threads never enter the loop."""
    i = cuda.grid(1)
    total = float32(0)
    if counts[i] % 2:
        for j in range(x.size - 512):
            total += x[i + j]
    out[i] = total


def expected(kernel, x, counts):
    length = x.size - 512
    sums = np.concatenate([[0], x.cumsum(dtype=np.float64)])
    i = np.arange(512)
    match kernel.__name__:
        case "triangular":
            return sums[i]
        case "counted_by_data" | "left_by_data":
            return sums[i + counts] - sums[i]
        case "rounds_by_data":
            return (sums[i + length] - sums[i]) * (counts % 4)
        case "skipped_by_data":
            return (sums[i + length] - sums[i]) * (counts % 2)
    raise AssertionError(kernel)


@pytest.mark.parametrize(
    "kernel",
    [triangular, counted_by_data, left_by_data, rounds_by_data, skipped_by_data],
    ids=lambda kernel: kernel.__name__,
)
def test_threads_that_leave_a_loop_at_different_times(either, kernel):
    x = RANDOM.integers(0, 10, 512 + 64).astype(np.float32)
    counts = RANDOM.integers(0, 64, 512).astype(np.int32)
    for threads in (256, 64, 8):
        out = np.zeros(512, np.float32)
        arguments = (x, out) if kernel is triangular else (x, counts, out)
        either.run(kernel, 512 // threads, threads, *arguments)
        np.testing.assert_array_equal(out, expected(kernel, x, counts))


def started_by_data(x, starts, out):
    i = cuda.grid(1)
    total = float32(0)
    for j in range(starts[i], starts[i] + x.size - 512, 1):
        total += x[j]
    out[i] = total


@pytest.mark.parametrize("starts", [np.arange(512), np.zeros(512), np.arange(512) // 100 * 3, np.arange(512)[::-1]])
def test_indices_that_grow_along_the_row_or_not(either, starts):
    x = RANDOM.integers(0, 10, 512 + 40).astype(np.float32)
    out = np.zeros(512, np.float32)
    either.run(started_by_data, 4, 128, x, starts.astype(np.int32), out)
    sums = np.concatenate([[0], x.cumsum(dtype=np.float64)])
    start = starts.astype(int)
    np.testing.assert_array_equal(out, sums[start + 40] - sums[start])


def around_the_end(x, out):
    """Negative indices count from the end: they turn to positive ones in the middle of a row."""
    i = cuda.grid(1)
    total = float32(0)
    for j in range(cuda.blockDim.x):
        total += x[i + j - 300]
    out[i] = total


def test_indices_that_change_their_sign_in_a_row(either):
    x = RANDOM.integers(0, 10, 1000).astype(np.float32)
    out = np.zeros(256, np.float32)
    either.run(around_the_end, 1, 256, x, out)
    np.testing.assert_array_equal(out, [x[np.arange(i, i + 256) - 300].sum() for i in range(256)])


def two_signs(x, out):
    """Both indices change their sign in the row, in opposite ways."""
    i = cuda.threadIdx.x
    total = float32(0)
    for j in range(cuda.blockDim.x):
        total += x[10 - i, (i + j) % 7 - 3]
    out[i] = total


def test_two_indices_that_change_their_sign(either):
    x = RANDOM.integers(0, 10, (64, 7)).astype(np.float32)
    out = np.zeros(32, np.float32)
    either.run(two_signs, 1, 32, x, out)
    i, j = np.arange(32)[:, None], np.arange(32)
    np.testing.assert_array_equal(out, x[10 - i, (i + j) % 7 - 3].sum(1))


def shared_counts(values, out):
    """Threads that meet in shared memory while they run side by side."""
    local = cuda.shared.array(8, int32)
    t = cuda.threadIdx.x
    if t < 8:
        local[t] = 0
    cuda.syncthreads()
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        cuda.atomic.add(local, values[i], 1)
    cuda.syncthreads()
    if t < 8:
        cuda.atomic.add(out, t, local[t])


def test_atomics_on_shared_memory(either):
    values = RANDOM.integers(0, 8, 10_007).astype(np.uint8)
    out = np.zeros(8, np.int32)
    either.run(shared_counts, 3, 128, values, out)
    np.testing.assert_array_equal(out, np.bincount(values, minlength=8))


def rows_of_a_plane(a, b, c):
    column, row = cuda.grid(2)
    total = float32(0)
    for k in range(a.shape[1]):
        total += a[row, k] * b[k, column]
    c[row, column] = total


@pytest.mark.parametrize("block", [(32, 4), (16, 8), (8, 8), (1, 64)])
def test_blocks_of_two_dimensions(either, block):
    a, b = RANDOM.integers(-5, 5, (2, 64, 64)).astype(np.float32)
    c = np.zeros((64, 64), np.float32)
    either.run(rows_of_a_plane, (64 // block[0], 64 // block[1]), block, a, b, c)
    np.testing.assert_array_equal(c, a @ b)


def beyond(x, n, out):
    i, total = cuda.grid(1), float32(0)
    while i < n:
        total += x[i]
        i += cuda.gridsize(1)
    out[cuda.grid(1)] = total


def test_the_first_access_beyond_the_end_is_reported(gpu):
    x, out = gpu.array(np.zeros(1000, np.float32)), gpu.array(np.zeros(128, np.float32))
    with pytest.raises(KernelFaultError) as failure:
        gpu.launch(beyond, 1, 128, x, 1024, out)
    assert failure.value.details["address"] == x.address + 4000
    assert failure.value.details["thread"] == f"({1000 % 128}, 0, 0)"


@pytest.mark.parametrize(
    ("kernel", "cut"),
    [(strided_while, True), (rows_of_a_plane, True), (counted_by_data, False), (left_by_data, False)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_which_loops_are_run_side_by_side(kernel, cut):
    x, counts = np.zeros(8, np.float32), np.zeros(8, np.int32)
    arguments = {"rows_of_a_plane": (x.reshape(2, 4),) * 3, "strided_while": (x, x)}
    types = tuple(map(numba_type, arguments.get(kernel.__name__, (x, counts, x))))
    module = compile_module(compile_kernel(kernel, types))
    code = module.kernel(module.kernels[0])
    assert any(kind == LOCKSTEP for kind, *_ in code.suspensions) == cut


@pytest.mark.parametrize("kernel", [strided, strided_while, backwards], ids=lambda kernel: kernel.__name__)
def test_a_row_that_keeps_step_is_checked_as_a_whole(kernel):
    x = np.zeros(8, np.float32)
    module = compile_module(compile_kernel(kernel, (numba_type(x), numba_type(x))))
    code = module.kernel(module.kernels[0])
    state = next(state for state, (kind, *_) in enumerate(code.suspensions) if kind == LOCKSTEP)
    text = code.ir[code.ir.index(f'define void @"{code.regions[state]}"') :]
    loop = text[text.index("threads.fast:") : text.index("br i1", text.index("threads.fast:"))]
    assert "load float" in loop and "ptx_badaddr" not in loop


def divided(x, out):
    out[cuda.grid(1)] = x[cuda.grid(1)] // x.size


@pytest.mark.parametrize(("dtype", "vectorized"), [(np.int64, False), (np.float64, True)])
def test_loops_that_divide_wide_integers_are_left_scalar(gpu, dtype, vectorized):
    x = RANDOM.integers(-(2**40), 2**40, 256).astype(dtype)
    out = np.zeros_like(x)
    gpu.run(divided, 2, 128, x, out)
    np.testing.assert_array_equal(out, x // x.size)
    module = compile_module(compile_kernel(divided, (numba_type(x), numba_type(x))))
    assert ("llvm.loop.vectorize.enable" not in module.kernel(module.kernels[0]).ir) == vectorized


def strided_again_and_again(out, count, rounds):
    total = 0
    for number in range(rounds):
        i = cuda.threadIdx.x
        while i < count:
            total = (total * 3 + number * 100 + i) & 0xFFFF
            i += cuda.blockDim.x
    out[cuda.threadIdx.x] = total


@pytest.mark.parametrize("count", [0, 20, 33, 40, 63, 65, 100])
def test_threads_that_meet_in_different_rounds_know_their_own(gpu, count):
    out = np.zeros(32, np.int64)
    gpu.run(strided_again_and_again, 1, 32, out, count, 3)
    for thread in range(32):
        total = 0
        for number in range(3):
            for i in range(thread, count, 32):
                total = (total * 3 + number * 100 + i) & 0xFFFF
        assert out[thread] == total
