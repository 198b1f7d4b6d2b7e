"""Data movement: ``mov``, ``ld``, ``st``, address conversion, asynchronous copies (PTX ISA, 9.7.9)."""

from __future__ import annotations

from bitfusion.device.virtual.address import alias_attributes, resolve, state_space
from bitfusion.device.virtual.builder import FALSE, Value, constant
from bitfusion.device.virtual.datatypes import B32, B64, TYPES, Type
from bitfusion.device.virtual.emit_mbarrier import arrive
from bitfusion.device.virtual.emitter import SHARED, Emitter
from bitfusion.device.virtual.metadata import ALIAS
from bitfusion.device.virtual.syntax import Immediate, Instruction, Negated, Operand, Register, Vector
from bitfusion.device.virtual.table import BITS, EVERYTHING, INTEGERS, SCOPES, SPACES, UNTYPED, Table, unsupported

TABLE = Table()

_CACHE = "ca cg cs lu cv wb wt nc L1 L2 unified"
_VECTORS = "v2 v4 v8"
_LOAD_ORDER = {"acquire": "acquire", "relaxed": "monotonic"}
_STORE_ORDER = {"release": "release", "relaxed": "monotonic"}


@TABLE.emits("mov", types=f"pred {BITS} {INTEGERS} b128 f16 f16x2 bf16 bf16x2 f32 f64", modifiers="v2 v4", operands=2)
def mov(e: Emitter, i: Instruction) -> None:
    """Also packs ``{a, b}`` into a wider register and unpacks it."""
    target, source = i.operands
    if isinstance(source, Vector) and isinstance(target, Vector):
        if len(source.items) != len(target.items):
            raise e.invalid("the vectors have different lengths")
        values = [e.read(item, i.type) for item in source.items]
        for item, value in zip(target.items, values, strict=True):
            e.write(item, value)
        return
    if isinstance(source, Register) and isinstance(target, Register):
        known = e.registers.known_type(source.name)
        value = e.registers.get(source.name, known)
        if value.bits == i.type.bits:  # whatever the type: keep the value as it is
            e.write(target, value)
            return
    e.write(target, e.read(source, i.type), i.type)


@TABLE.emits("cvta", types="u32 u64", modifiers=f"to {SPACES}", operands=2)
def cvta(e: Emitter, i: Instruction) -> None:
    """Only shared addresses differ from generic ones."""
    value = e.read(i.operands[1], i.type)
    if state_space(i) == "shared":
        operation = "sub" if i.has("to") else "add"
        value = e.bits(e.op(operation, e.bits(value, "i64"), e.address(SHARED)), value.type)
    e.write(i.operands[0], value)


@TABLE.emits("isspacep", modifiers=SPACES, operands=2)
def isspacep(e: Emitter, i: Instruction) -> None:
    address = e.read(i.operands[1], B64)
    shared_size = e.zext(e.launch_field("SHARED_SIZE", "i32"), "i64")
    in_shared = e.icmp("ult", e.op("sub", address, e.address(SHARED)), shared_size)
    base, size = e.launch_field("MEMORY_BASE", "i64"), e.launch_field("MEMORY_SIZE", "i64")
    in_global = e.icmp("ult", e.op("sub", address, base), size)
    answers = {"shared": in_shared, "global": in_global}
    if state_space(i) == "local":
        answers["local"] = e.invert(e.op("or", in_shared, in_global))
    e.write(i.operands[0], answers.get(state_space(i), FALSE))


def _cells(i: Instruction, operand: Operand) -> tuple[Operand, ...]:
    """The registers of a scalar or vector access."""
    return operand.items if isinstance(operand, Vector) and i.vector_size > 1 else (operand,)


def _access(e: Emitter, i: Instruction, address: Operand, cells: int) -> tuple[Value, int, str]:
    """(pointer, bytes of one cell, metadata) of a load or store."""
    if cells != i.vector_size:
        raise e.invalid(f"needs {i.vector_size} registers")
    size, space = i.type.size, state_space(i)
    attributes = "" if _volatile(i) else alias_attributes(e, address, space)
    return resolve(e, address, space, size * cells), size, attributes


def _volatile(i: Instruction) -> str:
    """Such an access must not be said to be independent of other threads: LLVM would try to vectorise it, and aborts."""
    return "volatile " if i.has("volatile", "mmio") else ""


@TABLE.emits(
    "ld ldu",
    types=EVERYTHING,
    modifiers=f"weak volatile mmio relaxed acquire {SCOPES} {SPACES} {_VECTORS} {_CACHE}",
    operands=(2, 3),
)
def load(e: Emitter, i: Instruction) -> None:
    targets = _cells(i, i.operands[0])
    pointer, size, attributes = _access(e, i, i.operands[1], len(targets))
    order, type_ = i.choose(_LOAD_ORDER, ""), i.type.storage
    if order and size > 8:
        raise unsupported(i)
    for index, target in enumerate(targets):
        cell = e.offset(pointer, index * size)
        if order:
            value = e.let(type_, f"load atomic {_volatile(i)}{type_}, {cell} {order}, align {size}")
        else:
            value = e.let(type_, f"load {_volatile(i)}{type_}, {cell}, align {size}{attributes}")
        e.write(target, value, i.type)


@TABLE.emits(
    "st",
    types=EVERYTHING,
    modifiers=f"weak volatile mmio relaxed release {SCOPES} {SPACES} {_VECTORS} {_CACHE}",
    operands=(2, 3),
)
def store(e: Emitter, i: Instruction) -> None:
    sources = _cells(i, i.operands[1])
    order = i.choose(_STORE_ORDER, "")
    if order and i.type.size > 8:
        raise unsupported(i)
    values = [e.read(source, _stored(i.type)) for source in sources]
    pointer, size, attributes = _access(e, i, i.operands[0], len(sources))
    for index, value in enumerate(values):
        cell = e.offset(pointer, index * size)
        if order:
            e.emit(f"store atomic {_volatile(i)}{value}, {cell} {order}, align {size}")
        else:
            e.emit(f"store {_volatile(i)}{value}, {cell}, align {size}{attributes}")


def _stored(datatype: Type) -> Type:
    """f16 and its like are moved as integers."""
    return datatype if datatype.llvm == datatype.storage else TYPES[f"b{datatype.bits}"]


_HINTS = "prefetch prefetchu discard applypriority pmevent griddepcontrol setmaxnreg"


@TABLE.emits(
    _HINTS,
    types=f"{UNTYPED} u32",
    modifiers="global local L1 L2 param generic const mask wait launch_dependents inc dec sync aligned",
    operands=(0, 2),
)
def hint(e: Emitter, i: Instruction) -> None:
    """Advice about caches and scheduling: nothing to do."""


@TABLE.emits("mapa", types="u32 u64", modifiers="shared", operands=3)
def mapa(e: Emitter, i: Instruction) -> None:
    """An address in the shared memory of another block of the cluster: every block is a cluster of its own."""
    e.write(i.operands[0], e.read(i.operands[1], i.type))


@TABLE.emits("getctarank", types="u32 u64", modifiers="shared", operands=2)
def getctarank(e: Emitter, i: Instruction) -> None:
    e.write(i.operands[0], constant("i32", 0))


_ASYNC = "async ca cg shared global L2 commit_group wait_group wait_all mbarrier arrive noinc"


@TABLE.emits("createpolicy", types="b64", modifiers="fractional range global L2 cvt", operands=(1, 5))
def createpolicy(e: Emitter, i: Instruction) -> None:
    """Cache policies are ignored by the accesses that take one."""
    e.write(i.operands[0], constant("i64", 0))


@TABLE.emits("cp", types=f"{UNTYPED} b64", modifiers=_ASYNC, operands=(0, 5))
def cp_async(e: Emitter, i: Instruction) -> None:
    """``cp.async`` (PTX ISA, 9.7.9.25.3) is done at once, so groups are always complete.

    ``cp.async.mbarrier.arrive`` counts one up and, as the copies are done, down again; with .noinc only down.
    """
    if i.has("commit_group", "wait_group", "wait_all"):
        return
    if i.has("mbarrier"):
        if i.has("noinc"):
            space = "shared" if i.has("shared", "shared::cta") else "generic"
            arrive(e, resolve(e, i.operands[0], space, B64.size), constant("i32", 1))
        return
    if len(i.operands) < 3 or not isinstance(i.operands[2], Immediate) or i.operands[2].value not in (4, 8, 16):
        raise e.invalid("copies 4, 8 or 16 bytes")
    size = i.operands[2].value
    target = resolve(e, i.operands[0], "shared", size)
    source = resolve(e, i.operands[1], "global", size)
    operands = i.operands[3:-1] if i.has("L2::cache_hint") else i.operands[3:]
    used = _bytes_used(e, operands[0], size) if operands else None
    for offset in range(0, size, 4):
        value = e.load("i32", e.offset(source, offset), f", align 4{ALIAS['global']}")
        if used is not None:
            value = _cut(e, value, offset, used)
        e.store(value, e.offset(target, offset), f", align 4{ALIAS['shared']}")


def _bytes_used(e: Emitter, operand: Operand, size: int) -> Value:
    """Bytes that are copied; the rest reads as zeros. A predicate (ignore-src) means none or all."""
    if isinstance(operand, Negated) or (isinstance(operand, Register) and e.registers.storage(operand.name) == "i1"):
        return e.select(e.read_pred(operand), 0, constant("i32", size))
    return e.intrinsic("umin", e.read(operand, B32), size)


def _cut(e: Emitter, value: Value, offset: int, used: Value) -> Value:
    """The bytes of a word at ``offset`` that lie below ``used``."""
    bits = e.op("shl", e.clamp(e.op("sub", used, offset), 0, 4), 3)
    ones = e.op("sub", e.op("shl", constant("i64", 1), e.zext(bits, "i64")), 1)
    return e.op("and", value, e.trunc(ones, "i32"))
