"""Guesses how integer registers grow from one thread of a row to the next, in loops too.

``RowCoefficients`` knows; this guesses, as if all threads took every branch together. A loop that all threads run side by
side is entered with values that have come round it before, and whoever relies on a guess compares the values of the row
first (``guard``). A register without a guess holds data: it comes from memory, another thread, or floating point.
"""

from __future__ import annotations

from collections.abc import Iterable

from bitfusion.device.virtual.effects import destinations, is_warp_operation, sources, suspension
from bitfusion.device.virtual.rematerialize import combined_coefficient, is_parameter_load, special_coefficient
from bitfusion.device.virtual.syntax import (
    Function,
    Immediate,
    Instruction,
    Negated,
    Operand,
    Register,
    SpecialRegister,
    Symbol,
)

_DATA = frozenset({"atom", "ldu", "call", "isspacep", "testp"})


class Evenness:
    """The guesses for the registers of one function."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._guesses: dict[str, int | None] = {}
        self.definitions: dict[str, list[Instruction]] = {}
        instructions = list(function.instructions())
        for instruction in instructions:
            for name in destinations(instruction):
                self.definitions.setdefault(name, []).append(instruction)
        while sum(map(self._visit, instructions)):  # not any(): every instruction is visited before the next round
            pass

    def of(self, operand: Operand) -> int | None:
        """By how much the value grows per thread; None if it is data."""
        match operand:
            case Immediate() | Symbol():
                return 0
            case SpecialRegister(name):
                return special_coefficient(name)
            case Register(name) | Negated(name):
                return self._guesses.get(name)
        return None

    def _visit(self, instruction: Instruction) -> bool:
        """Take note of one instruction's results; whether anything was new."""
        known = {name: self._guesses.get(name, ...) for name in destinations(instruction)}
        if not known or not self._ready(instruction):
            return False
        guess = self._guess(instruction)
        for name, before in known.items():
            self._guesses[name] = guess if before is ... else _merged(before, guess)
        return any(self._guesses[name] != before for name, before in known.items())

    def _ready(self, instruction: Instruction) -> bool:
        """Whether something is known of an operand: in a loop, some come later."""
        registers = [operand.name for operand in sources(instruction) if isinstance(operand, Register)]
        return not registers or any(name in self._guesses for name in registers)

    def _guess(self, instruction: Instruction) -> int | None:
        opcode = instruction.opcode
        if opcode == "ld":
            return 0 if is_parameter_load(self._function, instruction) else None
        if suspension(instruction) == "bar":
            return 0
        if is_warp_operation(instruction) or opcode in _DATA or any(kind.float for kind in instruction.types):
            return None
        values = [self._known(operand) for operand in sources(instruction)]
        if None in values:
            return None
        inputs = [value for value in values if value is not None]
        if opcode in ("selp", "min", "max"):
            return _merged(inputs[0], inputs[1])
        found = combined_coefficient(instruction, inputs)
        return 0 if found is None else found

    def _known(self, operand: Operand) -> int | None:
        """Like ``of``; what has not been seen yet stands in nobody's way."""
        if isinstance(operand, Register) and operand.name not in self._guesses:
            return 0
        return self.of(operand)


def _merged(first: int | None, second: int | None) -> int | None:
    """Of two ways to a value the one that grows: the other is the exception, such as an index before the loop."""
    if first is None or second is None:
        return None
    return first or second


def grows_unevenly(evenness: Evenness, compared: Instruction, body: Iterable[Instruction]) -> bool:
    """Whether the comparison at the end of a loop lets the threads of a row leave it at very different times.

    It does if one side grows along the row and changes by a constant in each iteration (a triangular loop); a side that changes
    by a register strides over as much as the row is long.
    """
    left, right = sources(compared)[:2]
    steps = set(body)
    return any(evenness.of(side) and not _strides(evenness, side, steps, 0) for side in (left, right)) and evenness.of(
        left
    ) != evenness.of(right)


_CHAIN_MAX = 16
"""Definitions from one iteration's value to the next: loops are unrolled four times, with two steps each."""


def _strides(evenness: Evenness, side: Operand, body: set[Instruction], depth: int) -> bool:
    """Whether a register is added to the value inside the loop."""
    if not isinstance(side, Register) or depth > _CHAIN_MAX:
        return False
    for definition in evenness.definitions.get(side.name, []):
        if definition not in body:
            continue
        inputs = [operand for operand in sources(definition) if isinstance(operand, Register)]
        if definition.opcode in ("add", "mad") and len(inputs) > 1:
            return True
        if any(operand.name != side.name and _strides(evenness, operand, body, depth + 1) for operand in inputs[:1]):
            return True
    return False
