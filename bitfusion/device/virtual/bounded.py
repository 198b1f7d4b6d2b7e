"""Which integers a register can hold, where the instruction that writes it tells: a byte from memory, the low bits of a number, a
remainder, and what is computed of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd

from bitfusion.device.virtual.datatypes import Type
from bitfusion.device.virtual.syntax import Immediate, Instruction, Operand, Register

HIGH_MAX = (1 << 31) - 1
"""Larger bounds are not followed, so the same number is meant whether 32 bits are signed or not."""

DEPTH_MAX = 16
"""Instructions from one to the next: what compilers write is shorter."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A number from 0 to ``high`` that is a multiple of ``step`` (0 is one of every number)."""

    high: int
    step: int

    def __add__(self, other: Bound) -> Bound:
        return Bound(self.high + other.high, gcd(self.step, other.step))

    def __mul__(self, other: Bound) -> Bound:
        return Bound(self.high * other.high, self.step * other.step)

    def __or__(self, other: Bound) -> Bound:
        """What is one of both."""
        return Bound(max(self.high, other.high), gcd(self.step, other.step))


class Bounds:
    """The bounds of a function's registers, from the instructions that write each.

    A register that is read before it was written holds 0 (``registers``), which is in all bounds.
    """

    def __init__(self, definitions: Mapping[str, list[Instruction]]) -> None:
        self._definitions = definitions
        self._known: dict[str, Bound | None] = {}

    def of(self, operand: Operand, datatype: Type, depth: int = DEPTH_MAX) -> Bound | None:
        """The bound of an operand that is read as a number of that type; None if nothing is known."""
        found: Bound | None = None
        match operand:
            case Immediate(value, "i") if value >= 0:
                found = Bound(value, value)
            case Register(name) if depth:
                found = self._of_register(name, depth)
        return _fitting(found, datatype)

    def _of_register(self, name: str, depth: int) -> Bound | None:
        if name not in self._known:
            self._known[name] = None  # while it is looked for: what follows from itself has no bound
            definitions = self._definitions.get(name, [])
            if len(definitions) == 1:
                self._known[name] = self._of_result(definitions[0], depth - 1)
        return self._known[name]

    def _of_result(self, i: Instruction, depth: int) -> Bound | None:
        if i.predicate is not None or i.has("sat", "cc", "hi") or not i.types or i.type.name.endswith("x2"):
            return None
        if i.opcode == "ld":
            return _any(i.type)
        if not isinstance(i.operands[0], Register):  # the halves of a number
            return None
        if i.opcode == "cvt":
            source, target = i.types[-1], i.types[0]
            return _fitting(self.of(i.operands[1], source, depth) or _any(source), target)
        if i.type.float or i.type.kind == "p":
            return None
        found = self._computed(i, [self.of(operand, i.type, depth) for operand in i.operands[1:3]], depth)
        return _fitting(found, i.type) if not i.has("wide") else found

    def _computed(self, i: Instruction, inputs: list[Bound | None], depth: int) -> Bound | None:
        """The bound of a result from those of the first two sources."""
        match i.opcode, inputs:
            case "mov", [value]:
                return value
            case "and", [left, right]:
                return _masked(i, left, right)
            case "min", [left, right] if not i.type.signed:
                return _smaller(left, right)
            case "add", [Bound() as left, Bound() as right]:
                return left + right
            case "mul", [Bound() as left, Bound() as right]:
                return left * right
            case "mad", [Bound() as left, Bound() as right]:
                added = self.of(i.operands[3], i.type, depth)
                return left * right + added if added else None
            case "selp", [Bound() as left, Bound() as right]:
                return left | right
            case (("shl" | "shr" | "rem" | "bfe"), [value, Bound()]):
                return _by_constant(i, value)
        return None


def _fitting(bound: Bound | None, datatype: Type) -> Bound | None:
    """The bound, if all its numbers are the same in ``datatype``."""
    if bound is None or datatype.float or bound.high > HIGH_MAX or bound.high >> (datatype.bits - datatype.signed):
        return None
    return bound


def _any(datatype: Type) -> Bound | None:
    """Of all values of a type that is short and has no sign."""
    return Bound((1 << datatype.bits) - 1, 1) if datatype.kind in "bu" and datatype.size <= 2 else None


def _smaller(left: Bound | None, right: Bound | None) -> Bound | None:
    """Of what is at most as large as either."""
    highs = [bound.high for bound in (left, right) if bound]
    return Bound(min(highs), gcd(left.step, right.step) if left and right else 1) if highs else None


def _masked(i: Instruction, left: Bound | None, right: Bound | None) -> Bound | None:
    found, mask = _smaller(left, right), i.operands[2]
    return Bound(found.high, mask.value & -mask.value if isinstance(mask, Immediate) else 1) if found else None


def _by_constant(i: Instruction, value: Bound | None) -> Bound | None:
    """Shifts, remainders and bit fields, whose second source is a constant."""
    factor = i.operands[2]
    if not isinstance(factor, Immediate):
        return None
    match i.opcode:
        case "shl" if value and factor.value < i.type.bits:
            return Bound(value.high << factor.value, value.step << factor.value)
        case "shr" if value or not i.type.signed:
            return Bound((value.high if value else (1 << i.type.bits) - 1) >> factor.value, 1)
        case "rem" if factor.value and (value or not i.type.signed):
            return Bound(factor.value - 1, 1)
        case "bfe" if not i.type.signed:
            length = i.operands[3]
            if isinstance(length, Immediate) and 0 <= length.value < HIGH_MAX.bit_length():
                return Bound((1 << length.value) - 1, 1)
    return None
