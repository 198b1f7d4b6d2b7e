"""Math functions: what Numba's library code gives on the virtual GPU, within CUDA's own error bounds of NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numba import cuda

COUNT = 400
RANDOM = np.random.default_rng(11)

UNARY = {
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": lambda x: np.arcsin(x / (np.abs(x) + 1)),
    "acos": lambda x: np.arccos(x / (np.abs(x) + 1)),
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": lambda x: np.log(np.abs(x)),
    "log2": lambda x: np.log2(np.abs(x)),
    "log10": lambda x: np.log10(np.abs(x)),
    "log1p": lambda x: np.log1p(np.abs(x)),
    "sqrt": lambda x: np.sqrt(np.abs(x)),
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "erf": np.vectorize(math.erf),
    "lgamma": np.vectorize(lambda x: math.lgamma(abs(x) + 1)),
    "gamma": np.vectorize(lambda x: math.gamma(abs(x) / 10 + 1)),
    "cbrt": np.cbrt,
    "pow": lambda x: np.abs(x) ** 0.3,
    "atan2": lambda x: np.arctan2(x, 2),
    "hypot": lambda x: np.hypot(x, 3),
    "fmod": lambda x: np.fmod(x, 1.75),
    "copysign": lambda x: np.copysign(3, x),
}
"""Rows of ``functions`` and what they should be."""


def functions(x, out):
    i = cuda.grid(1)
    if i < x.size:
        v = x[i]
        one, two = x.dtype.type(1), x.dtype.type(2)
        out[0, i] = math.sin(v)
        out[1, i] = math.cos(v)
        out[2, i] = math.tan(v)
        out[3, i] = math.asin(v / (abs(v) + one))
        out[4, i] = math.acos(v / (abs(v) + one))
        out[5, i] = math.atan(v)
        out[6, i] = math.sinh(v)
        out[7, i] = math.cosh(v)
        out[8, i] = math.tanh(v)
        out[9, i] = math.exp(v)
        out[10, i] = math.expm1(v)
        out[11, i] = math.log(abs(v))
        out[12, i] = math.log2(abs(v))
        out[13, i] = math.log10(abs(v))
        out[14, i] = math.log1p(abs(v))
        out[15, i] = math.sqrt(abs(v))
        out[16, i] = math.floor(v)
        out[17, i] = math.ceil(v)
        out[18, i] = math.trunc(v)
        out[19, i] = math.erf(v)
        out[20, i] = math.lgamma(abs(v) + one)
        out[21, i] = math.gamma(abs(v) / x.dtype.type(10) + one)
        out[22, i] = cuda.cbrt(v)
        out[23, i] = math.pow(abs(v), x.dtype.type(0.3))
        out[24, i] = math.atan2(v, two)
        out[25, i] = math.hypot(v, x.dtype.type(3))
        out[26, i] = math.fmod(v, x.dtype.type(1.75))
        out[27, i] = math.copysign(x.dtype.type(3), v)


@pytest.mark.parametrize(("dtype", "ulps"), [(np.float32, 32), (np.float64, 16)], ids=["float32", "float64"])
def test_functions(gpu, dtype, ulps):
    x = (RANDOM.standard_normal(COUNT) * 10).astype(dtype)
    out = np.zeros((len(UNARY), COUNT), dtype)
    gpu.run(functions, 4, 128, x, out)
    for row, (name, function) in zip(out, UNARY.items(), strict=True):
        expected = function(x.astype(np.float64))
        # CUDA C++ Programming Guide, Mathematical Functions: at most 6 (float) and 10 (double, gamma) units in the last place
        tolerance = ulps * np.finfo(dtype).eps
        np.testing.assert_allclose(row, expected, rtol=tolerance, atol=tolerance, err_msg=name)


def special(x, out):
    i = cuda.grid(1)
    if i < x.size:
        v = x[i]
        out[0, i] = math.exp(v)
        out[1, i] = math.sqrt(v)
        out[2, i] = math.tanh(v)
        out[3, i] = math.isnan(v)
        out[4, i] = math.isinf(v)
        out[5, i] = math.floor(v)
        out[6, i] = max(v, x.dtype.type(0))
        out[7, i] = min(v, x.dtype.type(0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda dtype: dtype.__name__)
def test_functions_of_special_values(gpu, dtype):
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -4.0, 1000.0, -1000.0], dtype)
    out = np.zeros((8, x.size), dtype)
    gpu.run(special, 1, 32, x, out)
    with np.errstate(all="ignore"):
        expected = [np.exp(x), np.sqrt(x), np.tanh(x), np.isnan(x), np.isinf(x), np.floor(x)]
    np.testing.assert_array_equal(out[:6], np.array([row.astype(dtype) for row in expected]))
    number = ~np.isnan(x)
    np.testing.assert_array_equal(out[6:, number], [np.maximum(x[number], 0), np.minimum(x[number], 0)])


def large_angles(x, out):
    i = cuda.grid(1)
    if i < x.size:
        out[0, i] = math.sin(x[i])
        out[1, i] = math.cos(x[i])


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda dtype: dtype.__name__)
def test_large_angles_take_the_long_reduction(gpu, dtype):
    x = np.geomspace(1e5, 1e30, COUNT).astype(dtype)
    out = np.zeros((2, COUNT), dtype)
    gpu.run(large_angles, 4, 128, x, out)
    wide = x.astype(np.longdouble) if dtype is np.float32 else x
    tolerance = 8 * np.finfo(dtype).eps
    np.testing.assert_allclose(out, np.array([np.sin(wide), np.cos(wide)], np.float64), rtol=tolerance, atol=tolerance)


def fast(x, out):
    i = cuda.grid(1)
    if i < x.size:
        v = x[i]
        out[0, i] = math.sin(v)
        out[1, i] = math.cos(v)
        out[2, i] = math.exp(v)
        out[3, i] = math.log(abs(v) + np.float32(1))
        out[4, i] = math.sqrt(abs(v))
        out[5, i] = np.float32(1) / (np.float32(1) + abs(v))
        out[6, i] = math.tanh(v)


def test_fast_math(gpu):
    x = RANDOM.uniform(-3, 3, COUNT).astype(np.float32)
    device = [gpu.array(x), gpu.array(np.zeros((7, COUNT), np.float32))]
    gpu.launch(fast, 4, 128, *device, fastmath=True)
    wide = x.astype(np.float64)
    expected = [
        np.sin(wide),
        np.cos(wide),
        np.exp(wide),
        np.log(abs(wide) + 1),
        np.sqrt(abs(wide)),
        1 / (1 + abs(wide)),
        np.tanh(wide),
    ]
    np.testing.assert_allclose(device[1].host(), expected, rtol=2e-5, atol=2e-6)


def rounding(x, y, z):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = round(x[i])
        z[i] = cuda.fma(x[i], x[i], x[i])


def test_rounding_and_fused_multiply_add(gpu):
    x = np.concatenate([RANDOM.standard_normal(90) * 100, [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 1e9, -1e9, 0, 4.5]])
    y, z = np.zeros(100, np.int64), np.zeros(100)
    gpu.run(rounding, 1, 128, x, y, z)
    np.testing.assert_array_equal(y, np.round(x).astype(np.int64))
    np.testing.assert_allclose(z, x * x + x, rtol=1e-14, atol=1e-16)
