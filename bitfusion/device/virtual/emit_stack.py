"""Memory on the stack of a thread: ``alloca``, ``stacksave``, ``stackrestore`` (PTX ISA, 9.7.15), in the part of the block's local
area that device functions use.

A device function's ends with the function. A kernel's ends with the thread: the parser puts ``STACK_FRAME`` in front of a
kernel's first instruction, which gives back what the thread before has taken.
"""

from __future__ import annotations

from typing import Final

from bitfusion.device.virtual.builder import Value, constant
from bitfusion.device.virtual.datatypes import TYPES
from bitfusion.device.virtual.effects import STACK_FRAME, suspends
from bitfusion.device.virtual.emitter import BLOCK_POINTER, Emitter
from bitfusion.device.virtual.layout import BLOCK
from bitfusion.device.virtual.syntax import Immediate, Instruction
from bitfusion.device.virtual.table import Table, unsupported

TABLE = Table()

ALIGNMENT_MAX: Final = 256
"""Of the block's local area, and of one ``alloca``."""

_BOTTOM: Final = Value("i64", "%stack.bottom")


def _top(e: Emitter) -> Value:
    e.unit.stack_used = True
    return e.offset(BLOCK_POINTER, BLOCK["STACK"])


@TABLE.emits("alloca", types="u32 u64", operands=(2, 3))
def alloca(e: Emitter, i: Instruction) -> None:
    if any(suspends(item) for item in e.function.instructions()):
        raise unsupported(i, "in a kernel whose threads wait for each other")
    alignment = i.operands[2] if len(i.operands) > 2 else Immediate(8)
    if not isinstance(alignment, Immediate) or alignment.value not in [1 << k for k in range(9)]:
        raise e.invalid(f"the alignment is not a power of two up to {ALIGNMENT_MAX}")
    mask = max(alignment.value, 16) - 1
    top = _top(e)
    start = e.op("and", e.op("add", e.load("i64", top), mask), ~mask)
    room = e.op("sub", e.load("i64", e.offset(BLOCK_POINTER, BLOCK["STACK_END"])), start)
    size = e.zext(e.read(i.operands[1], i.type), "i64")
    fits = e.op("and", e.icmp("sge", room, 0), e.icmp("ule", size, room))

    def overflow() -> Value:
        e.fault("HARDWARE_STACK_ERROR")
        return constant("i64", 0)

    size = e.unless(fits, size, overflow)
    e.store(e.op("add", start, size), top)
    e.write(i.operands[0], start)


@TABLE.emits("stacksave", types="u32 u64", operands=1)
def stacksave(e: Emitter, i: Instruction) -> None:
    e.write(i.operands[0], e.load("i64", _top(e)))


@TABLE.emits("stackrestore", types="u32 u64", operands=1)
def stackrestore(e: Emitter, i: Instruction) -> None:
    """Gives nothing back before the function ends: the register may hold anything, and others rely on the stack's top."""
    e.read(i.operands[0], TYPES["u64"])


@TABLE.emits(STACK_FRAME)
def stack_frame(e: Emitter, i: Instruction) -> None:
    e.store(_BOTTOM, _top(e))
