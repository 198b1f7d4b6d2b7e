"""Decides for a whole row of threads what every thread would have to test: ``if (i < n)`` and the bounds of its
accesses.

A comparison of a value that is linear in ``%tid.x`` with one that is the same in the row can change its outcome only
once along the row: if both ends agree (and the value did not wrap around), all threads agree. A linear address stays
between those of the two ends. If everything holds, a copy of the loop without these tests runs: branches, masked stores
and checks are gone, and LLVM vectorises it. There an access that does not grow along the row, but cannot go far either
(``gather``), is checked only if not all it might touch is valid.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from bitfusion.device.virtual.address import state_space
from bitfusion.device.virtual.bounded import Bound
from bitfusion.device.virtual.builder import FALSE, TRUE, Value
from bitfusion.device.virtual.datatypes import Type
from bitfusion.device.virtual.emitter import LAUNCH_POINTER, MEMORY_BASE, MEMORY_SIZE, SHADOW, SHARED_SIZE, Emitter
from bitfusion.device.virtual.gather import Gatherer, Place
from bitfusion.device.virtual.instructions import emit_unpredicated
from bitfusion.device.virtual.layout import GRANULE, RUNTIME_FUNCTIONS, THREADS_MAX
from bitfusion.device.virtual.plan import Plan
from bitfusion.device.virtual.rematerialize import RowCoefficients, is_sign
from bitfusion.device.virtual.row_slice import Slice, Slicer
from bitfusion.device.virtual.syntax import Address, Instruction, Operand, Register

TEST_COUNT_MAX = 4
REGION_SIZE_MAX = 400
"""Instructions: the loop is copied, which larger ones do not repay."""

_ORDERED = ("lt", "le", "gt", "ge", "lo", "ls", "hi", "hs")


class RowEmitter(Emitter):
    """What a guard needs of a region."""

    even: Mapping[str, int]
    """Saved registers that are thought to grow evenly along a row, and by how much."""

    @abstractmethod
    def row_value(self, name: str, x: Value) -> Value:
        """What an even register then holds in the thread ``x``."""


@dataclass(frozen=True, slots=True)
class _Test:
    """``predicate`` compares ``value``, which grows by ``coefficient`` per thread. ``widened``: see ``RowCoefficients``."""

    predicate: str
    datatype: Type
    coefficient: int
    value: Operand
    widened: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class RowAccess:
    """An access at ``slice`` and ``offset``, or anywhere from there on within ``spread``."""

    instruction: Instruction
    space: str
    offset: int
    size: int
    slice: Slice
    spread: Bound | None = None


Group = tuple[Slice, str, Bound | None]
"""Accesses that start from one address: that address, the state space, and how far they may go from there."""


@dataclass(frozen=True, slots=True)
class RowGuard:
    """What can be decided for a row."""

    tests: tuple[_Test, ...] = ()
    accesses: tuple[RowAccess, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.tests or self.accesses)


def find_guard(region: RowEmitter, plan: Plan, names: list[str], start: str) -> RowGuard:
    """The tests and accesses that a guard can decide in the region of the blocks ``names`` that begins at ``start``.

    A kernel with suspension points is worth a guard for its accesses only: it has more code to copy.
    """
    instructions = [instruction for name in names for instruction in plan.graph[name].instructions]
    if len(instructions) > REGION_SIZE_MAX:
        return RowGuard()
    accesses: list[RowAccess] = []
    spaces = _row_spaces(region)
    if spaces:
        slicer = Slicer(plan, names, start, {**dict.fromkeys(region.shared_values, 0), **region.even})
        gatherer = Gatherer(slicer, plan.liveness, {name: plan.graph[name] for name in names})
        for name in names:
            for index, instruction in enumerate(plan.graph[name].instructions):
                accesses += _row_access(region, slicer, gatherer, spaces, instruction, (name, index))
    if plan.points and not accesses:
        return RowGuard()
    coefficients = RowCoefficients(plan.chains)
    tests = [test for i in instructions if (test := _test(plan, coefficients, i))]
    return RowGuard(tuple(tests[:TEST_COUNT_MAX]), tuple(accesses))


def _row_spaces(region: RowEmitter) -> tuple[str, ...]:
    """The state spaces in which accesses are looked at: where there are checks to save, or a loop whose data must be seen
    to lie in a row.
    """
    found = ("global", "const") if region.options.bounds_check else ("global",) if region.even else ()
    return (*found, "shared") if region.options.shared_check else found


def _test(plan: Plan, coefficients: RowCoefficients, i: Instruction) -> _Test | None:
    if i.opcode != "setp" or i.predicate is not None or len(i.operands) != 3 or not i.has(*_ORDERED) or i.type.float:
        return None
    target, left, right = i.operands
    if not isinstance(target, Register) or target.name not in plan.chains or target.name in plan.uniform:
        return None
    left_coefficient, right_coefficient = coefficients.of(left), coefficients.of(right)
    if left_coefficient is None or right_coefficient is None or (left_coefficient == 0) == (right_coefficient == 0):
        return None
    coefficient = left_coefficient or right_coefficient
    if abs(coefficient) * THREADS_MAX >= 1 << i.type.bits:  # 16 bits may wrap around to beyond where they began
        return None
    value = left if left_coefficient else right
    return _Test(target.name, i.type, coefficient, value, coefficients.widened(plan.chains[target.name]))


def _row_access(
    region: RowEmitter, slicer: Slicer, gatherer: Gatherer, spaces: tuple[str, ...], i: Instruction, place: Place
) -> list[RowAccess]:
    """The access of an instruction, if its address grows evenly along the row, or is checked and cannot go far."""
    space = state_space(i)
    if i.opcode not in ("ld", "st", "atom", "red") or space not in spaces or len(i.operands) < 2:
        return []
    address = i.operands[0 if i.opcode in ("st", "red") else 1]
    if not isinstance(address, Address) or not isinstance(address.base, Register):
        return []
    register, size = address.base.name, i.type.size * i.vector_size
    even = slicer.find(register, *place)
    if even is not None:
        return [RowAccess(i, space, address.offset, size, even)]
    if space != "shared" and not region.options.bounds_check:
        return []
    bits = 32 if space == "shared" and region.registers.storage(register) == "i32" else 64
    found = gatherer.find(register, place, bits)
    return [] if found is None else [RowAccess(i, space, address.offset, size, *found)]


@dataclass(frozen=True, slots=True)
class Decided:
    """What is known of a row where ``holds`` is set: tested predicates, where the accesses of its first thread start from, and for
    gathers whether all that they might touch is valid.
    """

    holds: Value
    predicates: dict[str, Value]
    starts: dict[Group, Value]
    gathers: dict[Group, Value]


def emit_guard(e: RowEmitter, plan: Plan, guard: RowGuard, first: Value, end: Value) -> Decided:
    """Decide for the row of threads first <= x < end."""
    last = e.op("sub", end, 1)
    span = e.op("sub", last, first)
    decided = Decided(TRUE, {}, {}, {})
    holds = TRUE
    for test in guard.tests:
        same, decided.predicates[test.predicate] = _same_outcome(e, plan, test, first, last, span)
        holds = e.op("and", holds, same)
    for group, accesses in grouped(guard.accesses).items():
        inside, address = _inside(e, group[0], group[1], accesses, first, last, span)
        if group[2] is not None:
            decided.gathers[group] = inside
            continue
        holds = e.op("and", holds, inside)
        decided.starts[group] = address
    return replace(decided, holds=holds)


def grouped(accesses: Iterable[RowAccess]) -> dict[Group, list[RowAccess]]:
    """Accesses by the address they start from, the state space, and how far they may go from there."""
    groups: dict[Group, list[RowAccess]] = {}
    for access in accesses:
        groups.setdefault((access.slice, access.space, access.spread), []).append(access)
    return groups


def _test_at(e: Emitter, plan: Plan, test: _Test, x: Value) -> tuple[Value, Value, list[Value]]:
    """(the outcome of the comparison, the compared value, what the row must have in common) in the thread ``x`` of the row."""
    thread, e.thread = e.thread, replace(e.thread, x=x)
    e.registers.forget()
    kept = _compute(e, plan.chains[test.predicate], test.widened)
    found = (
        e.registers.get(test.predicate, e.registers.storage(test.predicate)),
        e.read(test.value, test.datatype),
        kept,
    )
    e.registers.forget()
    e.thread = thread
    return found


def _same_outcome(e: Emitter, plan: Plan, test: _Test, first: Value, last: Value, span: Value) -> tuple[Value, Value]:
    """(whether the comparison gives the same at both ends and the compared value did not wrap around or jump in between,
    what it gives)
    """
    first_outcome, first_value, first_kept = _test_at(e, plan, test, first)
    last_outcome, last_value, last_kept = _test_at(e, plan, test, last)
    expected = e.op("mul", e.bits(span, first_value.type), test.coefficient)
    linear = e.icmp("eq", e.op("sub", last_value, first_value), expected)
    prefix = "s" if test.datatype.signed else "u"
    monotonic = e.icmp(prefix + ("ge" if test.coefficient > 0 else "le"), last_value, first_value)
    holds = _same(e, e.op("and", linear, monotonic), first_kept, last_kept)
    return e.op("and", holds, e.icmp("eq", first_outcome, last_outcome)), first_outcome


def _same(e: Emitter, holds: Value, first: list[Value], last: list[Value]) -> Value:
    """``holds``, if also no value jumps along the row, with a sign or by wrapping around: so would what follows from it."""
    for one, other in zip(first, last, strict=True):
        holds = e.op("and", holds, e.icmp("eq", one, other))
    return holds


def _inside(
    e: RowEmitter, slice_: Slice, space: str, accesses: list[RowAccess], first: Value, last: Value, span: Value
) -> tuple[Value, Value]:
    """(whether the address grows evenly, all bytes from the lowest to the highest access of the row are valid, and every
    access is aligned; the address in the first thread).
    """
    (first_address, first_kept), (last_address, last_kept) = (_address_at(e, slice_, x) for x in (first, last))
    expected = e.op("mul", e.zext(span, "i64"), slice_.coefficient)
    linear = e.icmp("eq", e.op("sub", last_address, first_address), expected)
    holds = _same(e, linear, first_kept, last_kept)
    low, high = (first_address, last_address)[:: 1 if slice_.coefficient >= 0 else -1]
    start = e.op("add", low, min(access.offset for access in accesses))
    spread = accesses[0].spread or Bound(0, 0)
    end = e.op("add", high, max(access.offset + access.size for access in accesses) + spread.high)
    holds = e.op("and", holds, is_valid(e, space, start, end))
    return e.op("and", holds, is_aligned(e, accesses, low)), first_address


def is_aligned(e: Emitter, accesses: list[RowAccess], bits: Value) -> Value:
    """Whether the accesses of a group are aligned; ``bits``: those of the address they start from, and by how much it grows from row
    to row.
    """
    size = max(access.size for access in accesses)
    slice_, spread = accesses[0].slice, accesses[0].spread or Bound(0, 0)
    if (spread.step | slice_.coefficient) % size or any(access.offset % access.size for access in accesses):
        return FALSE
    return e.icmp("eq", e.op("and", bits, size - 1), 0) if size > 1 else TRUE


def is_valid(e: Emitter, space: str, start: Value, end: Value) -> Value:
    """Whether the bytes [start, end) may be touched."""
    if space == "shared":
        return e.op("and", e.icmp("ult", start, end), e.icmp("ule", end, SHARED_SIZE))
    if not e.options.bounds_check:
        return TRUE
    return _valid_device_memory(e, start, end)


def _valid_device_memory(e: Emitter, start: Value, end: Value) -> Value:
    """What ``ptx_range`` answers; a short row touches at most two granules, whose entries in the shadow table are looked at
    here.
    """
    first, last = e.op("sub", start, MEMORY_BASE), e.op("sub", e.op("sub", end, MEMORY_BASE), 1)
    granules = [e.op("lshr", distance, GRANULE.bit_length() - 1) for distance in (first, last)]
    crossed = e.op("sub", granules[1], granules[0])
    near = e.op("and", e.icmp("ult", crossed, 2), e.icmp("ult", last, MEMORY_SIZE))
    entries = [e.select(near, e.op("shl", granule, 1), 0) for granule in granules]
    filled, reaching = (e.zext(e.load("i16", e.offset(SHADOW, entry)), "i64") for entry in entries)
    whole = e.op("or", e.icmp("eq", crossed, 0), e.icmp("eq", filled, GRANULE))
    good = e.op("and", e.op("and", near, whole), e.icmp("ugt", reaching, e.op("and", last, GRANULE - 1)))

    def look_at_all() -> Value:
        call = e.call_external(RUNTIME_FUNCTIONS["ptx_range"], e.address(LAUNCH_POINTER), start, end)
        return e.icmp("ne", call, 0)

    return e.unless(good, TRUE, look_at_all)


def _address_at(e: RowEmitter, slice_: Slice, x: Value) -> tuple[Value, list[Value]]:
    """(the address register's value, what the row must have in common) in the thread ``x`` of the row."""
    thread, e.thread = e.thread, replace(e.thread, x=x)
    e.registers.forget()
    for name in slice_.given:
        e.registers.set(name, e.shared_values[name] if name in e.shared_values else e.row_value(name, x))
    kept = _compute(e, slice_.steps, slice_.widened)
    address = e.registers.get(slice_.register, "i64")
    e.registers.forget()
    e.thread = thread
    return address, kept


def _compute(e: Emitter, steps: Iterable[Instruction], widened: Iterable[tuple[str, int]]) -> list[Value]:
    """Execute the steps for the emitter's thread. What must be the same at both ends of the row, or a value jumps in between:
    signs, and the widened values without their growth.
    """
    kept, growths = [], dict(widened)
    for step in steps:
        emit_unpredicated(e, step)
        if not isinstance(step.operands[0], Register):
            continue
        name = step.operands[0].name
        if is_sign(step):
            kept.append(e.registers.get(name, step.type.llvm))
        elif name in growths:
            value = e.registers.get(name, e.registers.storage(name))
            kept.append(e.op("sub", value, e.op("mul", e.bits(e.thread.x, value.type), growths[name])))
    return kept
