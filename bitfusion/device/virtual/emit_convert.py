"""Conversions: ``cvt`` and ``cvt.pack`` (PTX ISA, 9.7.9.21 and 9.7.9.22)."""

from __future__ import annotations

from bitfusion.device.virtual.builder import Value, constant
from bitfusion.device.virtual.datatypes import B16, B32, F32, S32, TYPES, Type
from bitfusion.device.virtual.emit_float import flush
from bitfusion.device.virtual.emitter import Emitter
from bitfusion.device.virtual.fp8 import FORMATS, from_fp8, to_fp8
from bitfusion.device.virtual.rounding import (
    directed_mode,
    float_from_double,
    from_bf16,
    from_f16,
    halves,
    limit_to_finite,
    narrow,
    nudge,
    rectify,
    round_to_odd,
    saturate,
    sum_error,
)
from bitfusion.device.virtual.syntax import Instruction
from bitfusion.device.virtual.table import INTEGERS, ROUNDINGS, Table, unsupported

TABLE = Table()

_TO_INTEGRAL = {"rni": "roundeven", "rmi": "floor", "rpi": "ceil", "rzi": "trunc"}
_TO_INTEGER = {**_TO_INTEGRAL, "rn": "roundeven", "rm": "floor", "rp": "ceil", "rz": "trunc"}
_TF32_LOST = 13
"""Bits of an f32's fraction that a tf32 does not have."""
_PACK_TYPES = {f"{kind}{bits}": (bits, kind == "s") for kind in "su" for bits in (16, 8, 4, 2)}
_SMALL_TYPES = "s4 u4 s2 u2"


@TABLE.emits(
    "cvt",
    types=f"{INTEGERS} u8 s8 b16 b32 b64 f16 bf16 f16x2 bf16x2 f32 tf32 f64 {' '.join(FORMATS)}",
    modifiers=f"{ROUNDINGS} rna rni rzi rmi rpi ftz sat relu pack satfinite {_SMALL_TYPES}",
    operands=(2, 4),
    type_count=3,
)
def cvt(e: Emitter, i: Instruction) -> None:
    if i.has("pack"):
        _pack(e, i)
        return
    if len(i.types) != 2:
        raise e.invalid("needs two types")
    target, source = i.types[0], i.types[-1]
    if target.name in FORMATS or source.name in FORMATS:
        _eight_bits(e, i, target.name, source.name)
        return
    if target.name in ("f16x2", "bf16x2"):
        _pack_floats(e, i, target)
        return
    if len(i.operands) != 2 or source.name in ("f16x2", "bf16x2", "tf32"):
        raise unsupported(i)
    value = e.read(i.operands[1], source)
    if source.float:
        value = from_bf16(e, value) if source.name == "bf16" else flush(e, i, value)
        convert = _float_to_float if target.float else _float_to_integer
        e.write(i.operands[0], convert(e, i, value, target), target)
    elif target.float:
        e.write(i.operands[0], _integer_to_float(e, i, value, source, target), target)
    else:
        e.write(i.operands[0], _integer_to_integer(e, i, value, source, target), target)


# from floats
def _float_to_integer(e: Emitter, i: Instruction, value: Value, target: Type) -> Value:
    """Out of range gives the nearest integer; NaN gives 0, or with 64 bits on either side the integer of the top bit only.

    (PTX ISA 9.0, cvt: integer notes.)
    """
    if value.type == "half":
        value = from_f16(e, value)
    value = e.intrinsic(i.require(_TO_INTEGER), value)
    name = f"llvm.fpto{'s' if target.signed else 'u'}i.sat.{target.llvm}.{'f32' if value.type == 'float' else 'f64'}"
    result = e.call_foreign(f"declare {target.llvm} @{name}({value.type})", target.llvm, str(value))
    if value.type == "double" or target.bits == 64:
        result = e.select(e.fcmp("uno", value, value), -(1 << target.bits - 1), result)
    return result


def _float_to_float(e: Emitter, i: Instruction, value: Value, target: Type) -> Value:
    rounding = i.choose(_TO_INTEGRAL, None)
    if rounding:
        value = e.intrinsic(rounding, value)
    if i.has("sat"):
        value = saturate(e, value)
    if i.has("relu"):
        value = rectify(e, value)
    if target.name == "tf32":
        return _to_tf32(e, i, value)
    if target.size == 2:
        return _to_16_bits(e, i, value, target)
    if target.llvm == value.type:
        return flush(e, i, value)
    if target.llvm == "double" or value.type == "half":
        return e.cast("fpext", value, target.llvm)
    return flush(e, i, float_from_double(e, directed_mode(i), value))


def _to_16_bits(e: Emitter, i: Instruction, value: Value, target: Type) -> Value:
    """f16 or bf16 as i16."""
    name = "bf16" if target.name.startswith("bf16") else "f16"
    if value.type == "half":
        if name == "f16":
            return e.bitcast(value, "i16")
        value = from_f16(e, value)
    bits = narrow(e, name, value, directed_mode(i))
    if i.has("satfinite"):
        bits = limit_to_finite(e, name, bits)
    return e.bitcast(flush(e, i, e.bitcast(bits, "half")), "i16") if name == "f16" else bits


def _to_tf32(e: Emitter, i: Instruction, value: Value) -> Value:
    """An f32 with 10 bits of fraction: to nearest with ties away (.rna) or to even (.rn), or cut (.rz)."""
    if value.type != "float" or i.has("rm", "rp"):
        raise unsupported(i)
    bits = e.bitcast(value, "i32")
    half = 1 << _TF32_LOST - 1
    if i.has("rna"):
        bits = e.op("add", bits, half)
    elif i.has("rn"):
        odd = e.op("and", e.op("lshr", bits, _TF32_LOST), 1)
        bits = e.op("add", e.op("add", bits, half - 1), odd)
    bits = e.op("and", bits, -(1 << _TF32_LOST))
    if i.has("satfinite"):
        infinite = e.icmp("eq", e.op("and", bits, 0x7FFFFFFF), 0x7F800000)
        bits = e.select(infinite, e.op("sub", bits, 1 << _TF32_LOST), bits)
    return e.select(e.fcmp("uno", value, value), 0x7FFFFFFF, bits)


# from integers
def _integer_to_float(e: Emitter, i: Instruction, value: Value, source: Type, target: Type) -> Value:
    if target.name == "tf32":
        raise unsupported(i)
    result = _nearest_or_directed(e, i, value, source, target)
    if not i.has("sat"):
        return result
    if target.size == 2:
        raise unsupported(i)
    return saturate(e, result)


def _nearest_or_directed(e: Emitter, i: Instruction, value: Value, source: Type, target: Type) -> Value:
    mode = directed_mode(i)
    convert = "sitofp" if source.signed else "uitofp"
    if target.size == 2:
        exact = _sticky_double(e, value, source) if source.bits == 64 else e.cast(convert, value, "double")
        return narrow(e, target.name, exact, mode)
    if mode is None or source.bits <= (24 if target.llvm == "float" else 53):
        return e.cast(convert, value, target.llvm)
    if target.llvm == "float":
        if source.bits < 64:
            return float_from_double(e, mode, e.cast(convert, value, "double"))
        return float_from_double(e, mode, _sticky_double(e, value, source))
    total, error = _two_doubles(e, value, source)
    return e.bitcast(nudge(e, mode, e.bitcast(total, "i64"), error), "double")


def _two_doubles(e: Emitter, value: Value, source: Type) -> tuple[Value, Value]:
    """A 64-bit integer as the nearest double and what is missing from it."""
    upper = e.op("ashr" if source.signed else "lshr", value, 32)
    upper = e.cast("sitofp" if source.signed else "uitofp", upper, "double")
    upper = e.op("fmul", upper, constant("double", "4294967296.0"))
    lower = e.cast("uitofp", e.op("and", value, 0xFFFFFFFF), "double")
    total = e.op("fadd", upper, lower)
    return total, sum_error(e, total, upper, lower)


def _sticky_double(e: Emitter, value: Value, source: Type) -> Value:
    return round_to_odd(e, *_two_doubles(e, value, source))


def _integer_to_integer(e: Emitter, i: Instruction, value: Value, source: Type, target: Type) -> Value:
    if i.has("sat"):
        wide = e.extend(value, "i128" if max(source.bits, target.bits) == 64 else "i64", source.signed)
        return e.trunc(e.clamp(wide, *_bounds(target.bits, target.signed)), target.llvm)
    if target.bits > source.bits:
        return e.extend(value, target.llvm, source.signed)
    return e.trunc(value, target.llvm)


def _bounds(bits: int, signed: bool) -> tuple[int, int]:
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


# several values in one register
def _pack_floats(e: Emitter, i: Instruction, target: Type) -> None:
    """Two f32, the first into the upper half."""
    if i.type is not F32 or len(i.operands) != 3:
        raise unsupported(i)
    values = [flush(e, i, e.read(operand, F32)) for operand in i.operands[1:]]
    if i.has("relu"):
        values = [rectify(e, value) for value in values]
    high, low = (_to_16_bits(e, i, value, target) for value in values)
    e.write(i.operands[0], e.pack([low, high]))


def _eight_bits(e: Emitter, i: Instruction, target: str, source: str) -> None:
    """``cvt.rn.satfinite.e4m3x2.f32 d, a, b``, ``cvt.rn.satfinite.e4m3x2.f16x2 d, a`` and ``cvt.rn.f16x2.e4m3x2 d, a``."""
    if len(i.operands) != (3 if source == "f32" else 2) or i.has("rz", "rm", "rp", "sat", "ftz"):
        raise unsupported(i)
    if source == "f32":
        values = [e.read(operand, F32) for operand in i.operands[:0:-1]]
    elif source == "f16x2":
        values = [from_f16(e, part) for part in halves(e, e.read(i.operands[1], B32))]
    elif target == "f16x2":
        value = e.read(i.operands[1], B16)
        parts = [from_fp8(e, source, e.field(value, shift, "i8")) for shift in (0, 8)]
        parts = [rectify(e, part) for part in parts] if i.has("relu") else parts
        e.write(i.operands[0], e.pack([e.bitcast(part, "i16") for part in parts]))
        return
    else:
        raise unsupported(i)
    if target not in FORMATS:
        raise unsupported(i)
    values = [rectify(e, value) for value in values] if i.has("relu") else values
    e.write(i.operands[0], e.pack([to_fp8(e, target, value) for value in values]))


def _pack(e: Emitter, i: Instruction) -> None:
    """cvt.pack.sat.<type>.s32 d, a, b{, c}: a and b saturated side by side, b low, c above them."""
    bits, signed = i.require(_PACK_TYPES)
    if len(i.operands) < 3 or (len(i.operands) == 4) == (bits == 16):
        raise e.invalid("needs two sources, and with less than 16 bits a third")
    high, low = (
        e.op("and", e.clamp(e.read(operand, S32), *_bounds(bits, signed)), (1 << bits) - 1)
        for operand in i.operands[1:3]
    )
    result = e.op("or", low, e.op("shl", high, bits))
    if len(i.operands) == 4:
        result = e.op("or", result, e.op("shl", e.read(i.operands[3], TYPES["b32"]), 2 * bits))
    e.write(i.operands[0], result)
