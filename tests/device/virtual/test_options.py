"""Every option of the compiler, on and off, gives the same results: they change how fast and how safe, never what."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from numba import cuda

from bitfusion.device.virtual.layout import CompileOptions
from tests.device.virtual.gpu import HEADER, Gpu
from tests.device.virtual.test_atomics import shared_histogram
from tests.device.virtual.test_shared import TILE, matmul, reduce_block, scan
from tests.device.virtual.test_warp import drifting

RANDOM = np.random.default_rng(19)


def saxpy(a, x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = a * x[i] + y[i]


@pytest.fixture(params=[field.name for field in fields(CompileOptions)])
def flipped(request):
    """A device with one option other than by default."""
    default = getattr(CompileOptions(), request.param)
    gpu = Gpu(options=CompileOptions(**{request.param: not default}))
    yield gpu
    gpu.device.close()


def test_results_do_not_depend_on_options(flipped):
    x, y = RANDOM.standard_normal((2, 1000)).astype(np.float32)
    out = y.copy()
    flipped.run(saxpy, 5, 256, np.float32(2), x, out)
    np.testing.assert_allclose(out, 2 * x + y, rtol=1e-6, atol=1e-6)

    a, b = RANDOM.integers(-5, 5, (2, 40, 40)).astype(np.float32)
    c = np.zeros((40, 40), np.float32)
    flipped.run(matmul, (3, 3), (TILE, TILE), a, b, c)
    np.testing.assert_array_equal(c, a @ b)

    numbers = RANDOM.integers(0, 10, 2560).astype(np.float32)
    sums, scanned = np.zeros(4, np.float32), np.zeros(2560, np.float32)
    flipped.run(reduce_block, 4, 256, numbers, sums)
    assert sums.sum() == numbers.sum()
    flipped.run(scan, 10, 256, numbers, scanned)
    np.testing.assert_array_equal(scanned, numbers.reshape(10, 256).cumsum(1).ravel())

    exchanged = np.zeros(128, np.int32)
    flipped.run(drifting, 1, 128, np.arange(128, dtype=np.int32), exchanged)
    np.testing.assert_array_equal(np.sort(exchanged), np.sort(np.arange(128) + np.arange(128) // 32))

    bytes_, counts = RANDOM.integers(0, 256, 5000).astype(np.uint8), np.zeros(256, np.int32)
    blocks = 1 if flipped.device._options.plain_atomics else 10
    flipped.run(shared_histogram, blocks, 128, bytes_, counts)
    np.testing.assert_array_equal(counts, np.bincount(bytes_, minlength=256))


DENORMAL = (
    HEADER
    + """
.visible .entry kernel(.param .u64 x) {
  .reg .b64 %rd1; .reg .f32 %f<3>;
  ld.param.u64 %rd1, [x];
  ld.global.f32 %f1, [%rd1];
  add.ftz.f32 %f2, %f1, %f1;
  st.global.f32 [%rd1+4], %f2;
  add.f32 %f2, %f1, %f1;
  st.global.f32 [%rd1+8], %f2;
  ret;
}
"""
)


@pytest.mark.parametrize("flush", [False, True])
def test_denormals_are_flushed_where_ptx_and_the_option_say_so(flush):
    gpu = Gpu(options=CompileOptions(flush_denormals=flush))
    tiny = np.float32(1e-40)
    x = gpu.array(np.array([tiny, 1, 1], np.float32))
    gpu.device.launch(gpu.stream, gpu.load(DENORMAL), (1, 1, 1), (1, 1, 1), 0, x.address.to_bytes(8, "little"))
    np.testing.assert_array_equal(x.host()[1:], [0 if flush else tiny + tiny, tiny + tiny])
    gpu.device.close()


def guarded(x, n):
    i = cuda.grid(1)
    if i < n:
        x[i] += 1


@pytest.mark.parametrize("n", [-(2**31), -1, 0, 1, 127, 128, 129, 511, 512, 513, 2**31 - 1])
def test_the_guard_of_a_row_decides_as_every_thread_would(gpu, n):
    x = np.zeros(512, np.int64)
    gpu.run(guarded, 4, 128, x, np.int32(n))
    np.testing.assert_array_equal(x, np.arange(512) < n)
