"""Barriers in shared memory, ``mbarrier`` (PTX ISA, 9.7.13.15), as ``cuda::barrier`` and ``cuda::pipeline`` use them.

An object of ours has the threads of a phase in its bits 0 to 31, those still to come in bits 32 to 62 and the parity of the
phase in bit 63 (its layout is opaque, 9.7.13.15.2). One OS thread runs a block, so plain loads and stores do. The parser
puts a yield in front of every test: whoever waits lets the others go first. Asynchronous copies are done at once and
their arrivals with them; transactions (``expect_tx``) belong to TMA, which the virtual GPU does not have.
"""

from __future__ import annotations

from typing import Final

from bitfusion.device.virtual.address import resolve
from bitfusion.device.virtual.builder import Value, constant
from bitfusion.device.virtual.datatypes import B32, B64
from bitfusion.device.virtual.emitter import Emitter
from bitfusion.device.virtual.metadata import ALIAS
from bitfusion.device.virtual.syntax import Instruction, Operand
from bitfusion.device.virtual.table import Table, unsupported

TABLE = Table()

_PENDING: Final = 32
_PHASE: Final = 63
_COUNT_MASK: Final = (1 << _PHASE - _PENDING) - 1


@TABLE.emits(
    "mbarrier",
    types="b64",
    modifiers="init inval arrive arrive_drop test_wait try_wait pending_count parity noComplete shared cta release acquire relaxed",
    operands=(1, 4),
)
def mbarrier(e: Emitter, i: Instruction) -> None:
    match i.modifiers[0]:
        case "init":
            _init(e, i)
        case "arrive" | "arrive_drop":
            _arrive(e, i)
        case "test_wait" | "try_wait":
            _test(e, i)
        case "pending_count":
            e.write(i.operands[0], _pending(e, e.read(_operand(e, i, 1), B64)))
        case "inval":
            pass
        case _:
            raise unsupported(i)


def _operand(e: Emitter, i: Instruction, index: int) -> Operand:
    if index >= len(i.operands):
        raise e.invalid(f"has {len(i.operands)} operands")
    return i.operands[index]


def _object(e: Emitter, i: Instruction, index: int) -> Value:
    return resolve(e, _operand(e, i, index), "shared" if i.has("shared", "shared::cta") else "generic", B64.size)


def _load(e: Emitter, pointer: Value) -> Value:
    return e.load("i64", pointer, ALIAS["shared"])


def _init(e: Emitter, i: Instruction) -> None:
    count = e.zext(e.read(_operand(e, i, 1), B32), "i64")
    e.store(e.op("or", count, e.op("shl", count, _PENDING)), _object(e, i, 0), ALIAS["shared"])


def _pending(e: Emitter, state: Value) -> Value:
    return e.trunc(e.op("and", e.op("lshr", state, _PENDING), _COUNT_MASK), "i32")


def _arrive(e: Emitter, i: Instruction) -> None:
    """Count down; the last to come begins the next phase. The result is the state before, which names the phase."""
    pointer = _object(e, i, 1)
    arriving = e.read(i.operands[2], B32) if len(i.operands) > 2 else constant("i32", 1)
    e.write(i.operands[0], arrive(e, pointer, arriving, leaving=i.modifiers[0] == "arrive_drop"))


def arrive(e: Emitter, pointer: Value, arriving: Value, leaving: bool = False) -> Value:
    """``leaving``: those who arrive are not expected in later phases."""
    before, count = _load(e, pointer), e.zext(arriving, "i64")
    expected = e.op("and", before, 0xFFFFFFFF)
    if leaving:
        expected = e.op("sub", expected, count)
    rest = e.op("sub", e.zext(_pending(e, before), "i64"), count)
    phase = e.op("lshr", before, _PHASE)
    complete = e.icmp("eq", rest, 0)
    phase = e.select(complete, e.op("xor", phase, 1), phase)
    rest = e.op("and", e.select(complete, expected, rest), _COUNT_MASK)
    after = e.op("or", e.op("shl", phase, _PHASE), e.op("shl", rest, _PENDING))
    e.store(e.op("or", after, e.op("and", expected, 0xFFFFFFFF)), pointer, ALIAS["shared"])
    return before


def _test(e: Emitter, i: Instruction) -> None:
    """Whether the phase of a state, or the one of a parity, is over."""
    now = e.op("lshr", _load(e, _object(e, i, 1)), _PHASE)
    if i.has("parity"):
        then = e.op("and", e.zext(e.read(_operand(e, i, 2), B32), "i64"), 1)
    else:
        then = e.op("lshr", e.read(_operand(e, i, 2), B64), _PHASE)
    e.write(i.operands[0], e.icmp("ne", now, then))
