"""Where a function's .local memory lies, and which of its registers point into it.

A variable whose every use can be followed to its name stays on the stack of the host, where LLVM splits it into registers, and its
accesses are checked against its size. A variable whose address goes anywhere else (to a function, into memory, through a loop) *escapes*:
it lies in the block's local area, the one window that local and generic addresses may reach, so that no address a kernel can make up
leads to the host's own stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from bitfusion.device.virtual.effects import destinations, registers_in, sources, symbols_in
from bitfusion.device.virtual.syntax import (
    Address,
    Declaration,
    Function,
    Immediate,
    Instruction,
    Operand,
    Register,
    Symbol,
)

STACK_SIZE: Final = 256 * 1024
"""Bytes of the local area for what a thread's device functions keep there; CUDA's default is 1 KiB (CU_LIMIT_STACK_SIZE)."""

NATIVE_SIZE: Final = 1 << 20
"""Bytes of the host's stack for the calls of a thread: a main thread has 8 MiB as a rule, and Python above needs some of them."""

FRAME_SIZE_MAX: Final = 4 * 1024
"""Variables above this lie in the local area too: the frames of the host's stack stay small."""

_CHAIN_MAX: Final = 8
"""Additions between a local variable and an access: compilers write at most three."""

_ACCESSES: Final = frozenset({"ld", "ldu", "st", "atom", "red"})
_OTHER_SPACES: Final = ("global", "shared", "const")

Place = tuple[Declaration, int | None]
"""A variable, and the distance into it where that is a constant."""


class LocalMemory:
    """Follows addresses of one function's .local variables. ``definitions``: register -> the instructions that write it."""

    def __init__(self, function: Function, definitions: Mapping[str, list[Instruction]]) -> None:
        self._function = function
        self._definitions = definitions
        self._found: dict[str, Place | None] = {}

    def find(self, register: str, depth: int = 0) -> Place | None:
        """The one .local variable a register provably points into."""
        if register not in self._found:
            place = self._find(register, depth)
            if depth:
                return place  # a longer chain may have been cut short
            self._found[register] = place
        return self._found[register]

    def _find(self, register: str, depth: int) -> Place | None:
        definitions = self._definitions.get(register, [])
        if len(definitions) != 1 or depth > _CHAIN_MAX or definitions[0].predicate is not None:
            return None
        operands = definitions[0].operands
        match definitions[0].opcode, operands[1:]:
            case (("mov" | "cvta"), (Symbol(name, offset),)):
                variable = self._function.variables.get(name)
                return (variable, offset) if variable is not None and variable.space == "local" else None
            case (("mov" | "cvta"), (Register(name),)):
                return self.find(name, depth + 1)
            case "add", (left, right):
                return self._sum(left, right, depth) or self._sum(right, left, depth)
        return None

    def _sum(self, base: Operand, addend: Operand, depth: int) -> Place | None:
        found = self.find(base.name, depth + 1) if isinstance(base, Register) else None
        if found is None:
            return None
        variable, distance = found
        if isinstance(addend, Immediate):
            return variable, None if distance is None else distance + addend.value
        return (variable, None) if isinstance(addend, Register) else None

    def escaping(self) -> frozenset[str]:
        """The .local and .param variables, and the parameters, whose address goes where it cannot be followed; and the large ones."""
        names = {item.name for item in (*self._function.parameters, *self._function.results)}
        names |= self._function.variables.keys()
        large = {v.name for v in self._function.variables.values() if v.space == "local" and v.size > FRAME_SIZE_MAX}
        escaped = {name for i in self._function.instructions() for name in self._escaping_in(i)}
        return frozenset((escaped & names) | large)

    def _escaping_in(self, i: Instruction) -> Iterator[str]:
        if i.call is not None:
            operands: list[Operand] = [operand for operand in i.call.arguments if isinstance(operand, Register)]
        elif self._followed(i):
            return
        else:
            operands = [operand for operand in sources(i) if not self._accessed(i, operand)]
        for operand in operands:
            yield from self._variables_in(operand)

    def _followed(self, i: Instruction) -> bool:
        """Whether the instruction makes an address that ``find`` knows."""
        return i.opcode in ("mov", "cvta", "add") and any(self.find(name) is not None for name in destinations(i))

    def _accessed(self, i: Instruction, operand: Operand) -> bool:
        """Whether the operand is only the address of an access."""
        return isinstance(operand, Address) and i.opcode in _ACCESSES and not i.has(*_OTHER_SPACES)

    def _variables_in(self, operand: Operand) -> Iterator[str]:
        yield from symbols_in(operand)
        for name in registers_in(operand):
            found = self.find(name)
            if found is not None:
                yield found[0].name
