"""A user's module: kernels in the many ways people write them. Captured, not run, by the tests."""

from __future__ import annotations

import cmath
import enum
import math
import operator
from math import pi
from math import sin as sine

import numba
import numba as nb
import numba.cuda as nc
import numpy as np
from numba import cuda, float32
from numba.cuda import atomic, threadIdx
from numba.cuda import shared as scratch

from tests.kernels import settings

TILE = 16
TABLE = np.arange(5, dtype=np.float32)
POINT = np.dtype([("x", np.float32), ("n", np.int32)])
POINTS = np.array([(1.5, 2), (2.5, 3)], POINT)
SHAPE = (4, TILE)
SCALE = np.float32(1.5)
ROTATION = 1 + 2j


class Mode(enum.IntEnum):
    FAST = 3


@cuda.jit(device=True)
def weigh(value, factor=2):
    """Doubles."""
    return value * factor


@cuda.jit(device=True)
def twice(value):
    return weigh(value) + weigh(value)


@cuda.jit(
    fastmath=True,
)
def axpy(a: float, x, y):
    """A docstring with code in it: import os; os.system("true")"""
    i: int = cuda.grid(1)
    if i < x.size:
        y[i] += a * x[i]


@nc.jit
def tiled(x, y):
    tile = scratch.array((TILE, 4), float32)
    i = nb.cuda.grid(1)
    tile[threadIdx.x, 0] = x[i]
    numba.cuda.syncthreads()
    y[i] = tile[nc.blockDim.x - 1 - cuda.threadIdx.x, 0] + nc.blockIdx.x
    atomic.add(y, 0, np.float32(1))


@cuda.jit
def constants(x):
    table = cuda.const.array_like(TABLE)
    points = cuda.const.array_like(POINTS)
    local = cuda.local.array(SHAPE, POINT)
    local[0, 1].x = table[1] * SCALE + pi + math.pi
    x[0] = local[0, 1]["x"] + points[1].n + settings.RATE + Mode.FAST.value + TABLE.shape[0] + abs(ROTATION)


@cuda.jit
def calls(x):
    x[0] = twice(x[1]) + settings.halve(x[2])
    x[1] = sine(x[0]) + np.sin(x[1]) + operator.add(x[0], 1) + abs(cmath.sqrt(complex(x[1], 0.0)))
    for i in range(3):
        x[i] = max(x[i], 0)


def closing(limit, helper):
    @cuda.jit
    def inner(x):
        def clip(value):
            return min(value, limit)

        x[0] = clip(helper(x[1]))

    return inner


def unfinished():
    def inner(x):
        x[0] = later

    captured = inner
    yield captured
    later = 1
    yield later


class Holder:
    @staticmethod
    @cuda.jit
    def method(x):
        print("""
not indented""")
        if x[1] > TILE:
            x[0] = 1


def negate(value):
    return -value


lambdas = [lambda x: x + 1, lambda x: (
    x * TILE), lambda y: weigh(y)]  # fmt: skip


def generator(x):
    yield x


async def coroutine(x):
    x[0] = 1
