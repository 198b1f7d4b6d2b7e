"""The table of instructions: which function translates an opcode, and which types, modifiers and operand counts it
knows.

Whatever an entry does not name is refused with UnsupportedError before anything is translated, so no modifier is ever
silently ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from bitfusion.device.virtual.datatypes import TYPES
from bitfusion.device.virtual.syntax import Instruction
from bitfusion.device.virtual.tokens import syntax_error
from bitfusion.errors import UnsupportedError

if TYPE_CHECKING:
    from bitfusion.device.virtual.emitter import Emitter

Emit: TypeAlias = "Callable[[Emitter, Instruction], None]"

INTEGERS = "u16 s16 u32 s32 u64 s64"
PACKED = "u16x2 s16x2"
BITS = "b16 b32 b64"
FLOATS = "f16 f16x2 bf16 bf16x2 f32 f64"
EVERYTHING = f"{INTEGERS} {BITS} {FLOATS} b8 u8 s8 b128"
UNTYPED = "untyped"
"""Among an entry's types: some forms of the instruction have none."""
ROUNDINGS = "rn rz rm rp"
SPACES = "global shared local const param"
SCOPES = "cta cluster gpu sys"


@dataclass(frozen=True, slots=True)
class Entry:
    emit: Emit
    types: frozenset[str]
    modifiers: frozenset[str]
    operands: range
    type_count: int = 1
    """Types an instruction has at most."""

    def check(self, instruction: Instruction) -> None:
        """Raises UnsupportedError for an unknown type or modifier, InvalidValueError for a wrong number of operands."""
        for modifier in instruction.modifiers:
            known = self.types if modifier in TYPES else self.modifiers
            if modifier.partition("::")[0] not in known:
                raise unsupported(instruction)
        if len(instruction.types) > self.type_count:
            raise unsupported(instruction)
        if (
            self.types
            and UNTYPED not in self.types
            and not any(modifier in TYPES for modifier in instruction.modifiers)
        ):
            raise syntax_error(instruction.line, f"{instruction} needs a type")
        self.check_count(instruction)

    def check_count(self, instruction: Instruction) -> None:
        """Raises InvalidValueError for a wrong number of operands."""
        if len(instruction.operands) not in self.operands:
            raise syntax_error(instruction.line, f"{instruction} has {len(instruction.operands)} operands")


class Table(dict[str, Entry]):
    """Opcode -> entry; filled by the decorators of the ``emit_*`` modules."""

    def emits(
        self,
        opcodes: str,
        *,
        types: str = "",
        modifiers: str = "",
        operands: int | tuple[int, int] = 0,
        type_count: int = 1,
    ) -> Callable[[Emit], Emit]:
        """Register a function for the opcodes. ``operands``: their number, or the least and the most."""
        least, most = (operands, operands) if isinstance(operands, int) else operands

        def register(emit: Emit) -> Emit:
            counts = range(least, most + 1)
            entry = Entry(emit, frozenset(types.split()), frozenset(modifiers.split()), counts, type_count)
            for opcode in opcodes.split():
                self[opcode] = entry
            return emit

        return register


def unsupported(instruction: Instruction, why: str = "") -> UnsupportedError:
    """The error for an instruction the virtual GPU cannot run."""
    message = f"the virtual GPU does not support {instruction}{f': {why}' if why else ''} (PTX line {instruction.line})"
    return UnsupportedError(message, instruction=str(instruction), line=instruction.line)
