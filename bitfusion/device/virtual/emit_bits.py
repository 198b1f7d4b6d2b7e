"""Logic, shifts and bit fields (PTX ISA, 9.7.1.12 ff. and 9.7.8)."""

from __future__ import annotations

from bitfusion.device.virtual.builder import Value, constant
from bitfusion.device.virtual.datatypes import B32, U32
from bitfusion.device.virtual.emitter import Emitter
from bitfusion.device.virtual.syntax import Immediate, Instruction, Pair
from bitfusion.device.virtual.table import BITS, INTEGERS, Table

TABLE = Table()

_PRMT_MODES = {
    "f4e": (0x3210, 0x4321, 0x5432, 0x6543),
    "b4e": (0x5670, 0x6701, 0x7012, 0x0123),
    "rc8": (0x0000, 0x1111, 0x2222, 0x3333),
    "ecl": (0x3210, 0x3211, 0x3222, 0x3333),
    "ecr": (0x0000, 0x1110, 0x2210, 0x3210),
    "rc16": (0x1010, 0x3232, 0x1010, 0x3232),
}
"""Selectors of ``prmt`` for the four values of the mode's index (PTX ISA, 9.7.9.7, table of modes)."""


@TABLE.emits("and or xor", types=f"pred {BITS}", operands=3)
def logic(e: Emitter, i: Instruction) -> None:
    e.write(i.operands[0], e.op(i.opcode, e.read(i.operands[1], i.type), e.read(i.operands[2], i.type)))


@TABLE.emits("not", types=f"pred {BITS}", operands=2)
def invert(e: Emitter, i: Instruction) -> None:
    e.write(i.operands[0], e.invert(e.read(i.operands[1], i.type)))


@TABLE.emits("cnot", types=BITS, operands=2)
def cnot(e: Emitter, i: Instruction) -> None:
    value = e.read(i.operands[1], i.type)
    e.write(i.operands[0], e.zext(e.icmp("eq", value, 0), value.type))


@TABLE.emits("lop3", types="b32", modifiers="and or", operands=(5, 6))
def lop3(e: Emitter, i: Instruction) -> None:
    """Any function of three bits, given by its truth table: the sum of the products whose bit is set.

    ``lop3.or d|p, a, b, c, table, q``: p tells whether d is not 0, or q.
    """
    inputs = [e.read(operand, B32) for operand in i.operands[1:4]]
    inverse = [e.invert(value) for value in inputs]
    table = i.operands[4]
    if not isinstance(table, Immediate):
        raise e.invalid("the truth table is not a constant")
    result = constant("i32", 0)
    for row in range(8):
        if table.value >> row & 1:
            a, b, c = (inputs[k] if row & 4 >> k else inverse[k] for k in range(3))
            result = e.op("or", result, e.op("and", e.op("and", a, b), c))
    target = i.operands[0]
    if len(i.operands) == 6:
        if not isinstance(target, Pair):
            raise e.invalid("needs a predicate to write")
        operation = i.require({"and": "and", "or": "or"})
        e.write(target.second, e.op(operation, e.icmp("ne", result, 0), e.read_pred(i.operands[5])))
    e.write(target, result)


@TABLE.emits("shl", types=BITS, operands=3)
def shift_left(e: Emitter, i: Instruction) -> None:
    _shift(e, i, "shl")


@TABLE.emits("shr", types=f"{BITS} {INTEGERS}", operands=3)
def shift_right(e: Emitter, i: Instruction) -> None:
    _shift(e, i, "ashr" if i.type.signed else "lshr")


def _shift(e: Emitter, i: Instruction, operation: str) -> None:
    """Amounts of the width or more shift everything out (in LLVM they are undefined)."""
    width = i.type.bits
    value, amount = e.read(i.operands[1], i.type), i.operands[2]
    if isinstance(amount, Immediate):
        constant_amount = amount.value & 0xFFFFFFFF
        if constant_amount < width:
            result = e.op(operation, value, constant_amount)
        else:
            result = e.op("ashr", value, width - 1) if operation == "ashr" else constant(value.type, 0)
    else:
        result = _shift_by(e, operation, value, e.read(amount, U32))
    e.write(i.operands[0], result, i.type)


def _shift_by(e: Emitter, operation: str, value: Value, amount: Value) -> Value:
    width = value.bits
    if operation == "ashr":
        return e.op("ashr", value, e.bits(e.intrinsic("umin", amount, width - 1), value.type))
    shifted = e.op(operation, value, e.bits(e.op("and", amount, width - 1), value.type))
    return e.select(e.icmp("uge", amount, width), 0, shifted)


def _pair(e: Emitter, i: Instruction) -> Value:
    """The first source in the low, the second in the high half of an i64."""
    return e.pack([e.read(i.operands[1], B32), e.read(i.operands[2], B32)])


@TABLE.emits("shf", types="b32", modifiers="l r wrap clamp", operands=4)
def funnel_shift(e: Emitter, i: Instruction) -> None:
    amount = e.read(i.operands[3], B32)
    amount = e.op("and", amount, 31) if i.has("wrap") else e.intrinsic("umin", amount, 32)
    wide, distance = _pair(e, i), e.zext(amount, "i64")
    if i.has("l"):
        result = e.field(e.op("shl", wide, distance), 32, "i32")
    else:
        result = e.trunc(e.op("lshr", wide, distance), "i32")
    e.write(i.operands[0], result)


@TABLE.emits("popc", types="b32 b64", operands=2)
def popc(e: Emitter, i: Instruction) -> None:
    e.write(i.operands[0], e.bits(e.intrinsic("ctpop", e.read(i.operands[1], i.type)), "i32"))


@TABLE.emits("brev", types="b32 b64", operands=2)
def brev(e: Emitter, i: Instruction) -> None:
    e.write(i.operands[0], e.intrinsic("bitreverse", e.read(i.operands[1], i.type)))


def leading_zeros(e: Emitter, value: Value) -> Value:
    """As i32; the width for 0."""
    declaration = f"declare {value.type} @llvm.ctlz.{value.type}({value.type}, i1)"
    return e.bits(e.call_foreign(declaration, value.type, f"{value}, i1 false"), "i32")


@TABLE.emits("clz", types="b32 b64", operands=2)
def clz(e: Emitter, i: Instruction) -> None:
    e.write(i.operands[0], leading_zeros(e, e.read(i.operands[1], i.type)))


@TABLE.emits("fns", types="b32", operands=4)
def fns(e: Emitter, i: Instruction) -> None:
    """Position of the n-th set bit from ``base`` on, downwards if n is negative; all ones if there is none.

    With n = 0 it is ``base`` itself, if that bit is set (PTX ISA, 9.7.1.22).
    """
    mask, base, offset = (e.read(operand, B32) for operand in i.operands[1:])
    down = e.icmp("slt", offset, 0)
    mask = e.select(down, e.intrinsic("bitreverse", mask), mask)
    base = e.op("and", e.select(down, e.op("sub", constant("i32", 31), base), base), 31)
    count = e.intrinsic("umax", e.select(down, e.op("sub", constant("i32", 0), offset), offset), 1)
    mask = e.op("lshr", mask, base)
    mask = e.select(e.icmp("eq", offset, 0), e.op("and", mask, 1), mask)
    found = e.icmp("ule", count, e.intrinsic("ctpop", mask))
    position = base
    for width in (16, 8, 4, 2, 1):  # where the bit is not in the lower half, it is in the upper
        below = e.intrinsic("ctpop", e.op("and", mask, (1 << width) - 1))
        above = e.icmp("ugt", count, below)
        count = e.select(above, e.op("sub", count, below), count)
        mask = e.select(above, e.op("lshr", mask, width), mask)
        position = e.select(above, e.op("add", position, width), position)
    position = e.select(down, e.op("sub", constant("i32", 31), position), position)
    e.write(i.operands[0], e.select(found, position, -1))


@TABLE.emits("bfind", types="u32 s32 u64 s64", modifiers="shiftamt", operands=2)
def bfind(e: Emitter, i: Instruction) -> None:
    """Position of the highest bit that differs from the sign, or all ones if there is none."""
    width = i.type.bits
    value = e.read(i.operands[1], i.type)
    if i.type.signed:
        value = e.op("xor", value, e.op("ashr", value, width - 1))
    zeros = leading_zeros(e, value)
    position = zeros if i.has("shiftamt") else e.op("sub", constant("i32", width - 1), zeros)
    e.write(i.operands[0], e.select(e.icmp("eq", value, 0), -1, position))


def _byte(e: Emitter, i: Instruction, index: int) -> Value:
    """A position or length: only the low 8 bits count (PTX ISA, bfe and bfi)."""
    return e.op("and", e.read(i.operands[index], U32), 255)


@TABLE.emits("bfe", types="u32 s32 u64 s64", operands=4)
def bfe(e: Emitter, i: Instruction) -> None:
    """Extract a bit field; a signed one is filled with its own sign bit, or the value's where it reaches beyond the
    top.
    """
    width, signed = i.type.bits, i.type.signed
    wide, shift_right_by = f"i{2 * width}", "ashr" if signed else "lshr"
    value = e.extend(e.read(i.operands[1], i.type), wide, signed)
    position, length = _byte(e, i, 2), _byte(e, i, 3)
    empty = e.icmp("eq", length, 0)
    shifted = e.op(shift_right_by, value, e.bits(e.intrinsic("umin", position, width), wide))
    unused = e.op("sub", constant("i32", 2 * width), e.intrinsic("umin", length, width))
    unused = e.select(empty, 0, e.bits(unused, wide))
    field = e.op(shift_right_by, e.op("shl", shifted, unused), unused)
    e.write(i.operands[0], e.select(empty, 0, e.trunc(field, i.type.llvm)), i.type)


@TABLE.emits("bfi", types="b32 b64", operands=5)
def bfi(e: Emitter, i: Instruction) -> None:
    """Insert the low bits of the first source into the second."""
    width = i.type.bits
    narrow, wide = i.type.llvm, f"i{2 * width}"
    source, target = e.read(i.operands[1], i.type), e.read(i.operands[2], i.type)
    position, length = (e.bits(e.intrinsic("umin", _byte(e, i, k), width), wide) for k in (3, 4))
    ones = e.op("sub", e.op("shl", constant(wide, 1), length), 1)
    mask = e.trunc(e.op("shl", ones, position), narrow)
    moved = e.trunc(e.op("shl", e.zext(source, wide), position), narrow)
    e.write(i.operands[0], e.op("or", e.op("and", moved, mask), e.op("and", target, e.invert(mask))))


@TABLE.emits("bmsk", types="b32", modifiers="clamp wrap", operands=3)
def bmsk(e: Emitter, i: Instruction) -> None:
    """A mask of ``b`` ones from bit ``a`` on."""
    position, length = e.read(i.operands[1], U32), e.read(i.operands[2], U32)
    if i.has("clamp"):
        position, length = e.intrinsic("umin", position, 32), e.intrinsic("umin", length, 32)
    else:
        position, length = e.op("and", position, 31), e.op("and", length, 31)
    ones = e.op("sub", e.op("shl", constant("i64", 1), e.zext(length, "i64")), 1)
    e.write(i.operands[0], e.trunc(e.op("shl", ones, e.zext(position, "i64")), "i32"))


@TABLE.emits("szext", types="u32 s32", modifiers="clamp wrap", operands=3)
def szext(e: Emitter, i: Instruction) -> None:
    """Sign- or zero-extend the low ``b`` bits."""
    value, length = e.read(i.operands[1], i.type), e.read(i.operands[2], U32)
    length = e.intrinsic("umin", length, 32) if i.has("clamp") else e.op("and", length, 31)
    empty = e.icmp("eq", length, 0)
    unused = e.select(empty, 0, e.op("sub", constant("i64", 64), e.zext(length, "i64")))
    shifted = e.op("shl", e.zext(value, "i64"), unused)
    extended = e.op("ashr" if i.type.signed else "lshr", shifted, unused)
    e.write(i.operands[0], e.select(empty, 0, e.trunc(extended, "i32")), i.type)


@TABLE.emits("prmt", types="b32", modifiers=" ".join(_PRMT_MODES), operands=4)
def prmt(e: Emitter, i: Instruction) -> None:
    """Pick four of eight bytes; bit 3 of a selector replicates the byte's sign instead."""
    wide, selector = _pair(e, i), e.read(i.operands[3], B32)
    mode = i.choose(_PRMT_MODES, ())
    if mode:
        selector = _mode_selector(e, mode, e.op("and", selector, 3))
    parts = []
    for index in range(4):
        nibble = e.op("lshr", selector, 4 * index)
        distance = e.op("shl", e.op("and", nibble, 7), 3)
        byte = e.trunc(e.op("lshr", wide, e.zext(distance, "i64")), "i8")
        sign = e.icmp("ne", e.op("and", nibble, 8), 0)
        parts.append(e.select(sign, e.op("ashr", byte, 7), byte))
    e.write(i.operands[0], e.pack(parts))


def _mode_selector(e: Emitter, selectors: tuple[int, ...], index: Value) -> Value:
    result = constant("i32", selectors[3])
    for position in range(3):
        result = e.select(e.icmp("eq", index, position), selectors[position], result)
    return result
