"""The kernel language through ``bitfusion.cuda``, against NumPy: a sample of every part; the virtual GPU has tests of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.cuda import float32, hooked, int32, libdevice, random
from bitfusion.cuda.not_offered import INSTEAD
from bitfusion.errors import KernelCompileError, UnsupportedError

pytestmark = pytest.mark.usefixtures("client")

TILE = 8
TABLE = np.arange(10, dtype=np.float32) ** 2


def noise(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_tiled_matmul_in_shared_memory():
    @cuda.jit
    def matmul(a, b, c):
        tile_a = cuda.shared.array((TILE, TILE), float32)
        tile_b = cuda.shared.array(shape=(TILE, TILE), dtype=float32)
        x, y = cuda.grid(2)
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        total = float32(0)
        for i in range(a.shape[1] // TILE):
            tile_a[tx, ty] = a[x, ty + i * TILE]
            tile_b[tx, ty] = b[tx + i * TILE, y]
            cuda.syncthreads()
            for j in range(TILE):
                total += tile_a[tx, j] * tile_b[j, ty]
            cuda.syncthreads()
        c[x, y] = total

    a, b = noise(32, 24), noise(24, 16, seed=2)
    c = cuda.device_array((32, 16), np.float32)
    matmul[(4, 2), (TILE, TILE)](a, b, c)
    np.testing.assert_allclose(c.copy_to_host(), a @ b, rtol=1e-4, atol=1e-5)


def test_the_grid_in_three_dimensions():
    @cuda.jit
    def where(out):
        x, y, z = cuda.grid(3)
        width, height, _ = cuda.gridsize(3)
        out[x, y, z] = (z * height + y) * width + x
        if cuda.blockIdx.x == 0 and cuda.gridDim.y == 1:
            out[x, y, z] += cuda.blockDim.z * 1000

    out = cuda.device_array((4, 3, 2), np.int64)
    where[(2, 1, 2), (2, 3, 1)](out)
    x, y, z = np.indices((4, 3, 2))
    np.testing.assert_array_equal(out.copy_to_host(), (z * 3 + y) * 4 + x + 1000 * (x < 2))


def test_local_and_constant_arrays():
    @cuda.jit
    def reverse(out):
        table = cuda.const.array_like(TABLE)
        part = cuda.local.array(10, float32)
        for i in range(10):
            part[9 - i] = table[i]
        out[cuda.grid(1)] = part[cuda.grid(1)]

    out = cuda.device_array(10, np.float32)
    reverse[1, 10](out)
    np.testing.assert_array_equal(out.copy_to_host(), TABLE[::-1])


def test_barriers_that_vote():
    @cuda.jit
    def vote(values, out):
        i = cuda.threadIdx.x
        count = cuda.syncthreads_count(values[i])
        every, some = cuda.syncthreads_and(values[i]), cuda.syncthreads_or(values[i])
        if i == 0:
            out[0], out[1], out[2] = count, every != 0, some != 0

    out = cuda.device_array(3, np.int32)
    vote[1, 64]((np.arange(64) % 4 == 0).astype(np.int32), out)
    assert out.copy_to_host().tolist() == [16, 0, 1]


def test_atomics():
    @cuda.jit
    def count(values, out):
        i = cuda.grid(1)
        if i < values.size:
            cuda.atomic.add(out, values[i] % 4, 1)
            cuda.atomic.max(out, 4, values[i])
            cuda.atomic.min(out, 5, values[i])
            cuda.atomic.cas(out, 6, 0, 9)

    values = np.random.default_rng(3).integers(1, 1000, 5000).astype(np.int32)
    out = cuda.to_device(np.array([0, 0, 0, 0, 0, 1 << 30, 0], np.int32))
    count.forall(values.size)(values, out)
    expected = [*np.bincount(values % 4, minlength=4), values.max(), values.min(), 9]
    assert out.copy_to_host().tolist() == expected


def test_warp_functions():
    @cuda.jit
    def reduce(values, out):
        lane = cuda.laneid
        total = values[cuda.grid(1)]
        step = cuda.warpsize // 2
        while step > 0:
            total += cuda.shfl_down_sync(0xFFFFFFFF, total, step)
            step //= 2
        odd = cuda.ballot_sync(0xFFFFFFFF, lane & 1)
        if lane == 0:
            out[0], out[1] = total, cuda.popc(odd)

    out = cuda.device_array(2, np.int32)
    reduce[1, 32](np.arange(32, dtype=np.int32), out)
    assert out.copy_to_host().tolist() == [496, 16]


def test_math_and_libdevice():
    @cuda.jit
    def functions(x, out):
        i = cuda.grid(1)
        if i < x.size:
            out[i, 0] = math.sin(x[i])
            out[i, 1] = math.exp(x[i])
            out[i, 2] = libdevice.rsqrt(x[i])
            out[i, 3] = cuda.fma(x[i], x[i], 1.0)
            out[i, 4] = np.float32(x[i])

    x = np.linspace(0.1, 5, 50)
    out = cuda.device_array((50, 5), np.float64)
    functions[1, 64](x, out)
    expected = np.stack([np.sin(x), np.exp(x), 1 / np.sqrt(x), x * x + 1, x.astype(np.float32)], axis=1)
    np.testing.assert_allclose(out.copy_to_host(), expected, rtol=1e-12)


def test_names_imported_one_by_one():
    from bitfusion.cuda import atomic, blockDim, blockIdx, grid, shared, syncthreads, threadIdx

    @cuda.jit
    def total(values, out):
        part = shared.array(32, int32)
        i = threadIdx.x
        part[i] = values[grid(1)] if blockIdx.x * blockDim.x + i < values.size else 0
        syncthreads()
        if i == 0:
            for j in range(32):
                atomic.add(out, 0, part[j])

    out = cuda.to_device(np.zeros(1, np.int32))
    total[4, 32](np.arange(100, dtype=np.int32), out)
    assert out.copy_to_host()[0] == 4950


def test_device_functions_call_each_other():
    @cuda.jit("float64(float64)", device=True)
    def square(x):
        return x * x

    @cuda.jit(device=True, inline="always")
    def norm(x, y):
        return math.sqrt(square(x) + square(y))

    @cuda.jit
    def norms(points, out):
        i = cuda.grid(1)
        out[i] = norm(points[i, 0], points[i, 1])

    points = noise(16, 2).astype(np.float64)
    out = cuda.device_array(16)
    norms[1, 16](points, out)
    np.testing.assert_allclose(out.copy_to_host(), np.hypot(*points.T), rtol=1e-12)


def test_random_numbers():
    @cuda.jit
    def draw(states, out):
        i = cuda.grid(1)
        out[i] = random.xoroshiro128p_uniform_float32(states, i)

    states = random.create_xoroshiro128p_states(2048, seed=7)
    out = cuda.device_array(2048, np.float32)
    draw[8, 256](states, out)
    drawn = out.copy_to_host()
    assert ((drawn >= 0) & (drawn < 1)).all()
    assert len(np.unique(drawn)) > 2000
    assert drawn.mean() == pytest.approx(0.5, abs=0.03)
    random.init_xoroshiro128p_states(states, seed=7)
    draw[8, 256](states, out)
    np.testing.assert_array_equal(out.copy_to_host(), drawn)


def test_device_names_on_the_host_say_what_they_are():
    for use in (
        lambda: cuda.grid(1),
        cuda.syncthreads,
        lambda: cuda.shared.array(1, float32),
        lambda: cuda.float32x2(1, 2),
    ):
        with pytest.raises(UnsupportedError, match="inside a kernel only"):
            use()
    assert repr(cuda.threadIdx) == "<numba.cuda.threadIdx, for kernels>"


@pytest.mark.parametrize("name", INSTEAD)
def test_what_is_not_offered_says_what_to_write_instead(name):
    with pytest.raises(AttributeError) as attribute:
        getattr(cuda, name)
    with pytest.raises(ModuleNotFoundError) as module:
        hooked.module(f"numba.cuda.{name}")
    assert INSTEAD[name] in str(attribute.value) == str(module.value)


@pytest.mark.parametrize("name", ["simulator", "nothing_at_all"])
def test_names_that_are_not_offered(name):
    assert not hasattr(cuda, name)
    with pytest.raises(AttributeError, match="docs/guide/cuda"):
        getattr(cuda, name)
    with pytest.raises(AttributeError):
        getattr(cuda.atomic, name)
    with pytest.raises(AttributeError):
        getattr(libdevice, f"__{name}")


def test_dir_lists_what_there_is():
    for name in dir(cuda):
        getattr(cuda, name)
    assert {"jit", "grid", "float32", "atomic", "random", "to_device"} <= set(dir(cuda))


def test_arrays_change_their_shape():
    """Numba has code in CUDA C++ for it, which must be linked."""

    @cuda.jit
    def use(x, out):
        tile = cuda.shared.array(24, float32)
        i = cuda.threadIdx.x
        tile[i] = x.reshape((2, 12))[i % 2, i // 2]
        cuda.syncthreads()
        out[i] = tile.reshape((4, 6))[i % 4, i // 4]

    x, out = noise(24), np.zeros(24, np.float32)
    use[1, 24](x, out)
    np.testing.assert_array_equal(out, x.reshape(2, 12).T.reshape(4, 6).T.ravel())


def test_functions_of_whole_arrays():
    @cuda.jit
    def use(x, out):
        row = x[cuda.grid(1)]
        o = out[cuda.grid(1)]
        o[0], o[1], o[2], o[3] = np.sum(row), np.mean(row), np.prod(row), np.std(row)
        o[4], o[5], o[6], o[7] = np.argmax(row), np.argmin(row), np.count_nonzero(row), np.var(row)
        o[8], o[9], o[10], o[11] = np.any(row), np.all(row), np.shape(row)[0], np.size(row)
        o[12], o[13], o[14] = np.nansum(row), np.nanmean(row), np.nanvar(row)
        o[15], o[16], o[17] = np.average(row), np.nanprod(row), np.nanstd(row)
        o[18], o[19] = np.searchsorted(x[2], row[1]), row.sum()

    x = np.random.default_rng(3).uniform(1, 2, (4, 9))
    x[1, 3], x[1, 5:], x[2] = 0, -2, np.sort(x[2])
    out = np.zeros((4, 20))
    use[1, 4](x, out)
    functions = (np.sum, np.mean, np.prod, np.std, np.argmax, np.argmin, np.count_nonzero, np.var, np.any, np.all)
    for row, got in zip(x, out, strict=True):
        expected = [function(row) for function in functions] + [9, 9, row.sum(), row.mean(), row.var(), row.mean()]
        expected += [row.prod(), row.std(), np.searchsorted(x[2], row[1]), row.sum()]
        np.testing.assert_allclose(got, expected, rtol=1e-12)


@cuda.jit("uint32(uint32)", device=True)
def scramble(state):
    return state * 1664525 + 1013904223


@cuda.jit(device=True)
def twice(state):
    return scramble(scramble(state))


@cuda.jit("float32(float32)", device=True)
def third(x):
    return x / 3


@cuda.jit(["int64(int64, int64)", "float64(float64, float64)"], device=True)
def half_of_sum(x, y):
    return (x + y) / 2


@cuda.jit("(int32, int32)", device=True)
def kept(x, y):
    return x + y


def test_device_functions_keep_to_the_signatures_they_are_declared_with():
    """Without: 64-bit integers that do not wrap, and double precision."""

    @cuda.jit
    def use(states, x, out):
        i = cuda.grid(1)
        states[i] = twice(states[i]) >> 3
        out[0, i] = third(x[i])
        out[1, i] = half_of_sum(i, 2)
        out[2, i] = half_of_sum(x[i], 2)
        out[3, i] = kept(x[i], 1.75)

    states = np.array([1, 2**31 + 5, 77], np.uint32)
    x, out = np.array([1.0, 2.5, 4.0]), np.zeros((4, 3))
    expected = states
    for _ in range(2):
        expected = expected * np.uint32(1664525) + np.uint32(1013904223)
    use[1, 3](states, x, out)
    np.testing.assert_array_equal(states, expected >> 3)
    np.testing.assert_array_equal(out[0], x.astype(np.float32) / np.float32(3))
    np.testing.assert_array_equal(out[1:], [[1, 1, 2], (x + 2) / 2, [2, 3, 5]])


def test_one_function_declared_in_two_ways_is_two():
    def double(x):
        return x * 2

    narrow, wide = cuda.jit("uint8(uint8)", device=True)(double), cuda.jit("int64(int64)", device=True)(double)

    @cuda.jit
    def use(out):
        out[0], out[1] = narrow(200), wide(200)

    out = np.zeros(2, np.int64)
    use[1, 1](out)
    assert out.tolist() == [400 % 256, 400]


def test_a_declared_function_that_cannot_be_compiled_names_its_line():
    @cuda.jit("int32(float32[:])", device=True)
    def wrong(x):
        return x.missing

    @cuda.jit
    def use(x):
        x[0] = wrong(x)

    line = wrong.py_func.__code__.co_firstlineno + 2
    with pytest.raises(KernelCompileError, match=rf"(?s)test_language.py:{line}: .*missing"):
        use[1, 1](np.zeros(1, np.float32))
