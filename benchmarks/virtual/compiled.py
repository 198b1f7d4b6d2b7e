"""The same maths for the CPU, as one writes it well for ``numba.njit(parallel=True)``.

May contract to fma, as the compilers for GPUs do, and add up sums in another order, without which LLVM vectorises none.
May not put reciprocals in place of divisions ("arcp"): the kernels divide and take roots as IEEE 754 says, which is CUDA's
default, and the instruction for an approximate 1 / sqrt(x) would spare njit alone the costliest part of ``n_body``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import get_num_threads, njit, prange

from benchmarks.virtual.kernels import BINS, DRAWS, SOFTENING

FAST = {"contract", "reassoc", "nsz"}
DEPTH = 64
"""Rows of b that ``matmul`` uses as long as they are in the cache."""

_compiled: Callable[..., Any] = njit(parallel=True, fastmath=FAST)


@_compiled
def saxpy(a, x, y, out):
    for i in prange(x.size):
        out[i] = a * x[i] + y[i]


@_compiled
def stencil(source, target):
    height, width = source.shape
    for y in prange(1, height - 1):
        for x in range(1, width - 1):
            around = source[y, x - 1] + source[y, x + 1] + source[y - 1, x] + source[y + 1, x]
            target[y, x] = np.float32(0.5) * source[y, x] + np.float32(0.125) * around


@_compiled
def matmul(a, b, c):
    rows, depth = a.shape
    for tile in prange((rows + DEPTH - 1) // DEPTH):
        first, last = tile * DEPTH, min(tile * DEPTH + DEPTH, rows)
        c[first:last] = 0
        for start in range(0, depth, DEPTH):
            for i in range(first, last):
                row = c[i]
                for k in range(start, min(start + DEPTH, depth)):
                    factor = a[i, k]
                    for j in range(b.shape[1]):
                        row[j] += factor * b[k, j]


@_compiled
def total(x):
    result = np.float32(0)
    for i in prange(x.size):
        result += x[i]
    return result


@_compiled
def histogram(values):
    threads = get_num_threads()
    partial = np.zeros((threads, BINS), np.int32)
    share = (values.size + threads - 1) // threads
    for thread in prange(threads):
        counts = partial[thread]
        for i in range(thread * share, min(thread * share + share, values.size)):
            counts[values[i]] += 1
    return partial.sum(axis=0)


@njit(inline="always")
def _uniform(s0, s1):
    """A float32 from [0, 1) and the next state (xoroshiro128+, the version of 2016)."""
    unit = np.float32((s0 + s1 >> np.uint64(11)) * (1.0 / (1 << 53)))
    s1 ^= s0
    s0 = (s0 << np.uint64(55) | s0 >> np.uint64(9)) ^ s1 ^ s1 << np.uint64(14)
    return unit, s0, s1 << np.uint64(36) | s1 >> np.uint64(28)


@_compiled
def monte_carlo(first, second, hits):
    for i in prange(first.size):
        s0, s1 = first[i], second[i]
        inside = 0
        for _ in range(DRAWS):
            x, s0, s1 = _uniform(s0, s1)
            y, s0, s1 = _uniform(s0, s1)
            if x * x + y * y <= np.float32(1):
                inside += 1
        hits[i] = inside


@_compiled
def n_body(x, y, z, mass, result):
    for i in prange(x.size):
        xi, yi, zi = x[i], y[i], z[i]
        sx, sy, sz = np.float32(0), np.float32(0), np.float32(0)
        for j in range(x.size):
            dx, dy, dz = x[j] - xi, y[j] - yi, z[j] - zi
            squared = dx * dx + dy * dy + dz * dz + np.float32(SOFTENING)
            inverse = np.float32(1) / math.sqrt(squared)
            pull = mass[j] * inverse * inverse * inverse
            sx += pull * dx
            sy += pull * dy
            sz += pull * dz
        result[0, i], result[1, i], result[2, i] = sx, sy, sz
