"""Suspension points: barriers and warp operations (PTX ISA, 9.7.13.1 to 9.7.13.8 and 9.7.9.6).

Each is translated in two halves. ``post`` writes the thread's operands where the scheduler finds them; the scheduler
performs the operation when all threads it waits for have come; ``take`` reads the result when the thread is resumed.
``describe`` tells the scheduler what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bitfusion.device.virtual import emit_shuffle
from bitfusion.device.virtual.builder import Value
from bitfusion.device.virtual.datatypes import B32
from bitfusion.device.virtual.effects import has_destination, registers_in, suspension
from bitfusion.device.virtual.emitter import BLOCK_POINTER, Emitter
from bitfusion.device.virtual.layout import BLOCK, SUSPENSION
from bitfusion.device.virtual.metadata import ALIAS
from bitfusion.device.virtual.syntax import Immediate, Instruction, Operand, Pair
from bitfusion.device.virtual.table import Entry, Table, unsupported
from bitfusion.device.virtual.tokens import syntax_error

Description = tuple[int, int, int, int]

_BARRIER_REDUCTIONS = {"and": 1, "or": 2, "popc": 3}
_VOTES = {"all": 0, "any": 1, "uni": 2, "ballot": 3}
_MATCHES = {"all": 0, "any": 1}
_REDUCTIONS = {"add": 0, "min": 1, "max": 2, "and": 3, "or": 4, "xor": 5}
_UNSIGNED = 5
"""Added to the code of an unsigned min or max."""
_MASKS = {"warpsync": 0, "shfl": 4, "vote": 2, "match": 2, "redux": 2, "elect": 1}
"""Which operand is the membermask, the last one."""


@dataclass(frozen=True, slots=True)
class _Barrier:
    """Operands of bar.sync and bar.red (PTX ISA, 9.7.13.1)."""

    barrier: Operand
    count: Operand | None
    predicate: Operand | None


def _barrier(i: Instruction) -> _Barrier:
    operands = list(i.operands)
    predicate: Operand | None = None
    if i.has("red"):
        if len(operands) < 3:
            raise syntax_error(i.line, f"{i} needs a barrier and a predicate")
        del operands[0]
        predicate = operands.pop()
    if len(operands) > 2:
        raise syntax_error(i.line, f"{i} has too many operands")
    barrier = operands[0] if operands else Immediate(0)
    if isinstance(barrier, Immediate) and not 0 <= barrier.value < 16:
        raise syntax_error(i.line, f"there is no barrier {barrier.value}")
    return _Barrier(barrier, operands[1] if len(operands) > 1 else None, predicate)


def describe(i: Instruction, mask: int) -> Description:
    """The row of KernelCode.suspensions. ``mask``: of lanes, where it is a constant; else 0."""
    kind = suspension(i)
    assert kind is not None
    without_mask = int(not i.has("sync"))
    match kind:
        case "bar":
            return _describe_barrier(i)
        case "shfl":
            return SUSPENSION[kind], i.require(emit_shuffle.VARIANTS), without_mask, mask
        case "vote":
            return SUSPENSION[kind], i.require(_VOTES), without_mask, mask
        case "match":
            return SUSPENSION[kind], i.require(_MATCHES), 0, mask
        case "redux":
            operation = i.require(_REDUCTIONS)
            unsigned = i.has("u32") and i.has("min", "max")
            return SUSPENSION[kind], operation + _UNSIGNED * unsigned, 0, mask
        case "activemask":
            return SUSPENSION[kind], 0, 1, 0
    return SUSPENSION[kind], 0, 0, mask


def mask_of(i: Instruction) -> Operand | None:
    """The membermask of a warp operation; None if it has none. InvalidValueError if it lacks one."""
    place = _MASKS.get(suspension(i) or "")
    if place is None or not (i.has("sync") or i.has("warp")):
        return None
    if len(i.operands) != place + 1:
        raise syntax_error(i.line, f"{i}: needs a mask")
    return i.operands[place]


def kept(i: Instruction) -> list[str]:
    """Registers that ``take`` reads: they are needed behind the suspension point, whether the thread needs them or not."""
    return [name for operand in i.operands[2:4] for name in registers_in(operand)] if i.opcode == "shfl" else []


def _describe_barrier(i: Instruction) -> Description:
    operands = _barrier(i)
    variant = i.require(_BARRIER_REDUCTIONS) if i.has("red") else 0
    barrier = operands.barrier.value if isinstance(operands.barrier, Immediate) else -1
    count = 0 if operands.count is None else operands.count.value if isinstance(operands.count, Immediate) else -1
    return SUSPENSION["bar"], variant, barrier, count


# posting operands
def thread_cell(e: Emitter, array: str, size: int) -> Value:
    """The thread's element of an array in the block record."""
    index = e.op("mul", e.zext(e.thread.linear, "i64"), size)
    return e.offset(BLOCK_POINTER, e.op("add", index, BLOCK[array]))


def post_value(e: Emitter, array: str, value: Value) -> None:
    e.store(value, thread_cell(e, array, value.bits // 8), ALIAS["frame"] + e.access_group)


def _fetch(e: Emitter, array: str, type_: str, size: int) -> Value:
    return e.load(type_, thread_cell(e, array, size), ALIAS["frame"] + e.access_group)


def post(e: Emitter, i: Instruction, mask: int) -> None:
    """Write the operands of the suspension point, but a mask that is constant (not 0)."""
    e.current = i
    kind = suspension(i)
    if kind in _POSTS:
        _POSTS[kind](e, i)
    operand = mask_of(i)
    if operand is not None and not mask:
        post_value(e, "POST_MASK", e.read(operand, B32))


def _post_predicate(e: Emitter, operand: Operand) -> None:
    post_value(e, "POST_WORD", e.zext(e.read_pred(operand), "i32"))


def _post_barrier(e: Emitter, i: Instruction) -> None:
    operands = _barrier(i)
    if not isinstance(operands.barrier, Immediate):
        post_value(e, "POST_MASK", e.read(operands.barrier, B32))
    if operands.count is not None and not isinstance(operands.count, Immediate):
        post_value(e, "POST_COUNT", e.read(operands.count, B32))
    if operands.predicate is not None:
        _post_predicate(e, operands.predicate)


def _post_vote(e: Emitter, i: Instruction) -> None:
    _post_predicate(e, i.operands[1])


def _post_word(e: Emitter, i: Instruction) -> None:
    post_value(e, "POST_WORD", e.read(i.operands[1], B32))


def _post_match(e: Emitter, i: Instruction) -> None:
    post_value(e, "POST_VALUE", e.bits(e.read(i.operands[1], i.type), "i64"))


_POSTS: dict[str, Callable[[Emitter, Instruction], None]] = {
    "bar": _post_barrier,
    "shfl": _post_word,
    "vote": _post_vote,
    "match": _post_match,
    "redux": _post_word,
}


# taking results
def take(e: Emitter, i: Instruction) -> None:
    """Write the result of the suspension point to its destination."""
    e.current = i
    if i.opcode == "shfl":
        emit_shuffle.take(e, i)
        return
    if not has_destination(i) or suspension(i) in ("warpsync", "yield", "lockstep"):
        return
    target = i.operands[0]
    result = _fetch(e, "RESULT", "i32", 4)
    if i.opcode in ("bar", "barrier", "vote") and not i.has("ballot", "popc"):
        result = e.trunc(result, "i1")
    if isinstance(target, Pair):
        e.write(target.second, e.trunc(_fetch(e, "RESULT_FLAG", "i8", 1), "i1"))
    e.write(target, result)


def _checked_only(_e: Emitter, i: Instruction) -> None:
    raise unsupported(i)


SUSPENDING = Table()
"""What ``check`` compares suspension points with: they are translated by ``post`` and ``take``, never as plain
instructions.
"""

for _opcodes, _types, _modifiers, _operands in (
    ("bar barrier", "u32 pred", "sync red and or popc cta aligned warp", (0, 4)),
    ("shfl", "b32", "sync up down bfly idx", (4, 5)),
    ("vote", "pred b32", "sync all any uni ballot", (2, 3)),
    ("match", "b32 b64", "sync all any", (3, 3)),
    ("redux", "u32 s32 b32", "sync add min max and or xor", (3, 3)),
    ("activemask", "b32", "", (1, 1)),
    ("elect", "", "sync", (2, 2)),
    ("nanosleep", "u32", "", (1, 1)),
    (".yield .lockstep", "", "", (0, 0)),
):
    SUSPENDING.emits(_opcodes, types=_types, modifiers=_modifiers, operands=_operands)(_checked_only)


def check(i: Instruction) -> None:
    """Raises UnsupportedError or InvalidValueError for a suspension point the scheduler cannot perform."""
    entry: Entry = SUSPENDING[i.opcode]
    if i.opcode in ("bar", "barrier"):
        entry = Entry(entry.emit, entry.types if i.has("red") else frozenset(), entry.modifiers, entry.operands)
    if i.has("warp") and len(i.operands) != 1:
        raise syntax_error(i.line, f"{i} needs a mask")
    entry.check(i)
