"""Rounding modes and 16-bit formats, bit for bit against rational arithmetic."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from tests.device.virtual.ptx import compute

RANDOM = np.random.default_rng(23)

FORMATS = {
    "f16": (10, -14, np.uint16),
    "bf16": (7, -126, np.uint16),
    "f32": (23, -126, np.uint32),
    "f64": (52, -1022, np.uint64),
}
"""Bits of the fraction, least exponent, integer of the same size."""

MODES = ("rn", "rz", "rm", "rp")


def decode(name, bits):
    """The value of a float's bits: Fraction, or float for infinity, NaN and -0."""
    fraction, least, integer = FORMATS[name]
    width = np.dtype(integer).itemsize * 8
    bits = int(bits)
    sign, exponent, low = (
        bits >> width - 1,
        bits >> fraction & (1 << width - 1 - fraction) - 1,
        bits & (1 << fraction) - 1,
    )
    if exponent == (1 << width - 1 - fraction) - 1:
        return math.nan if low else -math.inf if sign else math.inf
    if not exponent and not low:
        return -0.0 if sign else 0.0
    value = Fraction(low + (1 << fraction if exponent else 0)) * Fraction(2) ** (
        max(exponent, 1) - 1 + least - fraction
    )
    return -value if sign else value


def encode(name, value, mode, sign=0):
    """The bits of a rational number, infinity or NaN rounded to a format (IEEE 754-2019, 4.3); ``sign`` of a zero."""
    fraction, least, integer = FORMATS[name]
    width = np.dtype(integer).itemsize * 8
    top, largest = 1 << width - 1, ((1 << width - 1 - fraction) - 1 << fraction) - 1
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if math.isinf(value):
            return (top if value < 0 else 0) | largest + 1
        return top if math.copysign(1, value) < 0 else 0
    if value == 0:
        return top * sign
    magnitude, negative = abs(value), value < 0
    exponent = max(math.floor(math.log2(magnitude.numerator) - math.log2(magnitude.denominator)), least)
    while exponent > least and magnitude < Fraction(2) ** exponent:
        exponent -= 1
    while magnitude >= Fraction(2) ** (exponent + 1):
        exponent += 1
    scaled = magnitude / Fraction(2) ** (exponent - fraction)
    whole = math.floor(scaled)
    rest = scaled - whole
    up = {"rn": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole & 1), "rz": False,
          "rm": negative and rest > 0, "rp": not negative and rest > 0}[mode]  # fmt: skip
    whole += up
    bits = whole + ((exponent - least) << fraction)  # a carry into the exponent is right by itself
    if bits > largest:
        to_infinity = mode == "rn" or ((mode == "rm") == negative and mode != "rz")
        bits = largest + 1 if to_infinity else largest
    return (top if negative else 0) | bits


def rational(value):
    return Fraction(0) if value == 0 else value


def finite(value):
    return not isinstance(value, float) or value == 0


def sign_of(value):
    return math.copysign(1, value) < 0 if isinstance(value, float) else value < 0


def add(name, mode, x, y):
    if not (finite(x) and finite(y)):
        return encode(name, float(x) + float(y), mode)
    total = rational(x) + rational(y)
    both = sign_of(x) and sign_of(y)
    return encode(name, total, mode, both or (mode == "rm" and (sign_of(x) or sign_of(y))))


def multiply(name, mode, x, y):
    sign = sign_of(x) != sign_of(y)
    if finite(x) and finite(y):
        return encode(name, rational(x) * rational(y), mode, sign)
    return encode(name, math.nan if x == 0 or y == 0 or x != x or y != y else -math.inf if sign else math.inf, mode)


def fused(name, mode, x, y, z):
    if not all(map(finite, (x, y, z))):
        return encode(name, _special_fma(x, y, z), mode)
    total = rational(x) * rational(y) + rational(z)
    negative = sign_of(x) != sign_of(y)
    exact_zero = rational(x) * rational(y) == 0 and rational(z) == 0
    sign = (negative and sign_of(z)) or (mode == "rm" and (negative or sign_of(z)))
    if not exact_zero and total == 0:
        sign = mode == "rm"
    return encode(name, total, mode, sign)


def _special_fma(x, y, z):
    if any(value != value for value in (x, y, z)):
        return math.nan
    if finite(x) and finite(y):
        return z
    if x == 0 or y == 0:
        return math.nan
    product = -math.inf if sign_of(x) != sign_of(y) else math.inf
    return product if finite(z) or z == product else math.nan


def divide(name, mode, x, y):
    sign = sign_of(x) != sign_of(y)
    if finite(x) and finite(y) and y != 0:
        return encode(name, rational(x) / rational(y), mode, sign)
    if x != x or y != y or (x == 0 and y == 0) or not (finite(x) or finite(y)):
        return None
    return encode(name, (-math.inf if sign else math.inf) if finite(y) else (-0.0 if sign else 0.0), mode)


def root(name, mode, x):
    if x != x or (x != 0 and sign_of(x)):
        return None
    if x == 0 or not finite(x):
        return encode(name, x, mode)
    fraction = FORMATS[name][0]
    shift = 2 * (fraction + 600)  # far more bits than any format has, and a last one that says "inexact"
    whole = math.isqrt(x.numerator * (1 << 2 * shift) // x.denominator)
    exact = Fraction(whole, 1 << shift)
    return encode(name, exact if exact * exact == x else exact + Fraction(1, 1 << shift + 1), mode)


def samples(name, count):
    """Corner values in all combinations with others, and random bits."""
    fraction, _least, integer = FORMATS[name]
    width = np.dtype(integer).itemsize * 8
    infinity, one = ((1 << width - 1 - fraction) - 1) << fraction, ((1 << width - 2 - fraction) - 1) << fraction
    corners = [0, 1, 2, (1 << fraction) - 1, 1 << fraction, one - 1, one, one + 1, infinity - 1, infinity, infinity + 1]
    corners += [value | 1 << width - 1 for value in corners]
    values = RANDOM.integers(0, 1 << width, count, np.uint64)
    near = one + RANDOM.integers(-3 << fraction, 3 << fraction, count) + (RANDOM.integers(0, 2, count) << width - 1)
    near = np.array([int(value) % (1 << width) for value in near.astype(object)], np.uint64)
    return np.concatenate([np.array(corners, np.uint64), values, near]).astype(integer)


def tuples(name, size, count=120):
    """``size`` arrays: every pair of corners, and random ones."""
    values = samples(name, count)
    corners = list(itertools.product(values[:22], values[:22]))
    first = np.array([x for x, _ in corners] + list(values), values.dtype)
    second = np.array([y for _, y in corners] + list(RANDOM.permutation(values)), values.dtype)
    third = RANDOM.permutation(first)
    return [first, second, third][:size]


ARITHMETIC = {"add": (add, 2), "mul": (multiply, 2), "fma": (fused, 3), "div": (divide, 2), "sqrt": (root, 1)}


def assert_same(name, got, expected, *operands):
    for place, (bits, wanted) in enumerate(zip(got, expected, strict=True)):
        where = [hex(operand[place]) for operand in operands]
        if wanted is None:
            assert math.isnan(float(decode(name, bits))), where
        else:
            assert int(bits) == int(wanted), (where, hex(bits), hex(wanted))


@pytest.mark.parametrize("name", ["f32", "f64"])
@pytest.mark.parametrize("operation", ARITHMETIC)
def test_arithmetic_in_every_rounding_mode(gpu, operation, name):
    model, count = ARITHMETIC[operation]
    inputs = tuples(name, count)
    instructions = {mode: f"{operation}.{mode}.{name} d, {', '.join('abc'[:count])};" for mode in MODES}
    results = compute(gpu, instructions, *inputs, out=FORMATS[name][2])
    values = [[decode(name, bits) for bits in operand] for operand in inputs]
    for mode, got in results.items():
        assert_same(name, got, [model(name, mode, *row) for row in zip(*values, strict=True)], *inputs)


@pytest.mark.parametrize("name", ["f16", "bf16"])
@pytest.mark.parametrize("operation", ["add", "mul", "fma"])
def test_arithmetic_of_16_bits(gpu, operation, name):
    model, count = ARITHMETIC[operation]
    inputs = tuples(name, count, 600)
    results = compute(gpu, {"rn": f"{operation}.rn.{name} d, {', '.join('abc'[:count])};"}, *inputs, out=np.uint16)
    values = [[decode(name, bits) for bits in operand] for operand in inputs]
    assert_same(name, results["rn"], [model(name, "rn", *row) for row in zip(*values, strict=True)], *inputs)


@pytest.mark.parametrize("target", ["f16", "bf16", "f32"])
@pytest.mark.parametrize("source", ["f64", "f32"])
def test_narrowing_in_every_rounding_mode(gpu, source, target):
    if source == target:
        return
    fraction, least, _ = FORMATS[target]
    exponents = np.concatenate(
        [RANDOM.uniform(least - fraction - 2, 17 if target == "f16" else 128, 400), [least] * 50]
    )
    dtype = {"f64": np.float64, "f32": np.float32}[source]
    with np.errstate(over="ignore", under="ignore"):
        spread = (2.0**exponents * RANDOM.choice([-1, 1], exponents.size)).astype(dtype)
    integer = FORMATS[source][2]
    ties = spread.view(integer) & ~integer((1 << FORMATS[source][0] - fraction - 1) - 1)
    bits = np.concatenate([samples(source, 200), spread.view(integer), ties, ties + integer(1), ties - integer(1)])
    modes = {mode: f"cvt.{mode}.{target}.{source} d, a;" for mode in MODES}
    results = compute(gpu, modes, bits, out=FORMATS[target][2])
    for mode, got in results.items():
        expected = [encode(target, decode(source, value), mode) for value in bits]
        assert_same(target, got, expected, bits)


@pytest.mark.parametrize("target", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("source", ["u16", "s16", "u32", "s32", "u64", "s64"])
def test_integers_to_floats_in_every_rounding_mode(gpu, source, target):
    width = int(source[1:])
    dtype = np.dtype(f"{'i' if source[0] == 's' else 'u'}{width // 8}")
    limits = np.iinfo(dtype)
    shifts = RANDOM.integers(0, width, 300)
    values = RANDOM.integers(limits.min, limits.max, 300, dtype, endpoint=True) >> shifts.astype(dtype)
    ties = [(1 << k) + (1 << max(k - n, 0)) + d for k in range(width - 1) for n in (8, 11, 24, 53) for d in (-1, 0, 1)]
    ties = [value for value in ties if value <= limits.max]
    values = np.concatenate([values, np.array([limits.min, limits.max, 0, 1, *ties], dtype)])
    modes = {mode: f"cvt.{mode}.{target}.{source} d, a;" for mode in MODES}
    results = compute(gpu, modes, values.view(f"u{width // 8}"), out=FORMATS[target][2])
    for mode, got in results.items():
        assert_same(target, got, [encode(target, Fraction(int(value)), mode) for value in values], values)
