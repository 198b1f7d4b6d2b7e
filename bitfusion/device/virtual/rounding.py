"""From an exact result to a float of any format in any rounding mode (PTX ISA, 9.7.3 "Rounding modifiers").

LLVM rounds to nearest even. Where another mode is asked for, the nearest float is moved to its neighbour if the sign of
its exact error says so. That sign is known: in double the product of two floats is exact, the error of a sum is itself a
double (TwoSum, Knuth, TAOCP 2, 4.2.2), and those of quotients and roots are the residual of one fma (Muller et al.,
Handbook of Floating-Point Arithmetic, 4.4). Doubles have no wider format: ``directed`` asks the CPU for their mode.
"""

from __future__ import annotations

from bitfusion.device.virtual.builder import Builder, Value, constant
from bitfusion.device.virtual.syntax import Instruction

_DIRECTED = {"rz": "rz", "rm": "rm", "rp": "rp"}
_BF16_NAN = 0x7FFF
_INFINITY_16 = {"f16": 0x7C00, "bf16": 0x7F80}
_SIGN_OF_FLOAT = -(1 << 31)


def directed_mode(i: Instruction) -> str | None:
    """rz, rm or rp; None for the default, to nearest even."""
    return i.choose(_DIRECTED, None)


# arithmetic of floats
def directed_float(b: Builder, operation: str, mode: str, *operands: Value) -> Value:
    """An LLVM operation (fadd, fsub, fmul, fdiv, sqrt, fma) on floats, rounded as ``mode`` says."""
    wide = [b.cast("fpext", value, "double") for value in operands]
    match operation:
        case "fadd" | "fsub":
            return _directed_sum(b, mode, wide[0], wide[1] if operation == "fadd" else b.fneg(wide[1]))
        case "fma":
            return _directed_sum(b, mode, b.op("fmul", wide[0], wide[1]), wide[2])
        case "fmul":
            return float_from_double(b, mode, b.op("fmul", *wide))
        case "fdiv":
            nearest = b.op("fdiv", *operands)
            residual = b.intrinsic("fma", b.fneg(b.cast("fpext", nearest, "double")), wide[1], wide[0])
            residual = b.select(b.icmp("slt", b.bitcast(operands[1], "i32"), 0), b.fneg(residual), residual)
            return b.bitcast(nudge(b, mode, b.bitcast(nearest, "i32"), residual), "float")
    nearest = b.intrinsic("sqrt", *operands)
    root = b.cast("fpext", nearest, "double")
    return b.bitcast(nudge(b, mode, b.bitcast(nearest, "i32"), b.intrinsic("fma", b.fneg(root), root, *wide)), "float")


def _directed_sum(b: Builder, mode: str, left: Value, right: Value) -> Value:
    """The sum of two doubles that are each exact."""
    total = b.op("fadd", left, right)
    result = float_from_double(b, mode, total, sum_error(b, total, left, right))
    if mode != "rm":
        return result
    # an exact zero sum is -0 when rounding down, unless both are +0 (IEEE 754-2019, 6.3)
    signs = b.op("or", b.bitcast(left, "i64"), b.bitcast(right, "i64"))
    negative = b.icmp("slt", signs, 0)
    zero = b.select(negative, constant("float", "-0.0"), constant("float", "0.0"))
    return b.select(b.fcmp("oeq", total, "0.0"), zero, result)


def sum_error(b: Builder, total: Value, left: Value, right: Value) -> Value:
    """left + right - total, exactly."""
    right_part = b.op("fsub", total, left)
    left_part = b.op("fsub", total, right_part)
    return b.op("fadd", b.op("fsub", left, left_part), b.op("fsub", right, right_part))


def float_from_double(b: Builder, mode: str | None, value: Value, error: Value | None = None) -> Value:
    """The float of ``value`` plus ``error``; the error is less than half a unit in the last place of the double."""
    nearest = b.cast("fptrunc", value, "float")
    if mode is None:
        return nearest
    difference = b.op("fsub", value, b.cast("fpext", nearest, "double"))
    if error is not None:
        difference = b.op("fadd", difference, error)
    return b.bitcast(nudge(b, mode, b.bitcast(nearest, "i32"), difference), "float")


def nudge(b: Builder, mode: str, bits: Value, error: Value) -> Value:
    """The bits of a rounded float, moved to its neighbour if its error (exact minus rounded) says so.

    An infinity with an error has overflowed: its neighbour is the largest finite number. NaN has no error.
    """
    negative = b.icmp("slt", bits, 0)
    towards_zero, away = b.op("add", bits, -1), b.op("add", bits, 1)
    above, below = b.fcmp("ogt", error, "0.0"), b.fcmp("olt", error, "0.0")
    moved = bits
    if mode in ("rm", "rz"):
        down = below if mode == "rm" else b.op("and", below, b.invert(negative))
        moved = b.select(down, b.select(negative, away, towards_zero), moved)
    if mode in ("rp", "rz"):
        up = above if mode == "rp" else b.op("and", above, negative)
        moved = b.select(up, b.select(negative, towards_zero, away), moved)
    return moved


def round_to_odd(b: Builder, value: Value, error: Value) -> Value:
    """A double that stands for ``value`` plus ``error`` in a second rounding to a format with fewer than 52 bits: the last
    bit is set where anything is missing (Boldo and Melquiond 2008).
    """
    bits = b.bitcast(value, "i64")
    same_side = b.icmp("eq", b.fcmp("ogt", error, "0.0"), b.icmp("sge", bits, 0))
    neighbour = b.op("add", bits, b.select(same_side, constant("i64", 1), -1))
    even = b.icmp("eq", b.op("and", bits, 1), 0)
    inexact = b.op("and", even, b.fcmp("one", error, "0.0"))
    return b.bitcast(b.select(inexact, neighbour, bits), "double")


# 16-bit formats
def from_bf16(b: Builder, value: Value) -> Value:
    """i16 -> float"""
    return b.bitcast(b.op("shl", b.zext(value, "i32"), 16), "float")


def to_bf16(b: Builder, value: Value, mode: str | None = None) -> Value:
    """float -> i16"""
    bits = b.bitcast(value, "i32")
    odd = b.op("and", b.op("lshr", bits, 16), 1)
    rounded = b.op("lshr", b.op("add", b.op("add", bits, 0x7FFF), odd), 16)
    nearest = b.trunc(b.select(b.fcmp("uno", value, value), _BF16_NAN, rounded), "i16")
    return nearest if mode is None else nudge(b, mode, nearest, b.op("fsub", value, from_bf16(b, nearest)))


def from_f16(b: Builder, value: Value) -> Value:
    """i16 or half -> float"""
    return b.cast("fpext", b.bitcast(value, "half"), "float")


def to_f16(b: Builder, value: Value, mode: str | None = None) -> Value:
    """float -> i16"""
    nearest = b.bitcast(b.cast("fptrunc", value, "half"), "i16")
    return nearest if mode is None else nudge(b, mode, nearest, b.op("fsub", value, from_f16(b, nearest)))


def narrow(b: Builder, target: str, value: Value, mode: str | None = None) -> Value:
    """float or double -> the bits (i16) of ``target``, f16 or bf16."""
    if value.type == "double":
        value = odd_float(b, value)
    return (to_bf16 if target.startswith("bf16") else to_f16)(b, value, mode)


def limit_to_finite(b: Builder, target: str, bits: Value) -> Value:
    """.satfinite: the largest number of ``target`` (f16, bf16) instead of infinity."""
    infinite = b.icmp("eq", b.op("and", bits, 0x7FFF), _INFINITY_16[target])
    return b.select(infinite, b.op("sub", bits, 1), bits)


def odd_float(b: Builder, value: Value) -> Value:
    """double -> float such that a second rounding gives the right result; without ``__truncdfhf2``, which no library
    at hand exports.
    """
    nearest = b.cast("fptrunc", value, "float")
    back = b.cast("fpext", nearest, "double")
    bits = b.bitcast(nearest, "i32")
    too_far = b.fcmp("ogt", b.intrinsic("fabs", back), b.intrinsic("fabs", value))
    odd = b.op("or", b.select(too_far, b.op("sub", bits, 1), bits), 1)
    return b.bitcast(b.select(b.fcmp("ueq", back, value), bits, odd), "float")


def narrow_fma(b: Builder, target: str, x: Value, y: Value, z: Value) -> Value:
    """fma of floats that came from ``target`` (f16, bf16), rounded once: its bits (i16)."""
    wide = [b.cast("fpext", value, "double") for value in (x, y, z)]
    product = b.op("fmul", wide[0], wide[1])
    total = b.op("fadd", product, wide[2])
    if target != "f16":  # halfs span so few powers of two that their sum is exact
        total = round_to_odd(b, total, sum_error(b, total, product, wide[2]))
    return narrow(b, target, total)


def halves(b: Builder, value: Value) -> list[Value]:
    """The two i16 of a packed i32."""
    return [b.field(value, shift, "i16") for shift in (0, 16)]


# clamping
def saturate(b: Builder, value: Value) -> Value:
    """Clamp to [+0, 1]; NaN becomes +0."""
    zero, one = number(value.type, "zero"), number(value.type, "one")
    return b.intrinsic("minimumnum", b.intrinsic("maximumnum", value, zero), one)


def rectify(b: Builder, value: Value) -> Value:
    """.relu: negative numbers become +0; NaN stays."""
    return b.intrinsic("maximum", value, number(value.type, "zero"))


_NUMBERS = {
    ("half", "zero"): "0xH0000",
    ("half", "one"): "0xH3C00",
    ("<2 x half>", "zero"): "zeroinitializer",
    ("<2 x half>", "one"): "<half 0xH3C00, half 0xH3C00>",
}


def number(type_: str, name: str) -> Value:
    """The constant zero or one of a floating-point type."""
    return constant(type_, _NUMBERS.get((type_, name), {"zero": "0.0", "one": "1.0"}[name]))
