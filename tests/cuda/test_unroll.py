"""``numba.literal_unroll``: a loop over a tuple whose elements are arrays of their own lengths."""

from __future__ import annotations

import numba
import numpy as np
from numba import literal_unroll

from bitfusion import cuda

ARRAYS = (np.array([1.0, 2.0]), np.array([3.0]), np.array([4.0, 5.0, 6.0]))


@cuda.jit
def by_name(out):
    i = 0
    for array in literal_unroll(ARRAYS):
        out[i] = np.sum(array)
        i += 1  # noqa: SIM113  # enumerate of what is unrolled is not typed


@cuda.jit
def by_module(out):
    i = 0
    for array in numba.literal_unroll(ARRAYS):
        out[i] = array[0]
        i += 1  # noqa: SIM113  # enumerate of what is unrolled is not typed


@cuda.jit
def by_our_module(out):
    for array in cuda.literal_unroll(ARRAYS):
        out[0] += array[0]


def test_a_loop_over_arrays_is_unrolled(client):
    sums, firsts = np.zeros(3), np.zeros(3)
    by_name[1, 1](sums)
    by_module[1, 1](firsts)
    np.testing.assert_array_equal(sums, [3, 3, 15])
    np.testing.assert_array_equal(firsts, [1, 3, 4])
    by_our_module[1, 1](sums)
    assert sums[0] == 3 + 1 + 3 + 4
