"""Comparison and selection (PTX ISA, 9.7.6 and 9.7.7)."""

from __future__ import annotations

from bitfusion.device.virtual.builder import TRUE, Value, constant
from bitfusion.device.virtual.datatypes import B32, Type
from bitfusion.device.virtual.emit_float import flush
from bitfusion.device.virtual.emitter import Emitter
from bitfusion.device.virtual.rounding import from_bf16, from_f16, halves
from bitfusion.device.virtual.syntax import Instruction, Pair
from bitfusion.device.virtual.table import BITS, INTEGERS, Table

TABLE = Table()

_INTEGER = {name: name for name in ("eq", "ne", "lt", "le", "gt", "ge")}
_INTEGER |= {"lo": "ult", "ls": "ule", "hi": "ugt", "hs": "uge"}
_FLOAT = {name: f"o{name}" for name in ("eq", "lt", "le", "gt", "ge")} | {"ne": "one"}
_FLOAT |= {
    "equ": "ueq",
    "neu": "une",
    "ltu": "ult",
    "leu": "ule",
    "gtu": "ugt",
    "geu": "uge",
    "num": "ord",
    "nan": "uno",
}
_COMBINE = {"and": "and", "or": "or", "xor": "xor"}
_COMPARISONS = " ".join({**_INTEGER, **_FLOAT})
_TRUE_BITS = {"f16": 0x3C00, "f16x2": 0x3C00, "bf16": 0x3F80, "bf16x2": 0x3F80}
_COMPARED = f"{BITS} {INTEGERS} f16 f16x2 bf16 bf16x2 f32 f64"


def _compare(e: Emitter, i: Instruction, datatype: Type) -> Value:
    left, right = e.read(i.operands[1], datatype), e.read(i.operands[2], datatype)
    if datatype.float:
        if datatype.name == "bf16":
            left, right = from_bf16(e, left), from_bf16(e, right)
        return e.fcmp(i.require(_FLOAT), flush(e, i, left), flush(e, i, right))
    condition = i.require(_INTEGER)
    if condition in ("lt", "le", "gt", "ge"):
        condition = ("s" if datatype.signed else "u") + condition
    return e.icmp(condition, left, right)


def _compare_packed(e: Emitter, i: Instruction, datatype: Type) -> list[Value]:
    widen = from_f16 if datatype.name == "f16x2" else from_bf16
    pairs = list(zip(*[halves(e, e.read(operand, B32)) for operand in i.operands[1:3]], strict=True))
    if datatype.name == "f16x2":
        pairs = [(flush(e, i, e.bitcast(left, "half")), flush(e, i, e.bitcast(right, "half"))) for left, right in pairs]
    return [e.fcmp(i.require(_FLOAT), widen(e, left), widen(e, right)) for left, right in pairs]


def _combine(e: Emitter, i: Instruction, result: Value) -> Value:
    """The comparison and, or, xor a predicate."""
    operation = i.choose(_COMBINE, None)
    if operation is None:
        return result
    if len(i.operands) != 4:
        raise e.invalid("needs a predicate to combine with")
    return e.op(operation, result, e.read_pred(i.operands[3]))


@TABLE.emits("setp", types=_COMPARED, modifiers=f"{_COMPARISONS} and or xor ftz", operands=(3, 4))
def setp(e: Emitter, i: Instruction) -> None:
    """``p|q``: q gets the opposite comparison, or that of the upper half for packed types."""
    target = i.operands[0]
    if i.type.name in ("f16x2", "bf16x2"):
        if not isinstance(target, Pair):
            raise e.invalid("needs two destinations")
        low, high = _compare_packed(e, i, i.type)
        e.write(target.second, _combine(e, i, high))
        e.write(target.first, _combine(e, i, low))
        return
    result = _compare(e, i, i.type)
    if isinstance(target, Pair):
        e.write(target.second, _combine(e, i, e.op("xor", result, TRUE)))
    e.write(target, _combine(e, i, result))


@TABLE.emits("set", types=_COMPARED, modifiers=f"{_COMPARISONS} and or xor ftz", operands=(3, 4), type_count=2)
def set_(e: Emitter, i: Instruction) -> None:
    """A comparison as a number: 1.0 for floats, all ones for integers."""
    if len(i.types) != 2:
        raise e.invalid("needs two types")
    target, source = i.types
    if source.name in ("f16x2", "bf16x2"):
        yes = _TRUE_BITS.get(target.name, -1)
        results = [_combine(e, i, result) for result in _compare_packed(e, i, source)]
        flags = [e.select(result, constant("i16", yes), 0) for result in results]
        e.write(i.operands[0], e.pack(flags))
        return
    result = _combine(e, i, _compare(e, i, source))
    if target.name == "f32":
        e.write(i.operands[0], e.select(result, constant("float", "1.0"), constant("float", "0.0")))
    elif target.name in _TRUE_BITS:
        e.write(i.operands[0], e.select(result, constant("i16", _TRUE_BITS[target.name]), 0))
    else:
        e.write(i.operands[0], e.cast("sext", result, f"i{target.bits}"), target)


@TABLE.emits("selp", types=f"{BITS} {INTEGERS} f16 f16x2 f32 f64", operands=4)
def selp(e: Emitter, i: Instruction) -> None:
    yes, no = e.read(i.operands[1], i.type), e.read(i.operands[2], i.type)
    e.write(i.operands[0], e.select(e.read_pred(i.operands[3]), yes, no), i.type)


@TABLE.emits("slct", types=f"{BITS} {INTEGERS} f32 f64", modifiers="ftz", operands=4, type_count=2)
def slct(e: Emitter, i: Instruction) -> None:
    """The first source if the third is not negative, else the second."""
    if len(i.types) != 2:
        raise e.invalid("needs two types")
    datatype, selector_type = i.types
    selector = e.read(i.operands[3], selector_type)
    if selector_type.name == "f32":
        condition = e.fcmp("oge", flush(e, i, selector), "0.0")
    else:
        condition = e.icmp("sge", selector, 0)
    yes, no = e.read(i.operands[1], datatype), e.read(i.operands[2], datatype)
    e.write(i.operands[0], e.select(condition, yes, no), datatype)
