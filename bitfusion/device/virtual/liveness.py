"""Which registers hold a value that is still needed, at the borders of basic blocks; and where each register is
written.

A backward data-flow analysis over sets of registers, kept as bit masks (Python integers), iterated to the fixed point.
"""

from __future__ import annotations

from collections.abc import Iterable

from bitfusion.device.virtual.effects import reads, registers_in, writes
from bitfusion.device.virtual.flow import Block, Branch, End, Graph, Switch
from bitfusion.device.virtual.syntax import Function, Instruction


class Liveness:
    """``definitions``: register -> the instructions that write it."""

    def __init__(self, function: Function, graph: Graph) -> None:
        self.definitions: dict[str, list[Instruction]] = {}
        for block in graph.values():
            for instruction in block.all_instructions():
                for name in writes(instruction):
                    self.definitions.setdefault(name, []).append(instruction)
        self._results = [result.name for result in function.results if result.space == "reg"]
        self._graph = graph
        self._bits: dict[str, int] = {}
        self._names: list[str] = []
        self._live_in = dict.fromkeys(graph, 0)
        self._live_out = dict.fromkeys(graph, 0)
        self._solve()

    def live_out(self, block: Block) -> list[str]:
        """Registers needed after the block."""
        return self._registers(self._live_out[block.name])

    def most_alive(self) -> list[str]:
        """The largest set of registers alive at the start of a block."""
        largest = max(self._live_in.values(), key=int.bit_count, default=0)
        return self._registers(largest)

    def _solve(self) -> None:
        effects = {name: self._effect(block) for name, block in self._graph.items()}
        changed = True
        while changed:
            changed = False
            for name in reversed(self._graph):
                used, killed = effects[name]
                after = 0
                for successor in self._graph[name].successors:
                    after |= self._live_in[successor]
                before = used | (after & ~killed)
                self._live_out[name] = after
                changed = changed or before != self._live_in[name]
                self._live_in[name] = before

    def _effect(self, block: Block) -> tuple[int, int]:
        """(read before written, written) in the block."""
        used = killed = 0
        for instruction in block.all_instructions():
            used |= self._mask(reads(instruction)) & ~killed
            killed |= self._mask(writes(instruction))
        match block.terminator:
            case Branch(predicate):
                used |= self._mask([predicate.name]) & ~killed
            case Switch(index):
                used |= self._mask(registers_in(index)) & ~killed
            case End():
                used |= self._mask(self._results) & ~killed
        return used, killed

    def _mask(self, names: Iterable[str]) -> int:
        mask = 0
        for name in names:
            bit = self._bits.get(name)
            if bit is None:
                bit = self._bits[name] = len(self._names)
                self._names.append(name)
            mask |= 1 << bit
        return mask

    def _registers(self, mask: int) -> list[str]:
        names = []
        while mask:
            names.append(self._names[(mask & -mask).bit_length() - 1])
            mask &= mask - 1
        return names
