"""Computes ahead of a region what an access in it will address: the guard of a row looks at both ends with it.

The *slice* of a register is the plain integer instructions, in order, that compute it on the way from the region's start
to the access. The way is the blocks every thread passes exactly once: those that dominate the access and are in no loop.
A value that may also come from another block has no slice.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bitfusion.device.virtual.effects import destinations, reads, writes
from bitfusion.device.virtual.flow import Block, reach, running
from bitfusion.device.virtual.plan import Plan
from bitfusion.device.virtual.rematerialize import Chains, RowCoefficients, is_plain
from bitfusion.device.virtual.syntax import Instruction, Register

SLICE_SIZE_MAX = 64
"""Instructions: they are executed twice for every row, instead of a check for every thread."""


@dataclass(frozen=True, slots=True)
class Slice:
    """``steps`` compute ``register`` from ``given`` ones; it grows by ``coefficient`` from thread to thread.

    ``widened``: see ``RowCoefficients``.
    """

    register: str
    steps: tuple[Instruction, ...]
    given: frozenset[str]
    coefficient: int
    widened: tuple[tuple[str, int], ...]


class Slicer:
    """Finds slices in the blocks ``names`` of a region that begins at ``start``.

    ``given``: registers which the region has at hand, and by how much they grow per thread.
    """

    def __init__(self, plan: Plan, names: list[str], start: str, given: Mapping[str, int]) -> None:
        self._plan = plan
        self._given = given
        self._start = start
        self._blocks = {name: plan.graph[name] for name in names}
        self._successors = running(self._blocks)
        self._dominators = self._find_dominators()
        self._looping = {name for name in names if name in reach(self._successors[name], self._successors)}

    def find(self, register: str, name: str, index: int) -> Slice | None:
        """The slice of a register as instruction ``index`` of block ``name`` reads it; None if it has none."""
        if name in self._looping:  # it may read another value each time, unless that can be computed anywhere
            chain = self._plan.chains.get(register)
            return None if chain is None else self._slice(register, chain, [], frozenset())
        way = sorted(
            self._dominators[name] - self._looping, key=lambda block: len(self._dominators[block]), reverse=True
        )
        elsewhere = {
            register for other in self._blocks if other not in way for register in _written(self._blocks[other])
        }
        steps: list[Instruction] = []
        chains = self._plan.chains
        needed, chained = _split([register], chains)
        for passed in way:
            instructions = self._blocks[passed].instructions
            for instruction in reversed(instructions[: index if passed == name else len(instructions)]):
                if needed.isdisjoint(writes(instruction)):
                    continue
                if not is_plain(self._plan.function, instruction) or len(steps) == SLICE_SIZE_MAX:
                    return None
                steps.append(instruction)
                more, more_chained = _split(reads(instruction), chains)
                needed = (needed - set(writes(instruction))) | more
                chained |= more_chained
            if not needed.isdisjoint(elsewhere):
                return None
        if not self._given.keys() >= needed:
            return None
        return self._slice(
            register, dict.fromkeys(s for c in chained for s in chains[c]), steps[::-1], frozenset(needed)
        )

    def precedes(self, earlier: tuple[str, int], later: tuple[str, int]) -> bool:
        """Whether the region always passes the instruction at one place (block, number) before that at the other."""
        if earlier[0] == later[0]:
            return earlier[1] < later[1]
        return earlier[0] in self._dominators[later[0]]

    def _slice(
        self, register: str, chained: Iterable[Instruction], steps: list[Instruction], given: frozenset[str]
    ) -> Slice | None:
        """None if the register does not grow evenly."""
        own: dict[str, tuple[Instruction, ...]] = {}
        for step in steps:
            for name in destinations(step):
                if name not in self._plan.uniform and (name in own or name in self._given):
                    return None
                own[name] = (step,)
        known = {**self._given, **dict.fromkeys(self._plan.uniform, 0)}
        coefficients = RowCoefficients(ChainMap(own, dict(self._plan.chains)), known)
        coefficient = coefficients.of(Register(register))
        if coefficient is None:
            return None
        steps = [*chained, *steps]
        return Slice(register, tuple(steps), given, coefficient, coefficients.widened(steps))

    def _find_dominators(self) -> dict[str, set[str]]:
        """Block -> the blocks every way from the start to it passes, with itself: without those it is not reached."""
        dominators: dict[str, set[str]] = {name: {name} for name in self._blocks}
        for avoided in self._blocks:
            for name in self._blocks.keys() - reach([self._start], self._successors, avoided):
                dominators[name].add(avoided)
        return dominators


def _split(registers: Iterable[str], chains: Chains) -> tuple[set[str], set[str]]:
    """Registers to look for, and those that can be computed anywhere."""
    found = set(registers)
    return found - chains.keys(), found & chains.keys()


def _written(block: Block) -> Iterable[str]:
    return (name for instruction in block.all_instructions() for name in writes(instruction))
