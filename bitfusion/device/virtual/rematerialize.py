"""Values that are cheaper computed again than saved, and how an integer value changes from one thread of a row to the
next.

A register is *rematerializable* if it has one unpredicated definition that depends only on special registers, kernel
parameters and constants, through a short chain of plain integer instructions. After a suspension point such a chain is
executed again: nothing is saved, and addresses stay visibly linear in ``%tid.x``, which the vectoriser needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bitfusion.device.virtual.effects import destinations, reads, sources
from bitfusion.device.virtual.liveness import Liveness
from bitfusion.device.virtual.syntax import (
    Address,
    Function,
    Immediate,
    Instruction,
    Operand,
    Register,
    SpecialRegister,
    Symbol,
)
from bitfusion.device.virtual.uniform import TIMERS

CHAIN_SIZE_MAX = 24
"""Instructions to compute one value again: about what storing and loading it costs in a vectorised loop."""

COEFFICIENT_MAX = 1 << 16
"""Bytes or elements. Beyond that a row of threads spans more memory than the bounds check of a row looks at; and numbers that
grow so little cannot go all round 64 bits between the ends of a row, nor more than once round 32.
"""

_PLAIN = frozenset(
    [
        "mov",
        "cvt",
        "cvta",
        "add",
        "sub",
        "mul",
        "mad",
        "shl",
        "shr",
        "and",
        "or",
        "xor",
        "not",
        "neg",
        "setp",
        "selp",
        "min",
        "max",
        "bfe",
        "bfi",
        "mul24",
        "mad24",
        "abs",
    ]
)
_PACKED = frozenset({"f16x2", "bf16x2", "u16x2", "s16x2"})
_SAME_IN_ROW = frozenset({"ntid", "ctaid", "nctaid"})

Chains = Mapping[str, tuple[Instruction, ...]]


def rematerializable(function: Function, liveness: Liveness) -> Chains:
    """Register -> the instructions, in order, that compute it."""
    candidates = {
        name: definitions[0]
        for name, definitions in liveness.definitions.items()
        if len(definitions) == 1 and is_plain(function, definitions[0])
    }
    chains: dict[str, tuple[Instruction, ...]] = {}
    while True:
        known = len(chains)
        for name, instruction in list(candidates.items()):
            needed = reads(instruction)
            if not all(register in chains for register in needed):
                continue
            chain = dict.fromkeys(step for register in needed for step in chains[register])
            chain[instruction] = None
            if len(chain) <= CHAIN_SIZE_MAX:
                chains[name] = tuple(chain)
            del candidates[name]
        if len(chains) == known:
            return chains


def is_plain(function: Function, instruction: Instruction) -> bool:
    """Whether the instruction does nothing but compute one integer or predicate, the same whenever it is executed."""
    if instruction.predicate is not None or "cc" in instruction.modifiers or len(destinations(instruction)) != 1:
        return False
    if instruction.opcode == "ld":
        return is_parameter_load(function, instruction)
    if instruction.opcode not in _PLAIN or _PACKED.intersection(instruction.modifiers[-1:]):
        return False
    return not any(
        isinstance(operand, SpecialRegister) and operand.name.partition(".")[0] in TIMERS
        for operand in sources(instruction)
    )


def is_parameter_load(function: Function, load: Instruction) -> bool:
    """A scalar load of a parameter of the kernel itself (not of a call's)."""
    address = load.operands[-1]
    return (
        "param" in load.modifiers
        and load.vector_size == 1
        and isinstance(address, Address)
        and isinstance(address.base, Symbol)
        and address.base.name not in function.variables
    )


class RowCoefficients:
    """By how much an integer value grows from one thread of a row to the next (``%tid.x`` + 1), if that is a constant."""

    def __init__(self, chains: Chains, given: Mapping[str, int] | None = None) -> None:
        """``chains`` gives the definition of each register as its last instruction; of ``given`` ones it is known."""
        self._chains = chains
        self._given = given or {}
        self._known: dict[str, int | None] = {}

    def of(self, operand: Operand) -> int | None:
        """The coefficient of ``%tid.x``; None if the value is not linear in it (or that cannot be seen)."""
        match operand:
            case Immediate() | Symbol():
                return 0
            case SpecialRegister(name):
                return special_coefficient(name)
            case Register(name) if name in self._given:
                return self._given[name]
            case Register(name) if name in self._chains:
                if name not in self._known:
                    self._known[name] = self._of_result(self._chains[name][-1])
                return self._known[name]
        return None

    def _of_result(self, instruction: Instruction) -> int | None:
        if instruction.opcode == "ld":
            return 0
        inputs = [self.of(operand) for operand in sources(instruction)]
        values = [value for value in inputs if value is not None]
        return combined_coefficient(instruction, values) if len(values) == len(inputs) else None

    def widened(self, steps: Iterable[Instruction]) -> tuple[tuple[str, int], ...]:
        """(register, coefficient) of values that grow and are wider than what they are computed from.

        There a wrap-around becomes a jump. Only two jumps can cancel: of one alone the final value tells.
        """
        wider = [name for step in steps if _widens(step) for name in destinations(step)]
        found = [(name, growth) for name in wider if (growth := self.of(Register(name)))]
        return tuple(found) if len(found) > 1 else ()


def _widens(instruction: Instruction) -> bool:
    if instruction.opcode == "cvt":
        return instruction.types[0].bits > instruction.types[-1].bits
    return instruction.opcode in ("mul", "mad") and instruction.has("wide")


def special_coefficient(name: str) -> int | None:
    """Of the special register ``%name``."""
    if name == "tid.x":
        return 1
    return 0 if name in ("tid.y", "tid.z") or name.partition(".")[0] in _SAME_IN_ROW else None


def combined_coefficient(instruction: Instruction, values: list[int]) -> int | None:
    """The result's coefficient from those of the sources; None if it need not be linear, or grows by COEFFICIENT_MAX or more."""
    found = _combined(instruction, values)
    return found if found is not None and abs(found) < COEFFICIENT_MAX else None


def _combined(instruction: Instruction, values: list[int]) -> int | None:
    if is_sign(instruction):
        return 0
    if instruction.has("sat"):
        return 0 if not any(values) else None
    match instruction.opcode, values:
        case (("mov" | "cvta"), [value]):
            return value
        case "cvt", [value] if not any(datatype.float for datatype in instruction.types):
            return value
        case "add", [left, right]:
            return left + right
        case "sub", [left, right]:
            return left - right
        case (("mul" | "mad" | "shl"), _):
            return _product_coefficient(instruction, values)
        case "selp", [left, right, 0]:  # one of the two for the whole row
            return left or right
    return 0 if not any(values) else None


def _product_coefficient(instruction: Instruction, values: list[int]) -> int | None:
    """``mul``, ``mad`` and ``shl``: linear if the second factor is a constant."""
    factor = instruction.operands[2]
    if not values[0] and not values[1]:
        product = 0
    elif not isinstance(factor, Immediate) or instruction.has("hi"):
        return None
    elif instruction.opcode == "shl":
        product = values[0] << min(max(factor.value, 0), 64)
    else:
        product = values[0] * factor.value
    return product + values[2] if instruction.opcode == "mad" else product


def is_sign(instruction: Instruction) -> bool:
    """``shr.s32 x, 31``, ``and.b32 x, 0x80000000``: changes at most once along a row, which a look at both ends notices.

    16 bits may change their sign more often: COEFFICIENT_MAX is no limit to them.
    """
    if instruction.opcode not in ("shr", "and") or instruction.type.bits < 32:
        return False
    operand, bits = instruction.operands[2], instruction.type.bits
    if not isinstance(operand, Immediate):
        return False
    sign = 1 << (bits - 1)
    return operand.value == bits - 1 if instruction.opcode == "shr" else operand.value & (2 * sign - 1) == sign
