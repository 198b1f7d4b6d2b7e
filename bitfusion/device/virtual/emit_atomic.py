"""Atomic operations and fences (PTX ISA, 9.7.13).

One OS thread runs a block, so atomics on shared memory and those of .cta scope need no lock prefix. Others need it where
several workers run the grid: 5 to 6 times slower.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bitfusion.device.virtual import metadata
from bitfusion.device.virtual.address import resolve, state_space
from bitfusion.device.virtual.builder import Value
from bitfusion.device.virtual.datatypes import TYPES, Type
from bitfusion.device.virtual.emitter import Emitter
from bitfusion.device.virtual.rounding import from_bf16, halves, to_bf16
from bitfusion.device.virtual.syntax import Discard, Instruction, Operand, Vector
from bitfusion.device.virtual.table import SCOPES, SPACES, Table, unsupported

TABLE = Table()

_TYPES = "b16 b32 u32 s32 b64 u64 s64 b128 f16 f16x2 bf16 bf16x2 f32 f64"
_ORDERS = "relaxed acquire release acq_rel"
_OPERATIONS = {name: name for name in ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec")}
_MODIFIERS = f"{' '.join(_OPERATIONS)} {_ORDERS} {SCOPES} {SPACES} v2 v4 v8 noftz L2"
_RMW_NAMES = {"exch": "xchg", "inc": "uinc_wrap", "dec": "udec_wrap"}


@dataclass(frozen=True, slots=True)
class _Access:
    pointer: Value
    plain: bool
    """No other OS thread can come in between."""
    order: str
    attributes: str


@TABLE.emits("membar", modifiers="cta gl sys gpu", operands=0)
def membar(e: Emitter, i: Instruction) -> None:
    if not i.has("cta"):
        e.emit("fence seq_cst")


@TABLE.emits(
    "fence", modifiers=f"sc acq_rel proxy alias async release acquire mbarrier_init {SCOPES} global shared", operands=0
)
def fence(e: Emitter, i: Instruction) -> None:
    if not i.has("cta", "proxy"):
        e.emit("fence seq_cst" if i.has("sc") else "fence acq_rel")


@TABLE.emits("red", types=_TYPES, modifiers=_MODIFIERS, operands=(2, 3))
def red(e: Emitter, i: Instruction) -> None:
    _atomic(e, i, Discard(), i.operands[0], i.operands[1:])


@TABLE.emits("atom", types=_TYPES, modifiers=_MODIFIERS, operands=(3, 5))
def atom(e: Emitter, i: Instruction) -> None:
    _atomic(e, i, i.operands[0], i.operands[1], i.operands[2:])


def _atomic(e: Emitter, i: Instruction, target: Operand, address: Operand, sources: tuple[Operand, ...]) -> None:
    operation, datatype = i.require(_OPERATIONS), i.type
    access = _access(e, i, address)
    if operation == "cas":
        _compare_and_swap(e, i, target, access, sources)
    elif i.vector_size > 1:
        _vector(e, i, target, access, sources[0])
    else:
        old = _read_modify_write(e, operation, datatype, access, e.read(sources[0], datatype))
        e.write(target, old, datatype)


def _access(e: Emitter, i: Instruction, address: Operand) -> _Access:
    space = state_space(i)
    pointer = resolve(e, address, space, i.type.size * i.vector_size)
    plain = space == "shared" or i.has("cta") or e.options.plain_atomics
    order = "acq_rel" if i.has("acq_rel", "acquire", "release") else "monotonic"
    attributes = metadata.ALIAS.get(space, "") if plain else ""  # without the access group: threads meet here
    return _Access(pointer, plain, order, attributes)


def _vector(e: Emitter, i: Instruction, target: Operand, access: _Access, source: Operand) -> None:
    """``atom.v2.f32``: each element is atomic, the vector is not."""
    if not isinstance(source, Vector) or len(source.items) != i.vector_size:
        raise e.invalid(f"needs {i.vector_size} sources")
    targets = target.items if isinstance(target, Vector) else (Discard(),) * i.vector_size
    if len(targets) != i.vector_size:
        raise e.invalid(f"needs {i.vector_size} results")
    for index, (item, result) in enumerate(zip(source.items, targets, strict=True)):
        cell = _Access(e.offset(access.pointer, index * i.type.size), access.plain, access.order, access.attributes)
        old = _read_modify_write(e, i.require(_OPERATIONS), i.type, cell, e.read(item, i.type))
        e.write(result, old, i.type)


def _compare_and_swap(
    e: Emitter, i: Instruction, target: Operand, access: _Access, sources: tuple[Operand, ...]
) -> None:
    if len(sources) < 2:
        raise e.invalid("needs two sources")
    bits = TYPES[f"b{i.type.bits}"]
    expected, new = e.read(sources[0], bits), e.read(sources[1], bits)
    if access.plain:
        old = e.load(bits.llvm, access.pointer, access.attributes)
        e.store(e.select(e.icmp("eq", old, expected), new, old), access.pointer, access.attributes)
    else:
        old, _swapped = _exchange_if_equal(e, access, expected, new)
    e.write(target, old)


def _exchange_if_equal(e: Emitter, access: _Access, expected: Value, new: Value) -> tuple[Value, Value]:
    """(what was there, whether it was as expected)"""
    pair = e.let(f"{{{new.type}, i1}}", f"cmpxchg {access.pointer}, {expected}, {new} {access.order} monotonic")
    return e.let(new.type, f"extractvalue {pair}, 0"), e.let("i1", f"extractvalue {pair}, 1")


def _read_modify_write(e: Emitter, operation: str, datatype: Type, access: _Access, value: Value) -> Value:
    """The old value."""
    if datatype.float and datatype.name not in ("f32", "f64"):
        return _update_half(e, operation, datatype, access, value)
    if operation not in ("add", "min", "max"):
        value = e.bitcast(value, f"i{value.bits}")
    if access.plain:
        return _update(e, operation, datatype, access, value)
    return _update_alone_or_locked(e, operation, datatype, access, value)


def _update(e: Emitter, operation: str, datatype: Type, access: _Access, value: Value) -> Value:
    old = e.load(value.type, access.pointer, access.attributes)
    e.store(_combine(e, operation, datatype, old, value), access.pointer, access.attributes)
    return old


def _update_alone_or_locked(e: Emitter, operation: str, datatype: Type, access: _Access, value: Value) -> Value:
    """Without the lock prefix where one worker runs the grid by itself (see ``sharing``)."""
    e.unit.contended = True
    alone, locked, done = e.new_label("alone"), e.new_label("locked"), e.new_label("updated")
    e.branch(e.icmp("eq", e.launch_field("WORKERS", "i64"), 1), alone, locked)
    e.label(alone)
    plain = _update(e, operation, datatype, access, value)
    e.jump(done)
    e.label(locked)
    name = _rmw_name(operation, datatype)
    atomic = e.let(value.type, f"atomicrmw {name} {access.pointer}, {value} {access.order}")
    e.jump(done)
    e.label(done)
    return e.phi((plain, alone), (atomic, locked))


def _update_half(e: Emitter, operation: str, datatype: Type, access: _Access, value: Value) -> Value:
    """16-bit formats, single or packed: CPUs have no such atomic operation, so compare and swap until nobody was faster."""
    cell = datatype.storage
    if access.plain:
        old = e.load(cell, access.pointer, access.attributes)
        e.store(_combine_half(e, operation, datatype, old, value), access.pointer, access.attributes)
        return old
    seen = e.alloca(cell)
    e.store(e.let(cell, f"load atomic {cell}, {access.pointer} monotonic, align {datatype.size}"), seen)
    again, done = e.new_label("again"), e.new_label("swapped")
    e.jump(again)
    e.label(again)
    old = e.load(cell, seen)
    found, swapped = _exchange_if_equal(e, access, old, _combine_half(e, operation, datatype, old, value))
    e.store(found, seen)
    e.branch(swapped, done, again)
    e.label(done)
    return old


def _combine_half(e: Emitter, operation: str, datatype: Type, old: Value, value: Value) -> Value:
    """The bits of the new value."""
    if operation not in _HALF_OPERATIONS:
        raise unsupported(e.current)
    if not datatype.name.startswith("bf16"):
        result = _HALF_OPERATIONS[operation](e, e.bitcast(old, datatype.llvm), e.bitcast(value, datatype.llvm))
        return e.bitcast(result, datatype.storage)
    pairs = [(old, value)] if datatype.size == 2 else zip(halves(e, old), halves(e, value), strict=True)
    parts = [
        to_bf16(e, _HALF_OPERATIONS[operation](e, from_bf16(e, left), from_bf16(e, right))) for left, right in pairs
    ]
    return e.pack(parts) if len(parts) > 1 else parts[0]


_HALF_OPERATIONS: dict[str, Callable[[Emitter, Value, Value], Value]] = {
    "add": lambda e, left, right: e.op("fadd", left, right),
    "min": lambda e, left, right: e.intrinsic("minimumnum", left, right),
    "max": lambda e, left, right: e.intrinsic("maximumnum", left, right),
}


def _rmw_name(operation: str, datatype: Type) -> str:
    """LLVM's name of the operation (LLVM Language Reference, atomicrmw)."""
    if operation in ("add", "min", "max"):
        if datatype.float:
            return f"f{operation}"
        return operation if operation == "add" or datatype.signed else f"u{operation}"
    return _RMW_NAMES.get(operation, operation)


def _combine(e: Emitter, operation: str, datatype: Type, old: Value, value: Value) -> Value:
    match operation:
        case "exch":
            return value
        case "inc":  # wraps to 0 behind value
            return e.select(e.icmp("uge", old, value), 0, e.op("add", old, 1))
        case "dec":  # wraps to value behind 0
            wraps = e.op("or", e.icmp("eq", old, 0), e.icmp("ugt", old, value))
            return e.select(wraps, value, e.op("sub", old, 1))
        case "min" | "max" if datatype.float:
            return e.intrinsic(f"{operation}num", old, value)
        case "min" | "max":
            return e.intrinsic(("s" if datatype.signed else "u") + operation, old, value)
    return e.op(f"f{operation}" if datatype.float else operation, old, value)
