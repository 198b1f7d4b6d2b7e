"""Integer arithmetic and its extended-precision forms (PTX ISA, 9.7.1 and 9.7.2).

``add``, ``sub``, ``mul``, ``mad``, ``min``, ``max``, ``abs``, ``neg`` and ``div`` exist for integers and floats: the
functions here hand the latter to ``emit_float``.
"""

from __future__ import annotations

from bitfusion.device.virtual import emit_float
from bitfusion.device.virtual.builder import Value, constant
from bitfusion.device.virtual.datatypes import B32, TYPES, U32, Type
from bitfusion.device.virtual.effects import CARRY
from bitfusion.device.virtual.emitter import Emitter
from bitfusion.device.virtual.syntax import Immediate, Instruction, Operand
from bitfusion.device.virtual.table import FLOATS, INTEGERS, PACKED, ROUNDINGS, Table, unsupported

TABLE = Table()


def letter(datatype: Type) -> str:
    """LLVM's prefix of signed and unsigned operations."""
    return "s" if datatype.signed else "u"


@TABLE.emits("add sub", types=f"{INTEGERS} {PACKED} {FLOATS}", modifiers=f"{ROUNDINGS} ftz sat cc", operands=3)
def add_sub(e: Emitter, i: Instruction) -> None:
    datatype = i.type
    if datatype.float:
        emit_float.binary(e, i, f"f{i.opcode}")
        return
    left, right = e.read(i.operands[1], datatype), e.read(i.operands[2], datatype)
    if i.has("sat"):
        result = e.intrinsic(f"{letter(datatype)}{i.opcode}.sat", left, right)
    else:
        result = e.op(i.opcode, left, right)
    if i.has("cc") and datatype.llvm not in ("i32", "i64"):
        raise unsupported(i)
    if i.has("cc"):  # for sub the flag means "no borrow"
        carry = e.icmp("ult", result, left) if i.opcode == "add" else e.icmp("uge", left, right)
        e.registers.set(CARRY, carry)
    e.write(i.operands[0], result, datatype)


@TABLE.emits("addc subc", types="u32 s32 u64 s64", modifiers="cc", operands=3)
def add_sub_carry(e: Emitter, i: Instruction) -> None:
    datatype = i.type
    left, right = e.read(i.operands[1], datatype), e.read(i.operands[2], datatype)
    if i.opcode == "subc":  # a - b - borrow = a + ~b + no borrow
        right = e.invert(right)
    _add_with_carry(e, i, left, right, datatype)


def _add_with_carry(e: Emitter, i: Instruction, left: Value, right: Value, datatype: Type) -> None:
    wide = f"i{datatype.bits * 2}"
    total = e.op("add", e.zext(left, wide), e.zext(right, wide))
    total = e.op("add", total, e.zext(e.registers.get(CARRY, "i1"), wide))
    if i.has("cc"):
        e.registers.set(CARRY, e.field(total, datatype.bits, "i1"))
    e.write(i.operands[0], e.trunc(total, datatype.llvm), datatype)


@TABLE.emits("mul", types=f"{INTEGERS} {FLOATS}", modifiers=f"lo hi wide {ROUNDINGS} ftz sat", operands=3)
def mul(e: Emitter, i: Instruction) -> None:
    if i.type.float:
        emit_float.binary(e, i, "fmul")
        return
    product, datatype = _product(e, i)
    e.write(i.operands[0], product, datatype)


@TABLE.emits("mad", types=f"{INTEGERS} {FLOATS}", modifiers=f"lo hi wide cc {ROUNDINGS} ftz sat", operands=4)
def mad(e: Emitter, i: Instruction) -> None:
    if i.type.float:
        emit_float.fma(e, i)
        return
    product, datatype = _product(e, i)
    addend = e.read(i.operands[3], datatype)
    if i.has("sat"):
        total = e.intrinsic("sadd.sat", product, addend)
    else:
        total = e.op("add", product, addend)
    if i.has("cc"):
        e.registers.set(CARRY, e.icmp("ult", total, product))
    e.write(i.operands[0], total, datatype)


@TABLE.emits("madc", types="u32 s32 u64 s64", modifiers="lo hi cc", operands=4)
def madc(e: Emitter, i: Instruction) -> None:
    product, datatype = _product(e, i)
    _add_with_carry(e, i, product, e.read(i.operands[3], datatype), datatype)


def _product(e: Emitter, i: Instruction) -> tuple[Value, Type]:
    """The part of the product that .lo, .hi or .wide asks for, and its type."""
    datatype = i.type
    part = i.require({"lo": "lo", "hi": "hi", "wide": "wide"})
    left, right = e.read(i.operands[1], datatype), e.read(i.operands[2], datatype)
    if part == "lo":
        return e.op("mul", left, right), datatype
    wide = f"i{2 * datatype.bits}"
    product = e.op("mul", e.extend(left, wide, datatype.signed), e.extend(right, wide, datatype.signed))
    if part == "hi":
        return e.field(product, datatype.bits, datatype.llvm), datatype
    wide_type = TYPES.get(f"{datatype.kind}{2 * datatype.bits}")
    if wide_type is None:
        raise unsupported(i)
    return product, wide_type


@TABLE.emits("mul24", types="u32 s32", modifiers="lo hi", operands=3)
def mul24(e: Emitter, i: Instruction) -> None:
    e.write(i.operands[0], _product24(e, i), i.type)


@TABLE.emits("mad24", types="u32 s32", modifiers="lo hi sat", operands=4)
def mad24(e: Emitter, i: Instruction) -> None:
    addend = e.read(i.operands[3], i.type)
    if i.has("sat"):
        e.write(i.operands[0], e.intrinsic("sadd.sat", _product24(e, i), addend), i.type)
    else:
        e.write(i.operands[0], e.op("add", _product24(e, i), addend), i.type)


def _product24(e: Emitter, i: Instruction) -> Value:
    """.lo: the low, .hi: the high 32 bits of the 48-bit product."""
    signed = i.type.signed
    shift = "ashr" if signed else "lshr"
    left, right = (
        e.extend(e.op(shift, e.op("shl", e.read(operand, B32), 8), 8), "i64", signed) for operand in i.operands[1:3]
    )
    return e.field(e.op("mul", left, right), 16 if i.has("hi") else 0, "i32")


@TABLE.emits("div", types=f"{INTEGERS} {FLOATS}", modifiers=f"{ROUNDINGS} approx full ftz", operands=3)
def div(e: Emitter, i: Instruction) -> None:
    if i.type.float:
        emit_float.binary(e, i, "fdiv")
    else:
        _divide(e, i)


@TABLE.emits("rem", types=INTEGERS, operands=3)
def rem(e: Emitter, i: Instruction) -> None:
    _divide(e, i)


def _divide(e: Emitter, i: Instruction) -> None:
    """A CPU traps on x / 0 and MIN / -1. A GPU gives all ones (remainder x) and MIN (remainder 0)."""
    datatype = i.type
    dividend, divisor = e.read(i.operands[1], datatype), e.read(i.operands[2], datatype)
    operation = f"{letter(datatype)}{i.opcode}"
    if _is_harmless(i.operands[2], datatype):
        e.write(i.operands[0], e.op(operation, dividend, divisor), datatype)
        return
    one = constant(datatype.llvm, 1)
    zero = e.icmp("eq", divisor, 0)
    safe = e.select(zero, one, divisor)
    if datatype.signed:
        overflow = e.op("and", e.icmp("eq", divisor, -1), e.icmp("eq", dividend, -(1 << datatype.bits - 1)))
        safe = e.select(overflow, one, safe)
    quotient = e.op(operation, dividend, safe)
    e.write(i.operands[0], e.select(zero, -1 if i.opcode == "div" else dividend, quotient), datatype)


def _is_harmless(divisor: Operand, datatype: Type) -> bool:
    ones = (1 << datatype.bits) - 1
    return isinstance(divisor, Immediate) and divisor.value & ones not in (0, ones)


@TABLE.emits("abs", types=f"s16 s32 s64 {FLOATS}", modifiers="ftz", operands=2)
def absolute(e: Emitter, i: Instruction) -> None:
    if i.type.float:
        emit_float.absolute(e, i)
        return
    value = e.read(i.operands[1], i.type)
    negative = e.icmp("slt", value, 0)
    e.write(i.operands[0], e.select(negative, e.op("sub", constant(value.type, 0), value), value), i.type)


@TABLE.emits("neg", types=f"s16 s32 s64 {FLOATS}", modifiers="ftz", operands=2)
def negate(e: Emitter, i: Instruction) -> None:
    if i.type.float:
        emit_float.negate(e, i)
        return
    value = e.read(i.operands[1], i.type)
    e.write(i.operands[0], e.op("sub", constant(value.type, 0), value), i.type)


@TABLE.emits("min max", types=f"{INTEGERS} {PACKED} {FLOATS}", modifiers="ftz NaN relu xorsign abs", operands=(3, 4))
def min_max(e: Emitter, i: Instruction) -> None:
    if i.type.float:
        emit_float.min_max(e, i)
        return
    left, right = (e.read(operand, i.type) for operand in i.operands[1:3])
    result = e.intrinsic(f"{letter(i.type)}{i.opcode}", left, right)
    if i.has("relu"):
        result = e.intrinsic("smax", result, constant(result.type, "zeroinitializer"))
    e.write(i.operands[0], result, i.type)


@TABLE.emits("sad", types=INTEGERS, operands=4)
def sad(e: Emitter, i: Instruction) -> None:
    """c + |a - b|"""
    left, right, addend = (e.read(operand, i.type) for operand in i.operands[1:])
    prefix = letter(i.type)
    distance = e.op("sub", e.intrinsic(f"{prefix}max", left, right), e.intrinsic(f"{prefix}min", left, right))
    e.write(i.operands[0], e.op("add", distance, addend), i.type)


@TABLE.emits("dp4a", types="u32 s32", operands=4, type_count=2)
def dp4a(e: Emitter, i: Instruction) -> None:
    """Four products of bytes, added up (PTX ISA, 9.7.1.23)."""
    _dot_product(e, i, lanes=[(8 * lane, "i8", 8 * lane) for lane in range(4)])


@TABLE.emits("dp2a", types="u32 s32", modifiers="lo hi", operands=4, type_count=2)
def dp2a(e: Emitter, i: Instruction) -> None:
    """Two products of a 16-bit value and a byte of the lower or upper half (PTX ISA, 9.7.1.24)."""
    half = 16 if i.has("hi") else 0
    _dot_product(e, i, lanes=[(16 * lane, "i16", half + 8 * lane) for lane in range(2)])


def _dot_product(e: Emitter, i: Instruction, lanes: list[tuple[int, str, int]]) -> None:
    if len(i.types) != 2:
        raise e.invalid("needs two types")
    left_type, right_type = i.types
    left, right, total = e.read(i.operands[1], B32), e.read(i.operands[2], B32), e.read(i.operands[3], U32)
    for left_shift, left_size, right_shift in lanes:
        x = e.extend(e.field(left, left_shift, left_size), "i32", left_type.signed)
        y = e.extend(e.field(right, right_shift, "i8"), "i32", right_type.signed)
        total = e.op("add", total, e.op("mul", x, y))
    e.write(i.operands[0], total)
