"""Directed rounding and the 16-bit formats, which LLVM cannot do by itself.

LLVM rounds to nearest. The result is moved by one unit in the last place where the sign of its exact error says so: the
error of a sum is itself a float (TwoSum, Knuth, TAOCP 2, 4.2.2), those of products, quotients and roots are the
residual of one fma (Muller et al., Handbook of Floating-Point Arithmetic, 4.4).
"""

from __future__ import annotations

from bitfusion.device.virtual.builder import Builder, Value, constant
from bitfusion.device.virtual.datatypes import BITS_OF_LLVM
from bitfusion.device.virtual.syntax import Instruction

_DIRECTED = {"rz": "rz", "rm": "rm", "rp": "rp"}
_BF16_NAN = 0x7FFF
_INFINITY = "0x7FF0000000000000"


def directed_mode(i: Instruction) -> str | None:
    """rz, rm or rp; None for the default, to nearest even."""
    return i.choose(_DIRECTED, None)


def round_directed(b: Builder, operation: str, mode: str, result: Value, *operands: Value) -> Value:
    """The result of an LLVM operation on the operands, rounded towards zero (rz), down (rm) or up (rp) instead."""
    if operation == "fadd":
        error = _sum_error(b, result, *operands)
    elif operation == "fsub":
        error = _sum_error(b, result, operands[0], b.fneg(operands[1]))
    elif operation == "fmul":
        error = b.intrinsic("fma", operands[0], operands[1], b.fneg(result))
    elif operation == "fdiv":
        residual = b.intrinsic("fma", b.fneg(result), operands[1], operands[0])
        error = b.select(b.fcmp("olt", operands[1], "0.0"), b.fneg(residual), residual)
    elif operation == "sqrt":
        error = b.intrinsic("fma", b.fneg(result), result, operands[0])
    elif operation == "fma" and result.type == "float":
        error = _fma_error(b, result, *operands)
    else:
        return result
    return nudge(b, mode, result, error)


def _sum_error(b: Builder, total: Value, left: Value, right: Value) -> Value:
    """left + right - total, exactly."""
    right_part = b.op("fsub", total, left)
    left_part = b.op("fsub", total, right_part)
    return b.op("fadd", b.op("fsub", left, left_part), b.op("fsub", right, right_part))


def _fma_error(b: Builder, result: Value, x: Value, y: Value, z: Value) -> Value:
    """x * y + z - result with the right sign: in double the product is exact, and TwoSum gives the error of the sum."""
    wide = [b.cast("fpext", value, "double") for value in (x, y, z)]
    product = b.op("fmul", wide[0], wide[1])
    total = b.op("fadd", product, wide[2])
    error = _sum_error(b, total, product, wide[2])
    difference = b.op("fsub", total, b.cast("fpext", result, "double"))
    return b.cast("fptrunc", b.op("fadd", difference, error), "float")


def nudge(b: Builder, mode: str, result: Value, error: Value) -> Value:
    """The result moved to its neighbour if its error (exact minus rounded) says so. Zero, infinity and NaN stay."""
    integer = f"i{BITS_OF_LLVM[result.type]}"
    bits = b.bitcast(result, integer)
    negative = b.icmp("slt", bits, 0)
    towards_zero, away = b.op("add", bits, -1), b.op("add", bits, 1)
    above, below = b.fcmp("ogt", error, "0.0"), b.fcmp("olt", error, "0.0")
    moved = bits
    if mode == "rm" or mode == "rz":
        down = below if mode == "rm" else b.op("and", below, b.invert(negative))
        moved = b.select(down, b.select(negative, away, towards_zero), moved)
    if mode == "rp" or mode == "rz":
        up = above if mode == "rp" else b.op("and", above, negative)
        moved = b.select(up, b.select(negative, towards_zero, away), moved)
    moved = b.select(b.fcmp("oeq", result, "0.0"), bits, moved)
    magnitude = b.intrinsic("fabs", result)
    return b.bitcast(b.select(b.fcmp("olt", magnitude, _INFINITY), moved, bits), result.type)


def from_bf16(b: Builder, value: Value) -> Value:
    """i16 -> float"""
    return b.bitcast(b.op("shl", b.zext(value, "i32"), 16), "float")


def to_bf16(b: Builder, value: Value, towards_zero: bool = False) -> Value:
    """float -> i16, rounded to nearest even or towards zero."""
    bits = b.bitcast(value, "i32")
    if towards_zero:
        return b.field(bits, 16, "i16")
    odd = b.op("and", b.op("lshr", bits, 16), 1)
    rounded = b.op("lshr", b.op("add", b.op("add", bits, 0x7FFF), odd), 16)
    return b.trunc(b.select(b.fcmp("uno", value, value), _BF16_NAN, rounded), "i16")


def from_f16(b: Builder, value: Value) -> Value:
    """i16 or half -> float"""
    return b.cast("fpext", b.bitcast(value, "half"), "float")


def to_f16(b: Builder, value: Value, towards_zero: bool = False) -> Value:
    """float -> i16, rounded to nearest even or towards zero."""
    half = b.cast("fptrunc", value, "half")
    bits = b.bitcast(half, "i16")
    if not towards_zero:
        return bits
    magnitude = b.intrinsic("fabs", b.cast("fpext", half, "float"))
    too_far = b.fcmp("ogt", magnitude, b.intrinsic("fabs", value))
    return b.select(too_far, b.op("sub", bits, 1), bits)


def double_to_half(b: Builder, value: Value) -> Value:
    """double -> half without double rounding, and without ``__truncdfhf2``, which no library at hand exports."""
    return b.cast("fptrunc", _round_to_odd(b, value), "half")


def _round_to_odd(b: Builder, value: Value) -> Value:
    """double -> float such that a second rounding gives the right result (Boldo and Melquiond 2008)."""
    nearest = b.cast("fptrunc", value, "float")
    back = b.cast("fpext", nearest, "double")
    bits = b.bitcast(nearest, "i32")
    too_far = b.fcmp("ogt", b.intrinsic("fabs", back), b.intrinsic("fabs", value))
    odd = b.op("or", b.select(too_far, b.op("sub", bits, 1), bits), 1)
    return b.bitcast(b.select(b.fcmp("ueq", back, value), bits, odd), "float")


def half_fma(b: Builder, x: Value, y: Value, z: Value) -> Value:
    """fma of halfs: exact in double up to the last rounding."""
    wide = [b.cast("fpext", value, "double") for value in (x, y, z)]
    return double_to_half(b, b.op("fadd", b.op("fmul", wide[0], wide[1]), wide[2]))


def halves(b: Builder, value: Value) -> list[Value]:
    """The two i16 of a packed i32."""
    return [b.field(value, shift, "i16") for shift in (0, 16)]


def saturate(b: Builder, value: Value) -> Value:
    """Clamp to [0, 1]; NaN becomes 0."""
    zero, one = constant(value.type, "0.0"), constant(value.type, "1.0")
    if value.type == "<2 x half>":
        zero, one = constant(value.type, "zeroinitializer"), constant(value.type, "<half 1.0, half 1.0>")
    return b.intrinsic("minnum", b.intrinsic("maxnum", value, zero), one)
