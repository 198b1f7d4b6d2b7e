"""Random kernels compute what their model says, whatever the compiler's options, the block's shape and the number of blocks."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from bitfusion.device.virtual.layout import CompileOptions
from tests.device.virtual.gpu import Gpu
from tests.device.virtual.ptx import run
from tests.fuzz.kernel_language import COUNTERS, INPUT_SIZE, SLOTS, Statement, kernels
from tests.fuzz.kernel_model import MASK, block_threads, run_block
from tests.fuzz.kernel_ptx import Writer

X = np.random.default_rng(41).integers(-300, 300, INPUT_SIZE).astype(np.int32)

SPEED = [field.name for field in fields(CompileOptions) if field.name not in ("plain_atomics", "flush_denormals")]
options = st.just(CompileOptions()) | st.builds(CompileOptions, **dict.fromkeys(SPEED, st.booleans()))
shapes = st.sampled_from(
    [(64, 1), (33, 1), (128, 2), (17, 3), (1, 40), (256, 1), (5, 1), (1, 1), (100, 1), (16, 6), (8, 8), (96, 1)]
)


def expected(kernel: tuple[Statement, ...], shape: tuple[int, int], grid: int) -> tuple[np.ndarray, np.ndarray]:
    """(cells: one row for each slot, counters)"""
    counters, cells = [0] * COUNTERS, []
    for number in range(grid):
        threads = block_threads(number, shape, [int(value) & MASK for value in X], counters)
        run_block(kernel, threads)
        cells += [thread.cells for thread in threads]
    return np.array(cells, np.uint32).T, np.array([value & MASK for value in counters], np.uint32)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(kernels, options, shapes, st.integers(1, 3))
def test_kernels_compute_what_their_model_says(kernel, options, shape, grid):
    threads = shape[0] * shape[1]
    text = Writer(threads, grid).text(kernel)
    note(text)
    cells, counters = np.zeros((2 * SLOTS, grid * threads), np.uint32), np.zeros(COUNTERS, np.uint32)
    gpu = Gpu(options=options)
    try:
        run(gpu, text, X.copy(), cells, counters, grid=grid, block=shape)
    finally:
        gpu.device.close()
    right_cells, right_counters = expected(kernel, shape, grid)
    np.testing.assert_array_equal(cells, right_cells)
    np.testing.assert_array_equal(counters, right_counters)
