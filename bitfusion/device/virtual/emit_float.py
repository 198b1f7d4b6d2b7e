"""Floating-point arithmetic (PTX ISA, 9.7.3 to 9.7.5). bf16 is computed in f32, as the hardware's results allow.

``.approx`` functions are computed precisely; ``.ftz`` is honoured with the option flush_denormals.
"""

from __future__ import annotations

from collections.abc import Callable

from bitfusion.device.virtual.builder import Value
from bitfusion.device.virtual.datatypes import B16, B32
from bitfusion.device.virtual.directed import directed_double
from bitfusion.device.virtual.emitter import Emitter
from bitfusion.device.virtual.exponential import exp2
from bitfusion.device.virtual.rounding import (
    directed_float,
    directed_mode,
    from_bf16,
    from_f16,
    halves,
    narrow_fma,
    number,
    rectify,
    saturate,
    to_bf16,
    to_f16,
)
from bitfusion.device.virtual.syntax import Instruction, Operand
from bitfusion.device.virtual.table import FLOATS, ROUNDINGS, Table, unsupported

TABLE = Table()

_SMALLEST_NORMAL = {"float": "0x3810000000000000", "half": "0xH0400", "<2 x half>": "<half 0xH0400, half 0xH0400>"}
"""2 ** -126 and 2 ** -14."""
_SIGN = {"bf16": 0x8000, "bf16x2": 0x80008000}
_MAGNITUDE = {"bf16": 0x7FFF, "bf16x2": 0x7FFF7FFF}

_TESTP = {
    "finite": 0x1F8,
    "infinite": 0x204,
    "number": 0x3FC,
    "notanumber": 0x003,
    "normal": 0x108,
    "subnormal": 0x090,
}
"""Masks of llvm.is.fpclass (LLVM Language Reference, "llvm.is.fpclass")."""

Operation = Callable[..., Value]


def flush(e: Emitter, i: Instruction, value: Value) -> Value:
    """Subnormal numbers become zero of the same sign."""
    if not (e.options.flush_denormals and i.has("ftz") and value.type in _SMALLEST_NORMAL):
        return value
    condition = "<2 x i1>" if value.type == "<2 x half>" else "i1"
    magnitude = e.intrinsic("fabs", value)
    small = e.let(condition, f"fcmp olt {magnitude}, {_SMALLEST_NORMAL[value.type]}")
    return e.select(small, e.intrinsic("copysign", number(value.type, "zero"), value), value)


def read(e: Emitter, i: Instruction, operand: Operand) -> Value:
    return flush(e, i, e.read(operand, i.type))


def _finish(e: Emitter, i: Instruction, value: Value) -> None:
    """Apply .sat, .relu and .ftz and write the result."""
    if i.has("sat"):
        value = saturate(e, value)
    if i.has("relu"):
        value = rectify(e, value)
    e.write(i.operands[0], flush(e, i, value))


def _is_bf16(i: Instruction) -> bool:
    return i.type.name.startswith("bf16")


def _lanes(e: Emitter, i: Instruction, operation: Operation) -> None:
    """Do an operation of i16 on the halves of 16-bit or packed operands."""
    packed = i.type.size == 4
    inputs = [e.read(operand, B32 if packed else B16) for operand in i.operands[1:]]
    lanes = zip(*[halves(e, value) for value in inputs], strict=True) if packed else [tuple(inputs)]
    results = [operation(*lane) for lane in lanes]
    e.write(i.operands[0], e.pack(results) if packed else results[0])


def _bf16(e: Emitter, i: Instruction, operation: Operation) -> None:
    """Do an operation of floats on bf16 or bf16x2 operands."""

    def through_float(*lane: Value) -> Value:
        result = operation(*[from_bf16(e, value) for value in lane])
        return to_bf16(e, rectify(e, result) if i.has("relu") else result)

    _lanes(e, i, through_float)


def _fma16(e: Emitter, i: Instruction) -> None:
    """fma of 16-bit formats: exact up to the one rounding."""
    target, widen = ("bf16", from_bf16) if _is_bf16(i) else ("f16", from_f16)

    def fused(*lane: Value) -> Value:
        parts = [widen(e, value) if target == "bf16" else _flushed_half(e, i, value) for value in lane]
        bits = narrow_fma(e, target, *parts)
        if target == "f16":
            half = flush(e, i, _clamped(e, i, e.bitcast(bits, "half")))
            return e.bitcast(half, "i16")
        return to_bf16(e, rectify(e, from_bf16(e, bits))) if i.has("relu") else bits

    _lanes(e, i, fused)


def _flushed_half(e: Emitter, i: Instruction, value: Value) -> Value:
    """i16 -> float"""
    return from_f16(e, flush(e, i, e.bitcast(value, "half")))


def _clamped(e: Emitter, i: Instruction, value: Value) -> Value:
    value = saturate(e, value) if i.has("sat") else value
    return rectify(e, value) if i.has("relu") else value


def _rounded(e: Emitter, i: Instruction, operation: str, *operands: Value) -> Value:
    """An LLVM operation on floats or doubles, in the instruction's rounding mode."""
    mode = directed_mode(i)
    if mode is not None:
        if operands[0].type == "float":
            return directed_float(e, operation, mode, *operands)
        if operands[0].type == "double":
            return directed_double(e, operation, mode, *operands)
        raise unsupported(i)
    if operation in ("fma", "sqrt"):
        return e.intrinsic(operation, *operands)
    return e.op(operation, *operands)


def binary(e: Emitter, i: Instruction, operation: str) -> None:
    """add, sub, mul, div"""
    if _is_bf16(i):
        if directed_mode(i) or i.has("sat", "ftz"):
            raise unsupported(i)
        _bf16(e, i, lambda left, right: e.op(operation, left, right))
    else:
        _finish(e, i, _rounded(e, i, operation, read(e, i, i.operands[1]), read(e, i, i.operands[2])))


@TABLE.emits("fma", types=FLOATS, modifiers=f"{ROUNDINGS} ftz sat relu", operands=4)
def fma(e: Emitter, i: Instruction) -> None:
    if i.type.name in ("f32", "f64"):
        _finish(e, i, _rounded(e, i, "fma", *[read(e, i, operand) for operand in i.operands[1:4]]))
    elif directed_mode(i):
        raise unsupported(i)
    else:
        _fma16(e, i)


def absolute(e: Emitter, i: Instruction) -> None:
    if _is_bf16(i):
        value = e.read(i.operands[1], i.type)
        e.write(i.operands[0], e.op("and", value, _MAGNITUDE[i.type.name]))
    else:
        _finish(e, i, e.intrinsic("fabs", read(e, i, i.operands[1])))


def negate(e: Emitter, i: Instruction) -> None:
    if _is_bf16(i):
        value = e.read(i.operands[1], i.type)
        e.write(i.operands[0], e.op("xor", value, _SIGN[i.type.name]))
    else:
        _finish(e, i, e.fneg(read(e, i, i.operands[1])))


def min_max(e: Emitter, i: Instruction) -> None:
    """Without .NaN the operand that is a number wins; with it NaN wins. -0 is less than +0. Two or three sources.

    .xorsign.abs compares magnitudes; the result's sign is the product of the signs.
    """
    name = f"{i.opcode}imum" if i.has("NaN") else f"{i.opcode}imumnum"

    def combine(first: Value, *rest: Value) -> Value:
        for value in rest:
            left, right = (e.intrinsic("fabs", value) if i.has("abs") else value for value in (first, value))
            result = e.intrinsic(name, left, right)
            first = _product_sign(e, result, first, value) if i.has("xorsign") else result
        return first

    if _is_bf16(i):
        _bf16(e, i, combine)
    else:
        _finish(e, i, combine(*[read(e, i, operand) for operand in i.operands[1:]]))


def _product_sign(e: Emitter, magnitude: Value, left: Value, right: Value) -> Value:
    integer = f"i{left.bits}"
    signs = e.op("xor", e.bitcast(left, integer), e.bitcast(right, integer))
    return e.intrinsic("copysign", magnitude, e.bitcast(signs, left.type))


@TABLE.emits("sqrt", types="f32 f64", modifiers=f"{ROUNDINGS} approx ftz", operands=2)
def sqrt(e: Emitter, i: Instruction) -> None:
    _finish(e, i, _rounded(e, i, "sqrt", read(e, i, i.operands[1])))


@TABLE.emits("rsqrt", types="f32 f64", modifiers="approx ftz", operands=2)
def rsqrt(e: Emitter, i: Instruction) -> None:
    value = read(e, i, i.operands[1])
    _finish(e, i, e.op("fdiv", number(value.type, "one"), e.intrinsic("sqrt", value)))


@TABLE.emits("rcp", types="f32 f64", modifiers=f"{ROUNDINGS} approx ftz", operands=2)
def rcp(e: Emitter, i: Instruction) -> None:
    value = read(e, i, i.operands[1])
    result = _rounded(e, i, "fdiv", number(value.type, "one"), value)
    if i.has("approx") and value.type == "double":  # PTX ISA, 9.7.3.13: the lower 32 bits are zero
        result = e.bitcast(e.op("and", e.bitcast(result, "i64"), -(1 << 32)), "double")
    _finish(e, i, result)


_TRANSCENDENTAL = {"ex2": "exp2", "lg2": "log2", "sin": "sin", "cos": "cos", "tanh": "tanh"}


@TABLE.emits("ex2 lg2 sin cos tanh", types="f16 f16x2 bf16 bf16x2 f32", modifiers="approx ftz", operands=2)
def transcendental(e: Emitter, i: Instruction) -> None:
    """The functions of the special function unit; 16-bit formats through f32."""
    name = _TRANSCENDENTAL[i.opcode]
    if i.type.name == "f32":
        value = read(e, i, i.operands[1])
        _finish(e, i, exp2(e, value) if i.opcode == "ex2" else e.intrinsic(name, value))
    elif _is_bf16(i):
        _bf16(e, i, lambda value: e.intrinsic(name, value))
    else:
        _lanes(e, i, lambda value: to_f16(e, e.intrinsic(name, _flushed_half(e, i, value))))


@TABLE.emits("copysign", types="f32 f64", operands=3)
def copysign(e: Emitter, i: Instruction) -> None:
    """The second source with the sign of the first."""
    sign, magnitude = e.read(i.operands[1], i.type), e.read(i.operands[2], i.type)
    e.write(i.operands[0], e.intrinsic("copysign", magnitude, sign))


@TABLE.emits("testp", types="f32 f64", modifiers=" ".join(_TESTP), operands=2)
def testp(e: Emitter, i: Instruction) -> None:
    value = e.read(i.operands[1], i.type)
    declaration = f"declare i1 @llvm.is.fpclass.{i.type.name}({value.type}, i32 immarg)"
    e.write(i.operands[0], e.call_foreign(declaration, "i1", f"{value}, i32 {i.require(_TESTP)}"))
