"""Finds accesses that go anywhere, but not far: into a table whose index is a byte, to the counters of a histogram.

The address of a *gather* is a part that can be computed ahead of the region (``row_slice``) and parts whose bounds are known
(``bounded``), so that one look covers whatever a row of threads may touch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bitfusion.device.virtual.address import state_space
from bitfusion.device.virtual.bounded import DEPTH_MAX, Bound, Bounds
from bitfusion.device.virtual.datatypes import Type
from bitfusion.device.virtual.flow import Block
from bitfusion.device.virtual.liveness import Liveness
from bitfusion.device.virtual.row_slice import Slice, Slicer
from bitfusion.device.virtual.syntax import Instruction, Operand, Register

SPREAD_MAX = 1 << 14
"""Bytes: a row should not look at much more of the shadow table than its threads would."""

Place = tuple[str, int]
"""A block, and the number of an instruction in it."""


class Gatherer:
    """Finds gathers in the region whose slices ``slicer`` finds; ``blocks`` are the region's."""

    def __init__(self, slicer: Slicer, liveness: Liveness, blocks: Mapping[str, Block]) -> None:
        self._slicer = slicer
        self._definitions = liveness.definitions
        self._bounds = Bounds(liveness.definitions)
        self._places = {
            instruction: (name, index)
            for name, block in blocks.items()
            for index, instruction in enumerate(block.instructions)
        }

    def find(self, register: str, place: Place, bits: int) -> tuple[Slice, Bound] | None:
        """(what the address starts from, what it goes beyond that) of an address of so many bits, as the instruction at ``place``
        reads it.
        """
        spread = Bound(0, 0)
        for _ in range(DEPTH_MAX):
            slice_ = self._slicer.find(register, *place)
            if slice_ is not None:
                return (slice_, spread) if spread.high < SPREAD_MAX else None
            definition = self._definition(register, place)
            if definition is None or definition.type.bits << definition.has("wide") != bits:
                return None
            for operand, bound in self._sums(definition):
                if isinstance(operand, Register):
                    register, place, spread = operand.name, self._places[definition], spread + bound
                    break
            else:
                return None
        return None

    def _definition(self, register: str, place: Place) -> Instruction | None:
        """The instruction that has written the register, if it is always the same one and has been executed in this region."""
        definitions = self._definitions.get(register, [])
        if len(definitions) != 1 or definitions[0].predicate is not None or not definitions[0].types:
            return None
        written = self._places.get(definitions[0])
        return definitions[0] if written is not None and self._slicer.precedes(written, place) else None

    def _sums(self, i: Instruction) -> Iterator[tuple[Operand, Bound]]:
        """Ways to write the result as an operand and a number that has a bound."""
        if i.has("cc", "sat", "hi"):
            return
        match i.opcode, i.operands:
            case "mov", [_, value]:
                yield value, Bound(0, 0)
            case "cvta", [_, value] if state_space(i) == "global":
                yield value, Bound(0, 0)
            case "add", [_, left, right]:
                yield from self._bounded(left, right, i.type)
                yield from self._bounded(right, left, i.type)
            case "mad", [_, left, right, added]:
                factors = self._bounds.of(left, i.type), self._bounds.of(right, i.type)
                if factors[0] and factors[1]:
                    yield added, factors[0] * factors[1]

    def _bounded(self, start: Operand, added: Operand, datatype: Type) -> Iterator[tuple[Operand, Bound]]:
        bound = self._bounds.of(added, datatype)
        if bound is not None:
            yield start, bound
