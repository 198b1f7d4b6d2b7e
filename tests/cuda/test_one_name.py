"""Kernels and device functions of one name are told apart by what they are."""

from __future__ import annotations

import numpy as np

from bitfusion import cuda


def _kernel(number):
    @cuda.jit(device=True)
    def chosen():
        return number

    @cuda.jit
    def kernel(out):
        out[cuda.threadIdx.x] = chosen()

    return kernel


def test_two_kernels_of_one_name(client):
    """Each keeps its own closure, whichever was launched first."""
    one, two = _kernel(1), _kernel(2)
    out = np.zeros(2, np.int32)
    found = []
    for kernel in (one, two, one):
        kernel[1, 2](out)
        found.append(out.tolist())
    assert found == [[1, 1], [2, 2], [1, 1]]
