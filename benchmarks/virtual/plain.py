"""The same maths in NumPy: what results are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.virtual.kernels import DRAWS, SOFTENING

Array = NDArray[Any]

CHUNK = 256
"""Bodies whose distances to all others are in memory at once."""


def saxpy(a: Any, x: Array, y: Array, out: Array) -> Array:
    np.multiply(x, a, out=out)
    out += y
    return out


def stencil(source: Array, target: Array) -> Array:
    inner = target[1:-1, 1:-1]
    np.add(source[1:-1, :-2], source[1:-1, 2:], out=inner)
    inner += source[:-2, 1:-1]
    inner += source[2:, 1:-1]
    inner *= np.float32(0.125)
    inner += np.float32(0.5) * source[1:-1, 1:-1]
    return target


def monte_carlo(first: Array, second: Array) -> Array:
    s0, s1 = first.copy(), second.copy()
    hits = np.zeros(first.size, np.int64)
    for _ in range(DRAWS):
        x, y = _uniform(s0, s1), _uniform(s0, s1)
        hits += x * x + y * y <= np.float32(1)
    return hits


def _uniform(s0: Array, s1: Array) -> Array:
    """A float32 from [0, 1) for every state, which becomes the next (xoroshiro128+, the version of 2016)."""
    unit: Array = ((s0 + s1 >> np.uint64(11)) * (1.0 / (1 << 53))).astype(np.float32)
    s1 ^= s0
    s0[:] = _rotated(s0, 55) ^ s1 ^ s1 << np.uint64(14)
    s1[:] = _rotated(s1, 36)
    return unit


def _rotated(words: Array, count: int) -> Array:
    rotated: Array = words << np.uint64(count) | words >> np.uint64(64 - count)
    return rotated


def n_body(x: Array, y: Array, z: Array, mass: Array) -> Array:
    """The acceleration along x."""
    result = np.empty_like(x)
    for start in range(0, x.size, CHUNK):
        part = slice(start, start + CHUNK)
        dx, dy, dz = (axis[None, :] - axis[part, None] for axis in (x, y, z))
        pull = mass / (dx * dx + dy * dy + dz * dz + np.float32(SOFTENING)) ** 1.5
        result[part] = (pull * dx).sum(axis=1)
    return result
