"""Integer instructions of PTX against Python's integers, at the ends of every type and at random."""

from __future__ import annotations

import operator

import numpy as np
import pytest

from tests.device.virtual.ptx import compute, kernel, run

RANDOM = np.random.default_rng(29)


def wrap(value, bits, signed=False):
    """The low bits of an integer, as a signed or unsigned number."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> bits - 1 else value


def clip(value, bits, signed):
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return max(low, min(high, value))


def truncated(x, y):
    """Quotient towards zero and remainder; as a GPU answers where there is none."""
    if y == 0:
        return -1, x
    quotient = abs(x) // abs(y) * (-1 if (x < 0) != (y < 0) else 1)
    return quotient, x - quotient * y


def samples(bits, count=150):
    corners = [
        0,
        1,
        2,
        3,
        7,
        bits - 1,
        bits,
        bits + 1,
        31,
        32,
        33,
        0xFF,
        (1 << bits) - 1,
        (1 << bits) - 2,
        1 << bits - 1,
    ]
    corners += [(1 << bits - 1) - 1, (1 << bits - 1) + 1, 0x5555555555555555, 0xFFFFFF]
    random = RANDOM.integers(0, 1 << bits, count, np.uint64) >> RANDOM.integers(0, bits, count).astype(np.uint64)
    return np.array([value & (1 << bits) - 1 for value in corners] + [int(value) for value in random], f"u{bits // 8}")


def inputs(bits, count=3):
    """All pairs of the first values, and a third at random."""
    values = samples(bits)
    first, second = np.repeat(values[:19], 19), np.tile(values[:19], 19)
    first, second = np.concatenate([first, values]), np.concatenate([second, RANDOM.permutation(values)])
    return [first, second, RANDOM.permutation(first)][:count]


def check(gpu, models, operands, out_bits, signed):
    """Every instruction against its model of Python integers, which may give any representative modulo the width."""
    results = compute(gpu, {text: text for text in models}, *operands, out=f"u{out_bits // 8}")
    bits = operands[0].itemsize * 8
    rows = [[wrap(int(value), bits, signed) for value in row] for row in zip(*operands, strict=True)]
    for text, model in models.items():
        expected = [wrap(model(*row), out_bits) for row in rows]
        for row, got, wanted in zip(rows, results[text].tolist(), expected, strict=True):
            assert got == wanted, (text, [hex(value) for value in row], hex(got), hex(wanted))


TYPES = ["u16", "s16", "u32", "s32", "u64", "s64"]


@pytest.mark.parametrize("name", TYPES)
def test_arithmetic(gpu, name):
    bits, signed = int(name[1:]), name[0] == "s"
    models = {
        f"add.{name} d, a, b;": lambda a, b, c: a + b,
        f"sub.{name} d, a, b;": lambda a, b, c: a - b,
        f"mul.lo.{name} d, a, b;": lambda a, b, c: a * b,
        f"mul.hi.{name} d, a, b;": lambda a, b, c: a * b >> bits,
        f"mad.lo.{name} d, a, b, c;": lambda a, b, c: a * b + c,
        f"mad.hi.{name} d, a, b, c;": lambda a, b, c: (a * b >> bits) + c,
        f"div.{name} d, a, b;": lambda a, b, c: truncated(a, b)[0],
        f"rem.{name} d, a, b;": lambda a, b, c: truncated(a, b)[1],
        f"min.{name} d, a, b;": lambda a, b, c: min(a, b),
        f"max.{name} d, a, b;": lambda a, b, c: max(a, b),
        f"sad.{name} d, a, b, c;": lambda a, b, c: abs(a - b) + c,
        f"and.b{bits} d, a, b;": lambda a, b, c: a & b,
        f"or.b{bits} d, a, b;": lambda a, b, c: a | b,
        f"xor.b{bits} d, a, b;": lambda a, b, c: a ^ b,
        f"not.b{bits} d, a;": lambda a, b, c: ~a,
        f"cnot.b{bits} d, a;": lambda a, b, c: a == 0,
        f"setp.lt.{name} %p1, a, b; selp.{name} d, a, c, %p1;": lambda a, b, c: a if a < b else c,
        f"setp.ge.{name} %p1, a, b; selp.b{bits} d, a, c, !%p1;": lambda a, b, c: c if a >= b else a,
    }
    if signed:
        models[f"abs.{name} d, a;"] = lambda a, b, c: abs(a)
        models[f"neg.{name} d, a;"] = lambda a, b, c: -a
    check(gpu, models, inputs(bits), bits, signed)


@pytest.mark.parametrize("name", ["u16", "s16", "u32", "s32"])
def test_wide_products(gpu, name):
    bits, signed = int(name[1:]), name[0] == "s"
    wide = f"%{'rd' if bits == 32 else 'r'}5"
    convert = f"cvt.{name[0]}{2 * bits}.{name} {wide}, c;"
    models = {
        f"mul.wide.{name} d, a, b;": lambda a, b, c: a * b,
        f"{convert} mad.wide.{name} d, a, b, {wide};": lambda a, b, c: a * b + c,
    }
    check(gpu, models, inputs(bits), 2 * bits, signed)


def test_arithmetic_of_32_bits_only(gpu):
    def low24(value):
        return wrap(value, 24, True)

    models = {
        "add.sat.s32 d, a, b;": lambda a, b, c: clip(a + b, 32, True),
        "sub.sat.s32 d, a, b;": lambda a, b, c: clip(a - b, 32, True),
        "mad.hi.sat.s32 d, a, b, c;": lambda a, b, c: clip((a * b >> 32) + c, 32, True),
        "mul24.lo.s32 d, a, b;": lambda a, b, c: low24(a) * low24(b),
        "mul24.hi.s32 d, a, b;": lambda a, b, c: low24(a) * low24(b) >> 16,
        "mul24.lo.u32 d, a, b;": lambda a, b, c: (a & 0xFFFFFF) * (b & 0xFFFFFF),
        "mul24.hi.u32 d, a, b;": lambda a, b, c: (a & 0xFFFFFF) * (b & 0xFFFFFF) >> 16,
        "mad24.lo.s32 d, a, b, c;": lambda a, b, c: low24(a) * low24(b) + c,
        "mad24.hi.sat.s32 d, a, b, c;": lambda a, b, c: clip((low24(a) * low24(b) >> 16) + c, 32, True),
        "max.relu.s32 d, a, b;": lambda a, b, c: max(a, b, 0),
        "min.relu.s32 d, a, b;": lambda a, b, c: max(min(a, b), 0),
    }
    check(gpu, models, inputs(32), 32, True)


def bytes_of(value, signed):
    return [wrap(value >> shift, 8, signed) for shift in (0, 8, 16, 24)]


def words_of(value, signed):
    return [wrap(value >> shift, 16, signed) for shift in (0, 16)]


@pytest.mark.parametrize("left", ["u32", "s32"])
@pytest.mark.parametrize("right", ["u32", "s32"])
def test_dot_products(gpu, left, right):
    signs = left[0] == "s", right[0] == "s"

    def dp4a(a, b, c):
        return c + sum(x * y for x, y in zip(bytes_of(a, signs[0]), bytes_of(b, signs[1]), strict=True))

    def dp2a(half):
        return lambda a, b, c: (
            c + sum(x * y for x, y in zip(words_of(a, signs[0]), bytes_of(b, signs[1])[half : half + 2], strict=True))
        )

    models = {
        f"dp4a.{left}.{right} d, a, b, c;": dp4a,
        f"dp2a.lo.{left}.{right} d, a, b, c;": dp2a(0),
        f"dp2a.hi.{left}.{right} d, a, b, c;": dp2a(2),
    }
    check(gpu, models, inputs(32), 32, False)


@pytest.mark.parametrize("name", ["u16x2", "s16x2"])
def test_packed_integers(gpu, name):
    signed = name[0] == "s"

    def packed(function):
        def model(a, b, c):
            low, high = (function(x, y) for x, y in zip(words_of(a, signed), words_of(b, signed), strict=True))
            return low & 0xFFFF | (high & 0xFFFF) << 16

        return model

    models = {
        f"add.{name} d, a, b;": packed(lambda x, y: x + y),
        f"min.{name} d, a, b;": packed(min),
        f"max.{name} d, a, b;": packed(max),
    }
    if signed:
        models["max.relu.s16x2 d, a, b;"] = packed(lambda x, y: max(x, y, 0))
    check(gpu, models, inputs(32), 32, False)


@pytest.mark.parametrize("bits", [32, 64])
def test_carries(gpu, bits):
    """128- or 64-bit arithmetic in two halves: the high half shows the carry."""
    mask = (1 << bits) - 1

    def high(value):
        return value >> bits & mask

    t, r = f"u{bits}", "%rd5" if bits == 64 else "%r5"
    models = {
        f"add.cc.{t} {r}, a, b; addc.{t} d, c, 0;": lambda a, b, c: c + (a + b >> bits),
        f"sub.cc.{t} {r}, a, b; subc.{t} d, c, 1;": lambda a, b, c: c - 1 - (a < b),
        f"mad.lo.cc.{t} {r}, a, b, c; madc.hi.{t} d, a, b, c;": lambda a, b, c: (
            high(a * b) + c + ((a * b & mask) + c >> bits)
        ),
        f"add.cc.{t} {r}, a, b; addc.cc.{t} {r}, a, c; addc.{t} d, 0, 0;": lambda a, b, c: (
            a + c + (a + b >> bits) >> bits
        ),
        f"sub.cc.{t} {r}, a, b; subc.cc.{t} {r}, a, c; subc.{t} d, 0, 0;": lambda a, b, c: -(a - c - (a < b) < 0),
        f"mad.hi.cc.{t} {r}, a, b, c; addc.{t} d, 0, 0;": lambda a, b, c: high(a * b) + c >> bits,
        f"add.cc.{t} {r}, a, b; madc.lo.cc.{t} {r}, a, b, c; addc.{t} d, 0, 0;": (
            lambda a, b, c: (a * b & mask) + c + (a + b >> bits) >> bits
        ),
    }
    check(gpu, models, inputs(bits), bits, False)


def bfe(bits, signed):
    def model(a, b, c):
        a, position, length = wrap(a, bits, signed), b & 0xFF, c & 0xFF
        if not length:
            return 0
        field = a >> min(position, bits) if signed else wrap(a, bits) >> position
        return wrap(field, min(length, bits), signed) if position < bits or signed else 0

    return model


def bfi(bits):
    def model(a, b, c):
        position, length = c & 0xFF, c >> 8 & 0xFF
        mask = ((1 << length) - 1 << position) & (1 << bits) - 1
        return b & ~mask | a << position & mask

    return model


def bfind(bits, signed, shift):
    def model(a, b, c):
        value = ~a if signed and a < 0 else a
        position = value.bit_length() - 1
        return -1 if position < 0 else bits - 1 - position if shift else position

    return model


def prmt(mode):
    def model(a, b, c):
        pool = bytes_of(a, False) + bytes_of(b, False)
        if mode:
            c &= 3
            table = {
                "f4e": [c, c + 1, c + 2, c + 3],
                "b4e": [c, c + 7 & 7, c + 6 & 7, c + 5 & 7],
                "rc8": [c] * 4,
                "ecl": [max(c, k) for k in range(4)],
                "ecr": [min(c, k) for k in range(4)],
                "rc16": [2 * (c & 1), 2 * (c & 1) + 1] * 2,
            }
            return sum(pool[k] << 8 * index for index, k in enumerate(table[mode]))
        result = 0
        for index in range(4):
            selector = c >> 4 * index
            byte = pool[selector & 7]
            result |= ((0xFF if byte & 0x80 else 0) if selector & 8 else byte) << 8 * index
        return result

    return model


def fns(mask, base, offset):
    base, offset = base & 31, wrap(offset, 32, True)
    if not offset:
        return base if mask >> base & 1 else -1
    found = [k for k in (range(base, 32) if offset > 0 else range(base, -1, -1)) if mask >> k & 1]
    return found[abs(offset) - 1] if abs(offset) <= len(found) else -1


def funnel(left, wrapping):
    def model(a, b, c):
        amount, wide = c & 31 if wrapping else min(c, 32), b << 32 | a
        return wide << amount >> 32 if left else wide >> amount

    return model


def test_bits_of_32(gpu):
    models = {
        "bfe.u32 d, a, b, c;": bfe(32, False),
        "bfe.s32 d, a, b, c;": bfe(32, True),
        "shr.u32 %r5, c, 8; bfi.b32 d, a, b, c, %r5;": bfi(32),
        "bfind.u32 d, a;": bfind(32, False, False),
        "bfind.shiftamt.u32 d, a;": bfind(32, False, True),
        "bfind.s32 d, a;": lambda a, b, c: bfind(32, True, False)(wrap(a, 32, True), b, c),
        "bfind.shiftamt.s32 d, a;": lambda a, b, c: bfind(32, True, True)(wrap(a, 32, True), b, c),
        "popc.b32 d, a;": lambda a, b, c: a.bit_count(),
        "clz.b32 d, a;": lambda a, b, c: 32 - a.bit_length(),
        "brev.b32 d, a;": lambda a, b, c: int(f"{a:032b}"[::-1], 2),
        "bmsk.clamp.b32 d, a, b;": lambda a, b, c: (1 << min(b, 32)) - 1 << min(a, 32),
        "bmsk.wrap.b32 d, a, b;": lambda a, b, c: (1 << (b & 31)) - 1 << (a & 31),
        "szext.clamp.u32 d, a, b;": lambda a, b, c: a & (1 << min(b, 32)) - 1,
        "szext.wrap.s32 d, a, b;": lambda a, b, c: wrap(a, b & 31, True) if b & 31 else 0,
        "szext.clamp.s32 d, a, b;": lambda a, b, c: wrap(a, min(b, 32), True) if b else 0,
        "shf.l.wrap.b32 d, a, b, c;": funnel(True, True),
        "shf.l.clamp.b32 d, a, b, c;": funnel(True, False),
        "shf.r.wrap.b32 d, a, b, c;": funnel(False, True),
        "shf.r.clamp.b32 d, a, b, c;": funnel(False, False),
        "prmt.b32 d, a, b, c;": prmt(""),
        "fns.b32 d, a, b, c;": fns,
        "lop3.b32 d, a, b, c, 0xE8;": lambda a, b, c: a & b | b & c | a & c,
        "lop3.b32 d, a, b, c, 0x96;": lambda a, b, c: a ^ b ^ c,
        "setp.ne.u32 %p2, 0, 0; lop3.or.b32 _|%p1, a, b, c, 0x80, %p2; selp.u32 d, 1, 0, %p1;": lambda a, b, c: (
            a & b & c != 0
        ),
        "setp.eq.u32 %p2, a, c; lop3.and.b32 d|%p1, a, b, c, 0x3C, %p2; selp.u32 d, 1, 0, %p1;": lambda a, b, c: (
            a == c != b
        ),
        **{f"prmt.b32.{mode} d, a, b, c;": prmt(mode) for mode in ("f4e", "b4e", "rc8", "ecl", "ecr", "rc16")},
    }
    operands = inputs(32)
    operands[2][::3] = RANDOM.integers(-33, 34, operands[2][::3].size).astype(np.int32).view(np.uint32)
    check(gpu, models, operands, 32, False)


def test_bits_of_64(gpu):
    low = "cvt.u32.u64 %r5, b; cvt.u32.u64 %r6, c;"
    models = {
        f"{low} bfe.u64 d, a, %r5, %r6;": bfe(64, False),
        f"{low} bfe.s64 d, a, %r5, %r6;": bfe(64, True),
        f"{low} shr.u32 %r7, %r6, 8; bfi.b64 d, a, b, %r6, %r7;": bfi(64),
        "popc.b64 %r5, a; cvt.u64.u32 d, %r5;": lambda a, b, c: a.bit_count(),
        "clz.b64 %r5, a; cvt.u64.u32 d, %r5;": lambda a, b, c: 64 - a.bit_length(),
        "brev.b64 d, a;": lambda a, b, c: int(f"{a:064b}"[::-1], 2),
        "bfind.u64 %r5, a; cvt.s64.s32 d, %r5;": bfind(64, False, False),
        "bfind.shiftamt.s64 %r5, a; cvt.s64.s32 d, %r5;": lambda a, b, c: bfind(64, True, True)(
            wrap(a, 64, True), b, c
        ),
        f"{low} shl.b64 d, a, %r5;": lambda a, b, c: a << min(b & 0xFFFFFFFF, 64),
        f"{low} shr.u64 d, a, %r5;": lambda a, b, c: a >> min(b & 0xFFFFFFFF, 64),
        f"{low} shr.s64 d, a, %r5;": lambda a, b, c: wrap(a, 64, True) >> min(b & 0xFFFFFFFF, 64),
    }
    check(gpu, models, inputs(64), 64, False)


@pytest.mark.parametrize("bits", [16, 32])
def test_shifts_of_any_amount(gpu, bits):
    widen = "cvt.u32.u16 %r5, b;" if bits == 16 else "mov.u32 %r5, b;"
    models = {
        f"{widen} shl.b{bits} d, a, %r5;": lambda a, b, c: a << min(b, bits),
        f"{widen} shr.u{bits} d, a, %r5;": lambda a, b, c: a >> min(b, bits),
        f"{widen} shr.b{bits} d, a, %r5;": lambda a, b, c: a >> min(b, bits),
        f"{widen} shr.s{bits} d, a, %r5;": lambda a, b, c: wrap(a, bits, True) >> min(b, bits),
        f"shr.s{bits} d, a, {bits + 7};": lambda a, b, c: wrap(a, bits, True) >> bits,
        f"shl.b{bits} d, a, {bits};": lambda a, b, c: 0,
    }
    check(gpu, models, inputs(bits), bits, False)


ALL = ["u8", "s8", *TYPES]


@pytest.mark.parametrize("source", ALL)
def test_conversions_between_integers(gpu, source):
    bits, signed = int(source[1:]), source[0] == "s"
    values = samples(bits)
    for target in ALL:
        width, to_signed = int(target[1:]), target[0] == "s"
        store = max(width, 16)  # a small result is extended into the whole register
        models = {
            f"cvt.{target}.{source} d, a;": lambda a, width=width, to_signed=to_signed: wrap(a, width, to_signed),
            f"cvt.sat.{target}.{source} d, a;": lambda a, width=width, to_signed=to_signed: clip(a, width, to_signed),
        }
        check(gpu, models, [values], store, signed)


@pytest.mark.parametrize(("kind", "bits"), [(kind, bits) for kind in "us" for bits in (16, 8, 4, 2)])
def test_packing_conversion(gpu, kind, bits):
    signed = kind == "s"

    def model(a, b, c):
        low, high = (clip(wrap(x, 32, True), bits, signed) & (1 << bits) - 1 for x in (b, a))
        return low | high << bits | (c << 2 * bits if bits < 16 else 0)

    third = ", c" if bits < 16 else ""
    name = f"cvt.pack.sat.{kind}{bits}.s32{'.b32' if bits < 16 else ''} d, a, b{third};"
    check(gpu, {name: model}, inputs(32), 32, False)


def test_comparisons_write_both_predicates(gpu):
    models = {}
    names = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
    for name in ("eq", "ne", "lt", "le", "gt", "ge", *names):
        compare = getattr(operator, names.get(name, name))
        models[f"setp.{name}.u32 %p1|%p2, a, b; selp.u32 d, 2, 0, %p1; @%p2 add.u32 d, d, 1;"] = (
            lambda a, b, c, compare=compare: 2 if compare(a, b) else 1
        )
        models[f"setp.ne.u32 %p3, c, 0; setp.{name}.and.u32 %p1, a, b, !%p3; selp.u32 d, 1, 0, %p1;"] = (
            lambda a, b, c, compare=compare: compare(a, b) and c == 0
        )
        models[f"set.{name}.u32.u32 d, a, b;"] = lambda a, b, c, compare=compare: -compare(a, b)
    check(gpu, models, inputs(32), 32, False)


def test_bits_move_through_vectors(gpu):
    text = kernel(
        """ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%rd0];
        mov.b64 %rd2, {%r1, %r2}; mov.b64 %rd3, {%r3, %r4}; mov.b128 %q0, {%rd2, %rd3}; st.global.b128 [%rd1], %q0;
        mov.b64 {%h1, %h2, %h3, %h4}, %rd2; st.global.v4.b16 [%rd1+16], {%h4, %h3, %h2, %h1};
        mov.b32 {_, %h1}, %r1; st.global.u16 [%rd1+24], %h1; mov.b128 {%rd2, _}, %q0; st.global.u64 [%rd1+32], %rd2;""",
        2,
    )
    source, out = np.arange(16, dtype=np.uint8), np.zeros(40, np.uint8)
    run(gpu, text, source, out)
    assert out[:16].tolist() == list(range(16))
    assert out[16:24].tolist() == [6, 7, 4, 5, 2, 3, 0, 1]
    assert out[24:26].tolist() == [2, 3]
    assert out[32:].tolist() == list(range(8))
