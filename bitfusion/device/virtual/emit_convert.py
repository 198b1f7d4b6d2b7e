"""Conversions: ``cvt`` and ``cvt.pack`` (PTX ISA, 9.7.9.21 and 9.7.9.22)."""

from __future__ import annotations

from bitfusion.device.virtual.builder import Value
from bitfusion.device.virtual.datatypes import F32, S32, TYPES, Type
from bitfusion.device.virtual.emit_float import flush
from bitfusion.device.virtual.emitter import Emitter
from bitfusion.device.virtual.rounding import (
    directed_mode,
    double_to_half,
    from_bf16,
    nudge,
    saturate,
    to_bf16,
    to_f16,
)
from bitfusion.device.virtual.syntax import Instruction
from bitfusion.device.virtual.table import INTEGERS, ROUNDINGS, Table, unsupported

TABLE = Table()

_TO_INTEGRAL = {"rni": "roundeven", "rmi": "floor", "rpi": "ceil", "rzi": "trunc"}
_TO_INTEGER = {"rni": "roundeven", "rn": "roundeven", "rmi": "floor", "rm": "floor", "rpi": "ceil", "rp": "ceil"}
_PACK_TYPES = {"s16": (16, True), "u16": (16, False), "s8": (8, True), "u8": (8, False)}


@TABLE.emits(
    "cvt",
    types=f"{INTEGERS} u8 s8 b16 b32 b64 f16 bf16 f16x2 bf16x2 f32 tf32 f64",
    modifiers=f"{ROUNDINGS} rna rni rzi rmi rpi ftz sat relu pack satfinite",
    operands=(2, 4),
)
def cvt(e: Emitter, i: Instruction) -> None:
    if i.has("pack"):
        _pack(e, i)
        return
    types = i.types
    target, source = types[0], types[-1]
    if target.name in ("f16x2", "bf16x2"):
        _pack_floats(e, i, target)
        return
    if len(i.operands) != 2 or source.name in ("f16x2", "bf16x2", "tf32") or i.has("satfinite"):
        raise unsupported(i)
    value = e.read(i.operands[1], source)
    if source.name == "bf16":
        value, source = from_bf16(e, value), F32
    if source.float:
        value = flush(e, i, value)
        result = _float_to_float(e, i, value, target) if target.float else _float_to_integer(e, i, value, target)
    elif target.float:
        result = _integer_to_float(e, i, value, source, target)
    else:
        result = _integer_to_integer(e, i, value, source, target)
    e.write(i.operands[0], result, target)


def _float_to_integer(e: Emitter, i: Instruction, value: Value, target: Type) -> Value:
    """Out of range gives the nearest integer; NaN gives 0, or with 64 bits on either side the integer of the top bit only.

    (PTX ISA 9.0, cvt: integer notes.)
    """
    if value.type == "half":
        value = e.cast("fpext", value, "float")
    rounding = i.choose(_TO_INTEGER, None)
    if rounding:
        value = e.intrinsic(rounding, value)
    name = f"llvm.fpto{'s' if target.signed else 'u'}i.sat.{target.llvm}.{'f32' if value.type == 'float' else 'f64'}"
    result = e.call_foreign(f"declare {target.llvm} @{name}({value.type})", target.llvm, str(value))
    if value.type == "double" or target.bits == 64:
        result = e.select(e.fcmp("uno", value, value), -(1 << target.bits - 1), result)
    return result


def _integer_to_float(e: Emitter, i: Instruction, value: Value, source: Type, target: Type) -> Value:
    operation = "sitofp" if source.signed else "uitofp"
    if target.size == 2:
        return _narrow(e, i, e.cast(operation, value, "float"), target)
    if target.name == "tf32":
        raise unsupported(i)
    result = e.cast(operation, value, target.llvm)
    mode = directed_mode(i)
    if mode is None or value.bits <= (24 if target.llvm == "float" else 53):
        return result
    error = _conversion_error(e, e.extend(value, "i64", source.signed), source, result)
    return nudge(e, mode, result, error if target.llvm == "double" else e.cast("fptrunc", error, "float"))


def _conversion_error(e: Emitter, value: Value, source: Type, result: Value) -> Value:
    """An integer minus the float it was rounded to, as a double with the right sign.

    Both halves of the integer are doubles, and the upper one is so close to the result that their difference is exact
    (Sterbenz).
    """
    upper = e.op("ashr" if source.signed else "lshr", value, 32)
    upper = e.cast("sitofp" if source.signed else "uitofp", upper, "double")
    lower = e.cast("uitofp", e.op("and", value, 0xFFFFFFFF), "double")
    rounded = result if result.type == "double" else e.cast("fpext", result, "double")
    scaled = e.op("fmul", upper, Value("double", "4294967296.0"))
    return e.op("fadd", e.op("fsub", scaled, rounded), lower)


def _float_to_float(e: Emitter, i: Instruction, value: Value, target: Type) -> Value:
    if target.name == "tf32":  # round to nearest, ties away, at 10 bits of fraction
        bits = e.op("add", e.bitcast(value, "i32"), 1 << 12)
        return e.op("and", bits, -(1 << 13))
    rounding = i.choose(_TO_INTEGRAL, None)
    if rounding:
        value = e.intrinsic(rounding, value)
    if target.name == "bf16" or (target.name == "f16" and value.type == "float"):
        if value.type != "float":
            raise unsupported(i)
        return _narrow(e, i, saturate(e, value) if i.has("sat") else value, target)
    if target.bits > value.bits:
        value = e.cast("fpext", value, target.llvm)
    elif target.bits < value.bits:
        value = double_to_half(e, value) if target.llvm == "half" else _double_to_float(e, i, value)
    if i.has("sat"):
        value = saturate(e, value)
    return flush(e, i, value)


def _double_to_float(e: Emitter, i: Instruction, value: Value) -> Value:
    result = e.cast("fptrunc", value, "float")
    mode = directed_mode(i)
    if mode is None:
        return result
    error = e.op("fsub", value, e.cast("fpext", result, "double"))
    sign = e.cast("fptrunc", e.intrinsic("copysign", Value("double", "1.0"), error), "float")
    exact = e.fcmp("oeq", error, "0.0")
    return nudge(e, mode, result, e.select(exact, Value("float", "0.0"), sign))


def _narrow(e: Emitter, i: Instruction, value: Value, target: Type) -> Value:
    """float -> f16 or bf16 bits"""
    if i.has("relu"):
        value = e.intrinsic("maxnum", value, Value("float", "0.0"))
    if i.has("rm", "rp"):
        raise unsupported(i)
    convert = to_bf16 if target.name.startswith("bf16") else to_f16
    return convert(e, value, i.has("rz"))


def _integer_to_integer(e: Emitter, i: Instruction, value: Value, source: Type, target: Type) -> Value:
    if i.has("sat"):
        wide = e.extend(value, "i128" if max(source.bits, target.bits) == 64 else "i64", source.signed)
        return e.trunc(e.clamp(wide, *_bounds(target.bits, target.signed)), target.llvm)
    if target.bits > source.bits:
        return e.extend(value, target.llvm, source.signed)
    return e.trunc(value, target.llvm)


def _bounds(bits: int, signed: bool) -> tuple[int, int]:
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def _pack_floats(e: Emitter, i: Instruction, target: Type) -> None:
    """Two f32, the first into the upper half."""
    if i.type is not F32 or len(i.operands) != 3 or i.has("satfinite"):
        raise unsupported(i)
    high, low = (_narrow(e, i, flush(e, i, e.read(operand, F32)), target) for operand in i.operands[1:])
    e.write(i.operands[0], e.pack([low, high]))


def _pack(e: Emitter, i: Instruction) -> None:
    """cvt.pack.sat.<type>.s32 d, a, b{, c}: a and b saturated side by side, b low, c above them."""
    bits, signed = i.require(_PACK_TYPES)
    if len(i.operands) < 3:
        raise e.invalid("needs two sources")
    low, high = (
        e.trunc(e.clamp(e.read(operand, S32), *_bounds(bits, signed)), f"i{bits}") for operand in i.operands[2:0:-1]
    )
    result = e.zext(e.pack([low, high]), "i32")
    if len(i.operands) == 4:
        above = e.read(i.operands[3], TYPES["b32"])
        result = e.op("or", result, e.op("shl", above, 2 * bits) if bits < 16 else above)
    e.write(i.operands[0], result)
