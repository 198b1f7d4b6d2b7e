"""Translates one instruction: finds it in the table, checks it, and handles its predicate (PTX ISA, 9.3 "Predicated
Execution").
"""

from __future__ import annotations

from typing import Final

from bitfusion.device.virtual import (
    emit_atomic,
    emit_bits,
    emit_compare,
    emit_control,
    emit_convert,
    emit_float,
    emit_integer,
    emit_mbarrier,
    emit_memory,
    emit_stack,
    emit_video,
)
from bitfusion.device.virtual.effects import suspension, writes
from bitfusion.device.virtual.emitter import Emitter
from bitfusion.device.virtual.syntax import Function, Instruction, Register
from bitfusion.device.virtual.table import Table, unsupported

TABLE: Final = Table(
    emit_integer.TABLE
    | emit_bits.TABLE
    | emit_float.TABLE
    | emit_convert.TABLE
    | emit_compare.TABLE
    | emit_memory.TABLE
    | emit_atomic.TABLE
    | emit_control.TABLE
    | emit_mbarrier.TABLE
    | emit_stack.TABLE
    | emit_video.TABLE
)


def check_counts(function: Function) -> None:
    """Raises InvalidValueError if an instruction has a wrong number of operands: what analyses it need not look.

    Suspension points have a table of their own (``emit_warp.check``).
    """
    for instruction in function.instructions():
        entry = TABLE.get(instruction.opcode)
        if entry is not None and not suspension(instruction):
            entry.check_count(instruction)


def emit_instruction(e: Emitter, i: Instruction) -> None:
    """Translate an instruction; a predicated one behind a branch. UnsupportedError or InvalidValueError names it."""
    if i.predicate is None:
        emit_unpredicated(e, i)
        return
    e.current = i
    do, done = e.new_label("do"), e.new_label("done")
    condition = e.read_pred(i.predicate)
    e.registers.store()
    e.branch(condition, do, done)
    e.label(do)
    known = e.registers.known()
    emit_unpredicated(e, i)
    e.registers.store()
    e.jump(done)
    e.label(done)
    e.registers.restore(known, except_for=writes(i))


def emit_unpredicated(e: Emitter, i: Instruction) -> None:
    e.current = i
    entry = TABLE.get(i.opcode)
    if entry is None:
        raise unsupported(i)
    entry.check(i)
    if i.opcode == "setp" and isinstance(i.operands[0], Register) and i.operands[0].name in e.row_predicates:
        e.write(i.operands[0], e.row_predicates[i.operands[0].name])
        return
    entry.emit(e, i)
