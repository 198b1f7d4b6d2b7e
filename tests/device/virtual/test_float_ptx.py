"""Floating-point instructions of PTX: conversions, comparisons, selections and functions, with all special values."""

from __future__ import annotations

import itertools
import math

import ml_dtypes
import numpy as np
import pytest

from bitfusion.device.virtual.layout import CompileOptions
from tests.device.virtual.gpu import Gpu
from tests.device.virtual.ptx import compute

RANDOM = np.random.default_rng(37)

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # NumPy's, about the special values that are the point here

DTYPES = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64}
BITS = {"f16": np.uint16, "bf16": np.uint16, "f32": np.uint32, "f64": np.uint64}
EVERY_HALF = np.arange(1 << 16, dtype=np.uint16)
CORNERS = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    0.4,
    1e-40,
    -1e-40,
    1e-45,
    3e38,
    -3e38,
    math.inf,
    -math.inf,
    math.nan,
]
CORNERS += [
    127.5,
    128,
    255.5,
    -128.5,
    32767.5,
    65535.5,
    2.0**31,
    -(2.0**31),
    2.0**32,
    2.0**63,
    -(2.0**63),
    2.0**64,
    123456.7,
]


def samples(name, count=300):
    """Corner values, and numbers of all magnitudes."""
    if name in ("f16", "bf16"):
        return RANDOM.permutation(EVERY_HALF)[:2000].view(DTYPES[name])
    spread = (2.0 ** RANDOM.uniform(-70, 70, count) * RANDOM.choice([-1, 1], count)).astype(DTYPES[name])
    return np.concatenate(
        [np.array(CORNERS, DTYPES[name]), spread, RANDOM.uniform(-300, 300, count).astype(DTYPES[name])]
    )


def pairs(name):
    values = samples(name)
    first, second = (
        np.array(list(row), values.dtype) for row in zip(*itertools.product(values[:18], values[:18]), strict=True)
    )
    return np.concatenate([first, values]), np.concatenate([second, RANDOM.permutation(values)])


def run(gpu, name, instructions, *inputs, out=None):
    """Results as numbers of the type ``out``, or of ``name``."""
    results = compute(
        gpu, instructions, *[values.view(f"u{values.itemsize}") for values in inputs], out=BITS[out or name]
    )
    return {key: bits.view(DTYPES[out or name]) for key, bits in results.items()}


def assert_identical(got, expected, message=""):
    """Equal numbers with equal signs of zero; any NaN equals any other."""
    got, expected = got.astype(float), np.asarray(expected).astype(float)
    same = (got == expected) & (np.signbit(got) == np.signbit(expected)) | np.isnan(got) & np.isnan(expected)
    bad = np.flatnonzero(~same)[:5]
    assert not bad.size, (message, bad, got[bad], expected[bad])


ROUNDINGS = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


@pytest.mark.parametrize("name", DTYPES)
def test_floats_to_integers(gpu, name):
    values = EVERY_HALF.view(DTYPES[name]) if name.endswith("f16") else samples(name)
    wide = values.astype(float)
    for target in ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"):
        bits, signed = int(target[1:]), target[0] == "s"
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        not_a_number = 1 << bits - 1 if bits == 64 or name == "f64" else 0
        width = max(bits, 16)
        results = compute(
            gpu,
            {mode: f"cvt.{mode}.{target}.{name} d, a;" for mode in ROUNDINGS},
            values.view(BITS[name]),
            out=f"u{width // 8}",
        )
        for mode, rounding in ROUNDINGS.items():
            rounded = rounding(wide)
            for value, x, got in zip(values, rounded.tolist(), results[mode].tolist(), strict=True):
                expected = not_a_number if x != x else high if x >= high else low if x <= low else int(x)
                assert got & (1 << bits) - 1 == expected % (1 << bits), (target, mode, value)


def widen(values):
    return values.astype(float)


@pytest.mark.parametrize("name", DTYPES)
def test_widening_rounding_to_integral_and_clamping(gpu, name):
    values = EVERY_HALF.view(DTYPES[name]) if name.endswith("f16") else samples(name)
    wide = widen(values)
    for target in ("f32", "f64"):
        if BITS[target]().itemsize > BITS[name]().itemsize:
            got = run(
                gpu,
                name,
                {"plain": f"cvt.{target}.{name} d, a;", "sat": f"cvt.sat.{target}.{name} d, a;"},
                values,
                out=target,
            )
            assert_identical(got["plain"], wide)
            assert_identical(got["sat"], np.where(wide > 0, np.minimum(wide, 1), 0.0))
    if name != "bf16":
        got = run(gpu, name, {mode: f"cvt.{mode}.{name}.{name} d, a;" for mode in ROUNDINGS}, values)
        for mode, rounding in ROUNDINGS.items():
            assert_identical(got[mode], rounding(wide), mode)
        got = run(gpu, name, {"sat": f"cvt.sat.{name}.{name} d, a;"}, values)
        assert_identical(got["sat"], np.where(wide > 0, np.minimum(wide, 1), 0.0).astype(DTYPES[name]))


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_narrowing_with_relu_and_satfinite(gpu, name):
    values = samples("f32", 3000)
    dtype, largest = DTYPES[name], float(ml_dtypes.finfo(DTYPES[name]).max)
    nearest = values.astype(dtype)
    positive = np.where(np.isnan(values), values, np.where(values > 0, values, np.float32(0)))
    finite = np.where(np.isnan(values), values.astype(float), np.clip(nearest.astype(float), -largest, largest))
    forms = {"relu": f"cvt.rn.relu.{name}.f32 d, a;"}
    if name == "bf16":
        forms["satfinite"] = "cvt.rn.satfinite.bf16.f32 d, a;"
    got = run(gpu, "f32", forms, values, out=name)
    assert_identical(got["relu"], positive.astype(dtype))
    if "satfinite" in got:
        assert_identical(got["satfinite"], finite)
    packed = compute(gpu, {"rn": f"cvt.rn.{name}x2.f32 d, a, b;", "relu": f"cvt.rn.relu.{name}x2.f32 d, a, b;"},
                     values.view(np.uint32), values[::-1].copy().view(np.uint32), out=np.uint32)  # fmt: skip
    low, high = (packed["rn"].view(dtype).reshape(-1, 2)[:, lane] for lane in (0, 1))
    assert_identical(high, nearest)
    assert_identical(low, nearest[::-1])
    assert_identical(packed["relu"].view(dtype).reshape(-1, 2)[:, 1], positive.astype(dtype))


def test_tf32_has_10_bits_of_fraction(gpu):
    bits = np.concatenate([samples("f32", 500).view(np.uint32), RANDOM.integers(0, 1 << 32, 500, np.uint32)])
    values = bits.view(np.float32)
    numbers = ~np.isnan(values)
    got = compute(gpu, {mode: f"cvt.{mode}.tf32.f32 d, a;" for mode in ("rna", "rn", "rz")}, bits, out=np.uint32)
    wide = bits.astype(np.uint64)
    expected = {"rna": wide + (1 << 12), "rn": wide + (1 << 12) - 1 + (wide >> 13 & 1), "rz": wide}
    for mode, result in expected.items():
        np.testing.assert_array_equal(got[mode][numbers], (result & 0xFFFFE000).astype(np.uint32)[numbers])
        assert np.isnan(got[mode].view(np.float32)[~numbers]).all()


FP8 = {"e4m3x2": ml_dtypes.float8_e4m3fn, "e5m2x2": ml_dtypes.float8_e5m2}


@pytest.mark.parametrize("name", FP8)
def test_8_bits(gpu, name):
    dtype = FP8[name]
    every = np.arange(1 << 16, dtype=np.uint16)
    got = compute(gpu, {"wide": f"cvt.rn.f16x2.{name} d, a;"}, every, out=np.uint32)["wide"]
    expected = every.view(np.uint8).view(dtype).astype(np.float16)
    assert_identical(got.view(np.float16), expected)
    assert (got.view(np.uint16)[np.isnan(expected)] == 0x7FFF).all()
    largest = float(ml_dtypes.finfo(dtype).max)
    values = np.concatenate(
        [samples("f32", 1000), RANDOM.uniform(-500, 500, 2000), EVERY_HALF.view(np.float16)]
    ).astype(np.float32)
    expected = np.where(np.isnan(values), values, np.clip(values, -largest, largest)).astype(dtype)
    positive = np.where(np.isnan(values) | (values > 0), np.minimum(values, largest), 0).astype(dtype)
    bits = values.view(np.uint32)
    forms = {"plain": f"cvt.rn.satfinite.{name}.f32 d, a, b;", "relu": f"cvt.rn.satfinite.relu.{name}.f32 d, a, b;"}
    packed = compute(gpu, forms, bits, bits[::-1].copy(), out=np.uint16)
    assert_identical(packed["plain"].view(np.uint8).reshape(-1, 2)[:, 1].view(dtype), expected)
    assert_identical(packed["plain"].view(np.uint8).reshape(-1, 2)[:, 0].view(dtype), expected[::-1])
    assert (packed["plain"].view(np.uint8).reshape(-1, 2)[:, 1][np.isnan(values)] == 0x7F).all()
    assert_identical(packed["relu"].view(np.uint8).reshape(-1, 2)[:, 1].view(dtype), positive)
    halfs = EVERY_HALF.view(np.uint32)
    packed = compute(gpu, {"half": f"cvt.rn.satfinite.{name}.f16x2 d, a;"}, halfs, out=np.uint16)["half"]
    half = EVERY_HALF.view(np.float16).astype(np.float32)
    assert_identical(
        packed.view(np.uint8).view(dtype),
        np.where(np.isnan(half), half, np.clip(half, -largest, largest)).astype(dtype),
    )


# minimum, maximum, signs
def smaller(x, y, nan_wins):
    """min with -0 < +0."""
    result = np.where((x < y) | ((x == y) & np.signbit(x)), x, y)
    result = np.where(np.isnan(x), y, np.where(np.isnan(y), x, result))
    return np.where(np.isnan(x) | np.isnan(y), np.nan, result) if nan_wins else result


@pytest.mark.parametrize("name", DTYPES)
def test_minimum_and_maximum(gpu, name):
    x, y = pairs(name)
    a, b = widen(x), widen(y)
    signs = np.where(np.signbit(a) != np.signbit(b), -1.0, 1.0)
    expected = {
        f"min.{name}": smaller(a, b, False),
        f"max.{name}": -smaller(-a, -b, False),
    }
    if name != "f64":
        expected |= {
            f"min.NaN.{name}": smaller(a, b, True),
            f"max.NaN.{name}": -smaller(-a, -b, True),
            f"min.xorsign.abs.{name}": np.copysign(smaller(abs(a), abs(b), False), signs),
            f"max.NaN.xorsign.abs.{name}": np.copysign(-smaller(-abs(a), -abs(b), True), signs),
        }
    got = run(gpu, name, {form: f"{form} d, a, b;" for form in expected}, x, y)
    for form, values in expected.items():
        assert_identical(got[form], values, form)


@pytest.mark.parametrize("name", DTYPES)
def test_signs_and_saturation(gpu, name):
    x, y = pairs(name)
    a, b = widen(x), widen(y)
    expected = {f"abs.{name} d, a;": abs(a), f"neg.{name} d, a;": -a}
    if name in ("f32", "f64"):
        expected[f"copysign.{name} d, a, b;"] = np.copysign(b, a)
    if name in ("f16", "f32"):
        total = (x + y).astype(float)
        expected[f"add.sat.{name} d, a, b;"] = np.where(total > 0, np.minimum(total, 1), 0.0)
    if name in ("f16", "bf16"):
        product = widen(run(gpu, name, {"fma": f"fma.rn.{name} d, a, b, b;"}, x, y)["fma"])
        relu = np.where(np.isnan(product), product, np.where(product > 0, product, 0.0))
        expected[f"fma.rn.relu.{name} d, a, b, b;"] = relu
    got = run(gpu, name, {form: form for form in expected}, x, y)
    for form, values in expected.items():
        assert_identical(got[form], values, form)


CLASSES = {
    "finite": np.isfinite,
    "infinite": np.isinf,
    "number": lambda x: ~np.isnan(x),
    "notanumber": np.isnan,
    "normal": lambda x: np.isfinite(x) & (abs(x) >= np.finfo(x.dtype).tiny),
    "subnormal": lambda x: (x != 0) & (abs(x) < np.finfo(x.dtype).tiny),
}


@pytest.mark.parametrize("name", ["f32", "f64"])
def test_classes(gpu, name):
    x = np.concatenate([samples(name), np.array([5e-324, np.finfo(DTYPES[name]).tiny / 2], DTYPES[name])])
    forms = {kind: f"testp.{kind}.{name} %p1, a; selp.b{8 * x.itemsize} d, 1, 0, %p1;" for kind in CLASSES}
    got = compute(gpu, forms, x.view(BITS[name]), out=BITS[name])
    for kind, function in CLASSES.items():
        np.testing.assert_array_equal(got[kind], function(x), kind)


def comparisons(a, b):
    """Every floating-point comparison of PTX."""
    unordered = np.isnan(a) | np.isnan(b)
    ordered = {"eq": a == b, "ne": (a != b) & ~unordered, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}
    return (
        ordered
        | {f"{key}u": value | unordered for key, value in ordered.items()}
        | {"num": ~unordered, "nan": unordered}
    )


@pytest.mark.parametrize("name", DTYPES)
def test_comparisons(gpu, name):
    x, y = pairs(name)
    a, b = widen(x), widen(y)
    expected = comparisons(a, b)
    bits = 8 * x.itemsize
    forms = {
        key: f"setp.{key}.{name} %p1|%p2, a, b; selp.b{bits} d, 1, 0, %p1; @%p2 add.u{bits} d, d, 2;"
        for key in expected
    }
    got = compute(gpu, forms, x.view(BITS[name]), y.view(BITS[name]), out=BITS[name])
    for key, values in expected.items():
        np.testing.assert_array_equal(got[key], np.where(values, 1, 2), key)
    forms = {
        key: f"setp.eq.b{bits} %p3, a, b; setp.{key}.xor.{name} %p1, a, b, %p3; selp.b{bits} d, 1, 0, %p1;"
        for key in expected
    }
    got = compute(gpu, forms, x.view(BITS[name]), y.view(BITS[name]), out=BITS[name])
    same = x.view(BITS[name]) == y.view(BITS[name])
    for key, values in expected.items():
        np.testing.assert_array_equal(got[key], values ^ same, key)


@pytest.mark.parametrize("name", DTYPES)
def test_set_gives_numbers(gpu, name):
    x, y = pairs(name)
    expected = comparisons(widen(x), widen(y))
    for target, one in (("u32", 0xFFFFFFFF), ("s32", 0xFFFFFFFF), ("f32", 0x3F800000)):
        got = compute(
            gpu,
            {key: f"set.{key}.{target}.{name} d, a, b;" for key in expected},
            x.view(BITS[name]),
            y.view(BITS[name]),
            out=np.uint32,
        )
        for key, values in expected.items():
            np.testing.assert_array_equal(got[key], np.where(values, one, 0), key)


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_packed_halfs(gpu, name):
    """What packed instructions do is what the plain ones do, twice."""
    x, y = (RANDOM.permutation(EVERY_HALF)[:4000] for _ in range(2))
    plain = ["add.{}", "sub.{}", "mul.{}", "min.{}", "max.NaN.{}"]
    single = {form: f"{form.format(name)} d, a, b;" for form in plain}
    single |= {"fma": f"fma.rn.{name} d, a, b, a;", "neg": f"neg.{name} d, a;", "abs": f"abs.{name} d, a;"}
    single |= {"tanh": f"tanh.approx.{name} d, a;", "ex2": f"ex2.approx{'.ftz' * (name == 'bf16')}.{name} d, a;"}
    packed = {key: text.replace(name, f"{name}x2") for key, text in single.items()}
    narrow = compute(gpu, single, x, y, out=np.uint16)
    wide = compute(gpu, packed, x.view(np.uint32), y.view(np.uint32), out=np.uint32)
    for key in single:
        assert_identical(wide[key].view(DTYPES[name]), narrow[key].view(DTYPES[name]), key)
    select = "selp.b32 d, 1, 0, %p1; @%p2 add.u32 d, d, 2;"
    forms = {
        "setp": f"setp.lt.{name}x2 %p1|%p2, a, b; {select}",
        "and": f"setp.eq.b32 %p3, a, a; setp.gtu.and.{name}x2 %p1|%p2, a, b, %p3; {select}",
    }
    got = compute(
        gpu, forms | {"set": f"set.ge.{name}x2.{name}x2 d, a, b;"}, x.view(np.uint32), y.view(np.uint32), out=np.uint32
    )
    a, b = (widen(values.view(DTYPES[name])) for values in (x, y))
    table = comparisons(a, b)
    np.testing.assert_array_equal(got["setp"], table["lt"][::2] + 2 * table["lt"][1::2])
    np.testing.assert_array_equal(got["and"], table["gtu"][::2] + 2 * table["gtu"][1::2])
    np.testing.assert_array_equal(got["set"].view(DTYPES[name]).astype(float), table["ge"])


def test_selections(gpu):
    a, b, c = RANDOM.integers(0, 1 << 32, (3, 500), np.uint32)
    c[: len(CORNERS)] = np.array(CORNERS, np.float32).view(np.uint32)
    forms = {"f32": "slct.u32.f32 d, a, b, c;", "s32": "slct.f32.s32 d, a, b, c;", "b32": "slct.b32.s32 d, a, b, c;"}
    got = compute(gpu, forms, a, b, c, out=np.uint32)
    np.testing.assert_array_equal(got["f32"], np.where(c.view(np.float32) >= 0, a, b))
    for key in ("s32", "b32"):
        np.testing.assert_array_equal(got[key], np.where(c.view(np.int32) >= 0, a, b))


# functions
APPROXIMATIONS = {
    "rcp.approx": lambda x: 1 / x,
    "rcp.rn": lambda x: 1 / x,
    "sqrt.approx": np.sqrt,
    "sqrt.rn": np.sqrt,
    "rsqrt.approx": lambda x: 1 / np.sqrt(x),
    "ex2.approx": np.exp2,
    "lg2.approx": np.log2,
    "sin.approx": np.sin,
    "cos.approx": np.cos,
    "tanh.approx": np.tanh,
}


def test_approximations(gpu):
    """More precise than PTX asks for (PTX ISA, 9.7.3: 2 ** -22 relative, for sin and cos absolute), special values exact."""
    x = np.concatenate([np.array(CORNERS, np.float32), RANDOM.uniform(-3, 3, 1000).astype(np.float32)])
    got = run(gpu, "f32", {form: f"{form}.f32 d, a;" for form in APPROXIMATIONS}, x)
    for form, function in APPROXIMATIONS.items():
        expected = function(x.astype(float)).astype(np.float32)
        np.testing.assert_allclose(got[form], expected, rtol=2.0**-22, atol=1e-45, err_msg=form)
        zero = expected == 0
        np.testing.assert_array_equal(np.signbit(got[form][zero]), np.signbit(expected[zero]), form)


def test_powers_of_two_are_within_a_unit(gpu):
    """All exponents with many fractions: PTX allows two units in the last place (PTX ISA, 9.7.3.21)."""
    dense = np.linspace(-152, 130, 1 << 20).astype(np.float32)
    whole = np.arange(-160, 140, dtype=np.float32)
    tiny = np.float32(2) ** np.arange(-149, 0, dtype=np.float32)
    special = np.array(
        [0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 128, np.nextafter(np.float32(128), np.float32(0))]
    )
    x = np.concatenate([dense, whole, tiny, -tiny, special.astype(np.float32)])
    got = run(gpu, "f32", {"ex2": "ex2.approx.f32 d, a;"}, x)["ex2"]
    with np.errstate(over="ignore", under="ignore"):
        exact = np.exp2(x.astype(np.float64))
        expected = exact.astype(np.float32)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(got[~finite], expected[~finite])
    unit = np.spacing(expected[finite]).astype(np.float64)
    assert np.max(np.abs(got[finite].astype(np.float64) - exact[finite]) / unit) < 1
    exactly = np.isin(x, whole)
    np.testing.assert_array_equal(got[exactly], expected[exactly])


def test_division_forms(gpu):
    x, y = pairs("f32")
    got = run(gpu, "f32", {form: f"div.{form}.f32 d, a, b;" for form in ("rn", "full", "approx")}, x, y)
    expected = x / y
    for form, values in got.items():
        assert_identical(values, expected, form)


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_functions_of_every_half(gpu, name):
    x = EVERY_HALF.view(DTYPES[name])
    ftz = ".ftz" if name == "bf16" else ""
    got = run(gpu, name, {"tanh": f"tanh.approx.{name} d, a;", "ex2": f"ex2.approx{ftz}.{name} d, a;"}, x)
    assert_identical(got["tanh"], np.tanh(x.astype(float)).astype(np.float32).astype(DTYPES[name]))
    assert_identical(got["ex2"], np.exp2(x.astype(float)).astype(np.float32).astype(DTYPES[name]))


def test_flushing_denormals():
    """With the option .ftz makes subnormal operands and results zero of their sign (PTX ISA, 9.7.3)."""
    gpu = Gpu(options=CompileOptions(flush_denormals=True))
    tiny = np.finfo(np.float32).tiny
    x = np.array([tiny / 2, -tiny / 2, tiny, -tiny * 1.5, 1.0, -0.0, 1e-20, -1e-20], np.float32)
    y = np.array([1.0, 1.0, -tiny * 1.25, tiny, tiny / 4, 1.0, 1e-20, 1e-20], np.float32)

    def flush(v):
        return np.where(abs(v) < tiny, np.copysign(0, v), v).astype(np.float32)

    expected = {
        "add.ftz.f32 d, a, b;": flush(flush(x) + flush(y)),
        "mul.ftz.f32 d, a, b;": flush(flush(x) * flush(y)),
        "abs.ftz.f32 d, a;": abs(flush(x)),
        "neg.ftz.f32 d, a;": -flush(x),
        "cvt.ftz.f32.f32 d, a;": flush(x),
        "max.ftz.f32 d, a, b;": np.maximum(flush(x), flush(y)),
        "add.f32 d, a, b;": x + y,
    }
    got = run(gpu, "f32", {form: form for form in expected}, x, y)
    for form, values in expected.items():
        assert_identical(got[form], values, form)
    halfs = np.array([1e-6, -1e-6, 1.0, 6.2e-5], np.float16)
    tiny_half = run(gpu, "f16", {"add": "add.ftz.f16 d, a, b;"}, halfs, np.zeros(4, np.float16))["add"]
    assert_identical(tiny_half, [0.0, 0.0, 1.0, np.float16(6.2e-5)])
    gpu.device.close()
