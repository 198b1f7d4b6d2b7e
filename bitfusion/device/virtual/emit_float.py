"""Floating-point arithmetic (PTX ISA, 9.7.3 to 9.7.5). bf16 is computed in f32, as the hardware's results allow.

``.approx`` functions are computed precisely; ``.ftz`` is honoured with the option flush_denormals.
"""

from __future__ import annotations

from collections.abc import Callable

from bitfusion.device.virtual.builder import Value, constant
from bitfusion.device.virtual.datatypes import B16, B32
from bitfusion.device.virtual.emitter import Emitter
from bitfusion.device.virtual.rounding import (
    directed_mode,
    from_bf16,
    from_f16,
    half_fma,
    halves,
    round_directed,
    saturate,
    to_bf16,
    to_f16,
)
from bitfusion.device.virtual.syntax import Instruction, Operand
from bitfusion.device.virtual.table import FLOATS, ROUNDINGS, Table

TABLE = Table()

_SMALLEST_NORMAL = "0x3810000000000000"  # 2 ** -126, the smallest normal f32
_HALF_ZERO = {"half": "0xH0000", "<2 x half>": "zeroinitializer"}
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

Function = Callable[[Value], Value]


def _zero(value: Value) -> Value:
    return constant(value.type, _HALF_ZERO.get(value.type, "0.0"))


def flush(e: Emitter, i: Instruction, value: Value) -> Value:
    """Subnormal f32 become zero of the same sign."""
    if not (e.options.flush_denormals and i.has("ftz") and value.type == "float"):
        return value
    small = e.fcmp("olt", e.intrinsic("fabs", value), _SMALLEST_NORMAL)
    return e.select(small, e.intrinsic("copysign", _zero(value), value), value)


def read(e: Emitter, i: Instruction, operand: Operand) -> Value:
    return flush(e, i, e.read(operand, i.type))


def _finish(e: Emitter, i: Instruction, value: Value) -> None:
    """Apply .sat, .relu and .ftz and write the result."""
    if i.has("sat"):
        value = saturate(e, value)
    if i.has("relu"):
        value = e.intrinsic("maxnum", value, _zero(value))
    e.write(i.operands[0], flush(e, i, value))


def _is_bf16(i: Instruction) -> bool:
    return i.type.name.startswith("bf16")


def _bf16(e: Emitter, i: Instruction, operation: Callable[..., Value]) -> None:
    """Do an operation of floats on bf16 or bf16x2 operands."""
    inputs = [e.read(operand, i.type) for operand in i.operands[1:]]
    if i.type.name == "bf16":
        e.write(i.operands[0], to_bf16(e, operation(*[from_bf16(e, value) for value in inputs])))
        return
    lanes = zip(*[halves(e, value) for value in inputs], strict=True)
    results = [to_bf16(e, operation(*[from_bf16(e, value) for value in lane])) for lane in lanes]
    e.write(i.operands[0], e.pack(results))


def binary(e: Emitter, i: Instruction, operation: str) -> None:
    """add, sub, mul, div"""
    if _is_bf16(i):
        _bf16(e, i, lambda left, right: e.op(operation, left, right))
        return
    left, right = read(e, i, i.operands[1]), read(e, i, i.operands[2])
    result = e.op(operation, left, right)
    mode = directed_mode(i)
    if mode and result.type in ("float", "double"):
        result = round_directed(e, operation, mode, result, left, right)
    _finish(e, i, result)


@TABLE.emits("fma", types=FLOATS, modifiers=f"{ROUNDINGS} ftz sat relu", operands=4)
def fma(e: Emitter, i: Instruction) -> None:
    if _is_bf16(i):
        _bf16(e, i, lambda x, y, z: e.intrinsic("fma", x, y, z))
        return
    inputs = [read(e, i, operand) for operand in i.operands[1:4]]
    kind = inputs[0].type
    if kind == "half":
        result = half_fma(e, *inputs)
    elif kind == "<2 x half>":
        result = _packed_fma(e, inputs)
    else:
        result = e.intrinsic("fma", *inputs)
    mode = directed_mode(i)
    if mode and kind == "float":
        result = round_directed(e, "fma", mode, result, *inputs)
    _finish(e, i, result)


def _packed_fma(e: Emitter, inputs: list[Value]) -> Value:
    result = constant("<2 x half>", "poison")
    for lane in (0, 1):
        parts = [e.let("half", f"extractelement {value}, i32 {lane}") for value in inputs]
        result = e.let("<2 x half>", f"insertelement {result}, {half_fma(e, *parts)}, i32 {lane}")
    return result


def absolute(e: Emitter, i: Instruction) -> None:
    if _is_bf16(i):
        value = e.read(i.operands[1], i.type)
        e.write(i.operands[0], e.op("and", value, _MAGNITUDE[i.type.name]))
    else:
        _finish(e, i, e.intrinsic("fabs", e.read(i.operands[1], i.type)))


def negate(e: Emitter, i: Instruction) -> None:
    if _is_bf16(i):
        value = e.read(i.operands[1], i.type)
        e.write(i.operands[0], e.op("xor", value, _SIGN[i.type.name]))
    else:
        _finish(e, i, e.fneg(e.read(i.operands[1], i.type)))


def min_max(e: Emitter, i: Instruction) -> None:
    """Without .NaN the operand that is a number wins; with it NaN wins. Two or three sources."""
    name = f"{i.opcode}imum" if i.has("NaN") else f"{i.opcode}num"

    def combine(first: Value, *rest: Value) -> Value:
        for value in rest:
            first = e.intrinsic(name, first, value)
        return first

    if _is_bf16(i):
        _bf16(e, i, combine)
    else:
        _finish(e, i, combine(*[read(e, i, operand) for operand in i.operands[1:]]))


def _unary(e: Emitter, i: Instruction, function: Function) -> None:
    _finish(e, i, function(read(e, i, i.operands[1])))


@TABLE.emits("sqrt", types="f32 f64", modifiers=f"{ROUNDINGS} approx ftz", operands=2)
def sqrt(e: Emitter, i: Instruction) -> None:
    def root(value: Value) -> Value:
        result = e.intrinsic("sqrt", value)
        mode = directed_mode(i)
        return round_directed(e, "sqrt", mode, result, value) if mode else result

    _unary(e, i, root)


@TABLE.emits("rsqrt", types="f32 f64", modifiers="approx ftz", operands=2)
def rsqrt(e: Emitter, i: Instruction) -> None:
    _unary(e, i, lambda value: e.op("fdiv", constant(value.type, "1.0"), e.intrinsic("sqrt", value)))


@TABLE.emits("rcp", types="f32 f64", modifiers=f"{ROUNDINGS} approx ftz", operands=2)
def rcp(e: Emitter, i: Instruction) -> None:
    def reciprocal(value: Value) -> Value:
        one = constant(value.type, "1.0")
        result = e.op("fdiv", one, value)
        if i.has("approx") and value.type == "double":  # PTX ISA, 9.7.3.13: the lower 32 bits are zero
            result = e.bitcast(e.op("and", e.bitcast(result, "i64"), -(1 << 32)), "double")
        mode = directed_mode(i)
        return round_directed(e, "fdiv", mode, result, one, value) if mode else result

    _unary(e, i, reciprocal)


_TRANSCENDENTAL = {"ex2": "exp2", "lg2": "log2", "sin": "sin", "cos": "cos", "tanh": "tanh"}


@TABLE.emits("ex2 lg2 sin cos tanh", types="f16 f16x2 bf16 bf16x2 f32", modifiers="approx ftz", operands=2)
def transcendental(e: Emitter, i: Instruction) -> None:
    """The functions of the special function unit; 16-bit formats through f32."""
    name = _TRANSCENDENTAL[i.opcode]
    if i.type.name == "f32":
        _unary(e, i, lambda value: e.intrinsic(name, value))
        return
    widen, narrow = (from_bf16, to_bf16) if _is_bf16(i) else (from_f16, to_f16)
    packed = i.type.size == 4
    value = e.read(i.operands[1], B32 if packed else B16)
    results = [narrow(e, e.intrinsic(name, widen(e, part))) for part in (halves(e, value) if packed else [value])]
    e.write(i.operands[0], e.pack(results) if packed else results[0])


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
