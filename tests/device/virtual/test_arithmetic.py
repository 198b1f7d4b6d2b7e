"""Numbers: what Numba's integer, float, half, complex and record arithmetic gives is what NumPy gives."""

from __future__ import annotations

import numpy as np
import pytest
from numba import cuda, int8, int16, uint8, uint16, uint32, uint64
from numba.cuda.types import float16

INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
COUNT = 500
RANDOM = np.random.default_rng(7)


def edges(dtype, count=COUNT):
    """Random values of the whole range, and those at its ends and around zero."""
    limits = np.iinfo(dtype)
    values = RANDOM.integers(limits.min, limits.max, count, dtype, endpoint=True)
    special = [limits.min, limits.min + 1, limits.max, limits.max - 1, 0, 1, 2, limits.max // 2]
    values[: len(special)] = special
    return values


def integers(a, b, out):
    i = cuda.grid(1)
    if i < a.size:
        x, y = a[i], b[i]
        out[0, i] = x + y
        out[1, i] = x - y
        out[2, i] = x * y
        out[3, i] = x & y
        out[4, i] = x | y
        out[5, i] = x ^ y
        out[6, i] = ~x
        out[7, i] = -x
        out[8, i] = min(x, y)
        out[9, i] = max(x, y)
        out[10, i] = x < y
        out[11, i] = x == y


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda dtype: dtype.__name__)
def test_integers_wrap_around(gpu, dtype):
    a, b = edges(dtype), RANDOM.permutation(edges(dtype))
    out = np.zeros((12, COUNT), dtype)
    gpu.run(integers, 5, 128, a, b, out)
    with np.errstate(over="ignore"):
        expected = [a + b, a - b, a * b, a & b, a | b, a ^ b, ~a, -a, np.minimum(a, b), np.maximum(a, b), a < b, a == b]
    np.testing.assert_array_equal(out, np.array(expected).astype(dtype))


def divisions(a, b, out):
    i = cuda.grid(1)
    if i < a.size:
        out[0, i] = a[i] // b[i]
        out[1, i] = a[i] % b[i]


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda dtype: dtype.__name__)
def test_division_rounds_down_and_keeps_the_divisors_sign(gpu, dtype):
    a, b = edges(dtype), RANDOM.permutation(edges(dtype))
    b[b == 0] = 3
    a[(b == -1) if np.iinfo(dtype).min else b == 0] = 5  # the most negative number by -1 has no result
    out = np.zeros((2, COUNT), dtype)
    gpu.run(divisions, 5, 128, a, b, out)
    np.testing.assert_array_equal(out, [a // b, a % b])


DIVIDE = """
.version 8.0
.target sm_80
.address_size 64
.visible .entry divide(.param .u64 numbers) {
  .reg .b64 %rd<2>;
  .reg .b32 %r<5>;
  ld.param.u64 %rd1, [numbers];
  ld.global.s32 %r1, [%rd1];
  ld.global.s32 %r2, [%rd1+4];
  div.s32 %r3, %r1, %r2;
  rem.s32 %r4, %r1, %r2;
  st.global.s32 [%rd1+8], %r3;
  st.global.s32 [%rd1+12], %r4;
  ret;
}
"""


@pytest.mark.parametrize(("a", "b"), [(7, 0), (-7, 0), (-(2**31), -1), (0, 0)])
def test_a_division_without_result_is_no_trap_of_the_cpu(gpu, a, b):
    numbers = gpu.array(np.array([a, b, 0, 0], np.int32))
    function = gpu.load(DIVIDE)
    gpu.device.launch(gpu.stream, function, (1, 1, 1), (1, 1, 1), 0, numbers.address.to_bytes(8, "little"))
    quotient, remainder = numbers.host()[2:]
    if b == -1:
        assert (quotient, remainder) == (a, 0)
    else:
        assert quotient == -1  # all bits set, as on NVIDIA's hardware (CUDA C++ Best Practices Guide)


def shifts(values, counts, out):
    i = cuda.grid(1)
    if i < values.size:
        out[0, i] = values[i] << counts[i]
        out[1, i] = values[i] >> counts[i]


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64, np.uint64], ids=lambda dtype: dtype.__name__)
def test_shifts(gpu, dtype):
    values = edges(dtype)
    counts = np.arange(COUNT, dtype=dtype) % values.dtype.type(values.itemsize * 8)
    out = np.zeros((2, COUNT), dtype)
    gpu.run(shifts, 5, 128, values, counts, out)
    np.testing.assert_array_equal(out, [values << counts, values >> counts])


SHIFT = """
.version 8.0
.target sm_80
.address_size 64
.visible .entry shift(.param .u64 out, .param .u32 count) {
  .reg .b64 %rd<3>;
  .reg .b32 %r<5>;
  ld.param.u64 %rd1, [out];
  ld.param.u32 %r1, [count];
  mov.u32 %r2, 0x80000001;
  shl.b32 %r3, %r2, %r1;
  shr.u32 %r4, %r2, %r1;
  st.global.v2.u32 [%rd1], {%r3, %r4};
  shr.s32 %r3, %r2, %r1;
  st.global.u32 [%rd1+8], %r3;
  ret;
}
"""


@pytest.mark.parametrize("count", [31, 32, 33, 0xFFFFFFFF])
def test_shifts_beyond_the_width_are_clamped(gpu, count):
    out = np.zeros(3, np.uint32)
    device = gpu.array(out)
    function = gpu.load(SHIFT)
    blob = device.address.to_bytes(8, "little") + count.to_bytes(4, "little")
    gpu.device.launch(gpu.stream, function, (1, 1, 1), (1, 1, 1), 0, blob)
    assert device.host().tolist() == [0x80000000, 1, 0xFFFFFFFF] if count == 31 else [0, 0, 0xFFFFFFFF]


def mixed(a, b, c, d, e):
    i = cuda.grid(1)
    if i < a.size:
        v, w = a[i], b[i]
        c[i] = v * (w + 1) + (v >> 3) ^ (v << 2)
        d[i] = w + uint8(v & 0x7F)
        e[i] = int16(v) - int16(w)


def test_widths_mix(gpu):
    a, b = edges(np.int64), RANDOM.integers(0, 255, COUNT, np.uint8)
    c, d, e = np.zeros(COUNT, np.int64), np.zeros(COUNT, np.uint8), np.zeros(COUNT, np.int16)
    gpu.run(mixed, 5, 128, a, b, c, d, e)
    wide = b.astype(np.int64)
    np.testing.assert_array_equal(c, a * (wide + 1) + (a >> 3) ^ (a << 2))
    np.testing.assert_array_equal(d, (wide + (a & 0x7F)).astype(np.uint8))
    np.testing.assert_array_equal(e, (a.astype(np.int16).astype(np.int64) - wide).astype(np.int16))


def intrinsics(x, out):
    i = cuda.grid(1)
    if i < x.size:
        v = x[i]
        out[0, i] = cuda.popc(v)
        out[1, i] = cuda.clz(v)
        out[2, i] = cuda.brev(v)
        out[3, i] = cuda.ffs(v)
        out[4, i] = cuda.selp(v > 3, 10, 20)
        out[5, i] = abs(v)


@pytest.mark.parametrize("dtype", [np.int32, np.uint64], ids=lambda dtype: dtype.__name__)
def test_bit_intrinsics(gpu, dtype):
    x = edges(dtype)
    out = np.zeros((6, COUNT), dtype)
    gpu.run(intrinsics, 5, 128, x, out)
    size = x.itemsize * 8
    bits = [int(value) & ((1 << size) - 1) for value in x]
    reverse = np.array([int(f"{value:0{size}b}"[::-1], 2) for value in bits], np.dtype(f"u{x.itemsize}")).view(dtype)
    first = [(value & -value).bit_length() for value in bits]
    np.testing.assert_array_equal(out[0], [value.bit_count() for value in bits])
    np.testing.assert_array_equal(out[1], [size - value.bit_length() for value in bits])
    np.testing.assert_array_equal(out[2], reverse)
    np.testing.assert_array_equal(out[3], first)
    np.testing.assert_array_equal(out[4], np.where(x > 3, 10, 20))
    np.testing.assert_array_equal(out[5], np.abs(x))


SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-310, 5e-324, 1e-45, 3e38, 1.7e308, 0.5, 1.5, 2.5, -0.5]


def floats(a, b, out):
    i = cuda.grid(1)
    if i < a.size:
        x, y = a[i], b[i]
        out[0, i] = x + y
        out[1, i] = x - y
        out[2, i] = x * y
        out[3, i] = x / y
        out[4, i] = -x
        out[5, i] = abs(x)
        out[6, i] = x < y
        out[7, i] = x == y
        out[8, i] = x != y
        out[9, i] = not (x >= y)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda dtype: dtype.__name__)
def test_floats_are_exact_with_denormals_infinities_and_nan(gpu, dtype):
    with np.errstate(all="ignore"):
        special = np.array(SPECIAL, dtype)
        a, b = (grid.ravel() for grid in np.meshgrid(special, special))
        b = b.copy()
        b[b == 0] = 2  # Numba's division by zero is an error; see the next test
        out = np.zeros((10, a.size), dtype)
        gpu.run(floats, 5, 64, a.copy(), b, out)
        expected = [a + b, a - b, a * b, a / b, -a, np.abs(a), a < b, a == b, a != b, ~(a >= b)]
        np.testing.assert_array_equal(out, np.array([row.astype(dtype) for row in expected]))


def quotient(a, b, out):
    i = cuda.grid(1)
    if i < a.size:
        out[i] = a[i] / b[i]


def test_a_float_by_zero_is_infinite_as_on_a_gpu(gpu):
    a = np.array([1, -1, 0], np.float32)
    out = np.zeros(3, np.float32)
    gpu.run(quotient, 1, 3, a, np.zeros(3, np.float32), out)
    np.testing.assert_array_equal(out, np.array([np.inf, -np.inf, np.nan], np.float32))


def conversions(x, out8, out32, out64, outu32, outu64, outf):
    i = cuda.grid(1)
    if i < x.size:
        out8[i] = int8(x[i])
        out32[i] = int(x[i])
        out64[i] = x[i]
        outu32[i] = uint32(x[i])
        outu64[i] = uint64(x[i])
        outf[i] = np.float32(out64[i])


def test_conversions_truncate(gpu):
    x = np.array([0.9, -0.9, 1.5, -1.5, 100.7, -100.7, 126.999, 0], np.float64)
    out = [np.zeros(x.size, dtype) for dtype in (np.int8, np.int32, np.int64, np.uint32, np.uint64, np.float32)]
    gpu.run(conversions, 1, 32, np.abs(x), *out)
    for array in out:
        np.testing.assert_array_equal(array, np.trunc(np.abs(x)).astype(array.dtype))
    gpu.run(conversions, 1, 32, x, *out)
    np.testing.assert_array_equal(out[1], np.trunc(x).astype(np.int32))
    np.testing.assert_array_equal(out[2], np.trunc(x).astype(np.int64))


CONVERT = """
.version 8.0
.target sm_80
.address_size 64
.visible .entry convert(.param .u64 out, .param .f32 value) {
  .reg .b64 %rd<2>;
  .reg .b32 %r<5>;
  .reg .f32 %f<2>;
  ld.param.u64 %rd1, [out];
  ld.param.f32 %f1, [value];
  cvt.rzi.s32.f32 %r1, %f1;
  cvt.rzi.u32.f32 %r2, %f1;
  cvt.rni.s32.f32 %r3, %f1;
  cvt.rmi.s32.f32 %r4, %f1;
  st.global.v4.u32 [%rd1], {%r1, %r2, %r3, %r4};
  ret;
}
"""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1e30, [2**31 - 1, -1, 2**31 - 1, 2**31 - 1]),
        (-1e30, [-(2**31), 0, -(2**31), -(2**31)]),
        (np.nan, [0, 0, 0, 0]),
        (2.5, [2, 2, 2, 2]),
        (3.5, [3, 3, 4, 3]),
        (-2.5, [-2, 0, -2, -3]),
    ],
)
def test_conversions_saturate_and_round(gpu, value, expected):
    out = gpu.array(np.zeros(4, np.int32))
    blob = out.address.to_bytes(8, "little") + np.float32(value).tobytes()
    gpu.device.launch(gpu.stream, gpu.load(CONVERT), (1, 1, 1), (1, 1, 1), 0, blob)
    assert out.host().tolist() == expected


def to_integers(x, out_32, out_u32, out_64, out_u64):
    i = cuda.grid(1)
    if i < x.size:
        out_32[i] = np.int32(x[i])
        out_u32[i] = np.uint32(x[i])
        out_64[i] = np.int64(x[i])
        out_u64[i] = np.uint64(x[i])


@pytest.mark.parametrize(
    ("dtype", "narrow"), [(np.float32, [0, 0]), (np.float64, [-(2**31), 2**31])], ids=["float32", "float64"]
)
def test_nan_becomes_the_integer_that_cuda_says(gpu, dtype, narrow):
    """PTX ISA 9.0, cvt: 0, but the top bit alone where the source or the target has 64 bits."""
    x = np.array([np.nan, 2.5, -np.nan, np.inf], dtype)
    outs = [np.zeros(4, kind) for kind in (np.int32, np.uint32, np.int64, np.uint64)]
    gpu.run(to_integers, 1, 32, x, *outs)
    for out, nan in zip(outs, [*narrow, -(2**63), 2**63], strict=True):
        assert out.tolist() == [nan, 2, nan, np.iinfo(out.dtype).max]


def halves(x, y, out):
    i = cuda.grid(1)
    if i < x.size:
        out[0, i] = x[i] + y[i]
        out[1, i] = x[i] - y[i]
        out[2, i] = x[i] * y[i]
        out[3, i] = x[i] / (abs(y[i]) + float16(1.0))
        out[4, i] = x[i] if x[i] > y[i] else -x[i]


def test_half_precision(gpu):
    x, y = RANDOM.standard_normal((2, COUNT)).astype(np.float16) * np.float16(10)
    device = [gpu.array(array) for array in (x, y, np.zeros((5, COUNT), np.float16))]
    gpu.launch(halves, 5, 128, *device, lto=True)
    out = device[2].host()
    np.testing.assert_array_equal(out[0], x + y)
    np.testing.assert_array_equal(out[1], x - y)
    np.testing.assert_array_equal(out[2], x * y)
    np.testing.assert_allclose(out[3], x / (abs(y) + np.float16(1)), rtol=2e-3)
    np.testing.assert_array_equal(out[4], np.where(x > y, x, -x))


def complexes(a, b, c, d):
    i = cuda.grid(1)
    if i < a.size:
        c[i] = a[i] * a[i] + np.complex64(1j) / a[i]
        d[i] = b[i] * b[i].conjugate() + b[i] / (b[i] + 1) + abs(b[i])


def test_complex_numbers(gpu):
    real, imaginary = RANDOM.standard_normal((2, COUNT))
    b = real + 1j * imaginary
    a = b.astype(np.complex64)
    c, d = np.zeros_like(a), np.zeros_like(b)
    gpu.run(complexes, 5, 128, a, b, c, d)
    np.testing.assert_allclose(c, a * a + np.complex64(1j) / a, rtol=2e-6)
    np.testing.assert_allclose(d, b * b.conjugate() + b / (b + 1) + abs(b), rtol=1e-14)


RECORD = np.dtype([("a", np.int32), ("b", np.float64), ("c", np.uint8), ("v", np.float32, (3,))], align=True)


def records(values, out):
    i = cuda.grid(1)
    if i < values.size:
        values[i].a = values[i].a * 2 + values[i].c
        values[i].b += values[i].a
        out[i] = values[i].b + values[i].v[1]


def test_records(gpu):
    values = np.zeros(COUNT, RECORD)
    values["a"], values["b"] = RANDOM.integers(-1000, 1000, COUNT), RANDOM.standard_normal(COUNT)
    values["c"], values["v"] = RANDOM.integers(0, 255, COUNT), RANDOM.standard_normal((COUNT, 3))
    expected = values.copy()
    expected["a"] = expected["a"] * 2 + expected["c"]
    expected["b"] += expected["a"]
    out = np.zeros(COUNT)
    gpu.run(records, 5, 128, values, out)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(out, expected["b"] + expected["v"][:, 1])


def booleans(flags, x, out):
    i = cuda.grid(1)
    if i < x.size:
        out[i] = flags[i] and x[i] > uint16(5)


def test_booleans(gpu):
    flags, x = RANDOM.integers(0, 2, 100).astype(bool), RANDOM.integers(0, 10, 100).astype(np.uint16)
    out = np.zeros(100, bool)
    gpu.run(booleans, 4, 32, flags, x, out)
    np.testing.assert_array_equal(out, flags & (x > 5))
