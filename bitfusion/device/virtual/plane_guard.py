"""Looks once at all rows of a plane, where ``guard`` looks at each: blocks of 16 x 16 threads have short rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bitfusion.device.virtual.bounded import Bound
from bitfusion.device.virtual.builder import FALSE, TRUE, Value
from bitfusion.device.virtual.datatypes import BITS_OF_LLVM, TYPES
from bitfusion.device.virtual.effects import destinations, reads
from bitfusion.device.virtual.guard import Group, RowEmitter, RowGuard, grouped, is_aligned, is_valid
from bitfusion.device.virtual.plan import Plan
from bitfusion.device.virtual.plane import Affine, Plane, compared, find_affine, measure
from bitfusion.device.virtual.row_slice import Slice
from bitfusion.device.virtual.syntax import Instruction, Register, SpecialRegister


@dataclass(frozen=True, slots=True)
class PlaneGuard:
    """Everything that the guard of a row decides, as values that are affine in a plane."""

    predicates: dict[str, Affine]
    addresses: dict[Group, Affine]


@dataclass(frozen=True, slots=True)
class PlaneDecided:
    """What is known of a plane where ``holds`` is set: the outcomes of tests, and for each group of accesses where it starts in the
    first row and how that grows from row to row; for gathers, whether all that they might touch is valid.
    """

    holds: Value
    predicates: dict[str, Value]
    starts: dict[Group, tuple[Value, Value]]
    gathers: dict[Group, Value]

    def values(self) -> list[Value]:
        """All of them, in an order that ``replaced`` knows."""
        starts = [value for pair in self.starts.values() for value in pair]
        return [self.holds, *self.predicates.values(), *starts, *self.gathers.values()]

    def replaced(self, values: list[Value]) -> PlaneDecided:
        """The same with other values."""
        following = iter(values)
        return PlaneDecided(
            next(following),
            {name: next(following) for name in self.predicates},
            {group: (next(following), next(following)) for group in self.starts},
            {group: next(following) for group in self.gathers},
        )


def find_plane_guard(region: RowEmitter, plan: Plan, guard: RowGuard) -> PlaneGuard | None:
    """None if there is nothing to decide, the block has no rows that the kernel knows of, or something may not be affine."""
    if not guard or not any(
        isinstance(operand, SpecialRegister) and operand.name == "tid.y"
        for instruction in plan.function.instructions()
        for operand in instruction.operands
    ):
        return None
    uniform = plan.uniform

    def bits(name: str) -> int:
        return BITS_OF_LLVM[region.registers.storage(name)]

    predicates: dict[str, Affine | None] = {}
    for test in guard.tests:
        *steps, comparison = plan.chains[test.predicate]
        other = next(operand for operand in comparison.operands[1:3] if operand is not test.value)
        affine = find_affine(bits, steps, (), uniform, test.value, test.datatype)
        predicates[test.predicate] = affine and compared(affine, comparison, other, uniform)
    addresses = {
        group: find_affine(bits, group[0].steps, group[0].given, uniform, Register(group[0].register), TYPES["u64"])
        for group in grouped(guard.accesses)
    }
    found = PlaneGuard(
        {name: affine for name, affine in predicates.items() if affine},
        {group: affine for group, affine in addresses.items() if affine},
    )
    complete = len(found.predicates) == len(predicates) and len(found.addresses) == len(addresses)
    return found if complete else None


def emit_plane_guard(e: RowEmitter, guard: RowGuard, found: PlaneGuard, plane: Plane) -> PlaneDecided:
    """Decide for a plane of several rows."""
    decided = PlaneDecided(TRUE, {}, {}, {})
    holds = TRUE
    for name, affine in found.predicates.items():
        measured = measure(e, affine, plane)
        decided.predicates[name] = measured.outcome
        holds = e.op("and", holds, measured.holds)
    ranges: dict[tuple[str, Instruction | Group], list[tuple[Value, Value]]] = {}
    for group, accesses in grouped(guard.accesses).items():
        slice_, space, spread = group
        measured = measure(e, found.addresses[group], plane)
        low = e.op("add", measured.low, min(access.offset for access in accesses))
        reach = max(access.offset + access.size for access in accesses) + (spread or Bound(0, 0)).high
        high = e.op("add", measured.high, reach)
        good = e.op("and", measured.holds, is_aligned(e, accesses, e.op("or", measured.low, measured.pitch)))
        if spread is not None:
            decided.gathers[group] = e.op("and", good, is_valid(e, space, low, high))
            continue
        decided.starts[group] = measured.start, measured.pitch
        holds = e.op("and", holds, good)
        ranges.setdefault((space, _array(slice_) or group), []).append((low, high))
    for (space, _), parts in ranges.items():
        holds = e.op("and", holds, is_valid(e, space, *_union(e, parts)))
    return replace(decided, holds=holds)


def _array(slice_: Slice) -> Instruction | None:
    """The load of the pointer that the address is a sum of, if there is one: rows above and below are parts of one array, so all of
    it is looked at at once. (Were it two arrays, the rows would be looked at one by one.)
    """
    made = {name: step for step in slice_.steps for name in destinations(step)}
    pointers = []
    waiting, seen = [slice_.register], {slice_.register}
    while waiting:
        step = made.get(waiting.pop())
        if step is not None and step.opcode == "ld":
            pointers.append(step)
        elif step is not None and step.opcode in ("add", "sub", "mov", "cvta"):
            waiting += set(reads(step)) - seen
            seen.update(reads(step))
    return pointers[0] if len(pointers) == 1 else None


def _union(e: RowEmitter, parts: list[tuple[Value, Value]]) -> tuple[Value, Value]:
    """The range from the lowest start to the highest end."""
    (low, high), *others = parts
    for start, end in others:
        low, high = e.intrinsic("smin", low, start), e.intrinsic("smax", high, end)
    return low, high


def nothing_known(decided: PlaneDecided) -> list[Value]:
    """Values that say that nothing is decided."""
    return [FALSE if value.type == "i1" else Value(value.type, "0") for value in decided.values()]
