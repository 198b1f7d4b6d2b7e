"""Decides for a whole row of threads what every thread would have to test: ``if (i < n)`` and the bounds of its
accesses.

A comparison of a value that is linear in ``%tid.x`` with one that is the same in the row can change its outcome only
once along the row: if both ends agree (and the value did not wrap around), all threads agree. A linear address stays
between those of the two ends. If everything holds, a copy of the loop without these tests runs: branches, masked stores
and checks are gone, and LLVM vectorises it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bitfusion.device.virtual.address import state_space
from bitfusion.device.virtual.builder import FALSE, TRUE, Value
from bitfusion.device.virtual.datatypes import Type
from bitfusion.device.virtual.emitter import LAUNCH_POINTER, SHARED_SIZE, Emitter
from bitfusion.device.virtual.instructions import emit_unpredicated
from bitfusion.device.virtual.layout import RUNTIME_FUNCTIONS, CompileOptions
from bitfusion.device.virtual.plan import Plan
from bitfusion.device.virtual.rematerialize import RowCoefficients
from bitfusion.device.virtual.row_slice import Slice, Slicer
from bitfusion.device.virtual.syntax import Address, Instruction, Operand, Register

TEST_COUNT_MAX = 4
REGION_SIZE_MAX = 400
"""Instructions: the loop is copied, which larger ones do not repay."""

_ORDERED = ("lt", "le", "gt", "ge", "lo", "ls", "hi", "hs")


@dataclass(frozen=True, slots=True)
class _Test:
    """``predicate`` compares ``value``, which grows by ``coefficient`` per thread."""

    predicate: str
    datatype: Type
    coefficient: int
    value: Operand


@dataclass(frozen=True, slots=True)
class _RowAccess:
    instruction: Instruction
    space: str
    offset: int
    size: int
    slice: Slice


@dataclass(frozen=True, slots=True)
class RowGuard:
    """What can be decided for a row."""

    tests: tuple[_Test, ...]
    accesses: tuple[_RowAccess, ...]

    def __bool__(self) -> bool:
        return bool(self.tests or self.accesses)

    @property
    def instructions(self) -> set[Instruction]:
        """Accesses that need no check of their own where the guard holds."""
        return {access.instruction for access in self.accesses}


def find_guard(region: Emitter, plan: Plan, names: list[str], start: str) -> RowGuard:
    """The tests and accesses that a guard can decide in the region of the blocks ``names`` that begins at ``start``.

    A kernel with suspension points is worth a guard for its accesses only: it has more code to copy.
    """
    instructions = [instruction for name in names for instruction in plan.graph[name].instructions]
    if len(instructions) > REGION_SIZE_MAX:
        return RowGuard((), ())
    accesses: list[_RowAccess] = []
    if region.options.bounds_check:
        slicer = Slicer(plan, names, start, region.shared_values)
        for name in names:
            for index, instruction in enumerate(plan.graph[name].instructions):
                accesses += _row_access(slicer, region.options, instruction, name, index)
    if plan.points and not accesses:
        return RowGuard((), ())
    coefficients = RowCoefficients(plan.chains)
    tests = [test for i in instructions if (test := _test(plan, coefficients, i))]
    return RowGuard(tuple(tests[:TEST_COUNT_MAX]), tuple(accesses))


def _test(plan: Plan, coefficients: RowCoefficients, i: Instruction) -> _Test | None:
    if i.opcode != "setp" or i.predicate is not None or len(i.operands) != 3 or not i.has(*_ORDERED) or i.type.float:
        return None
    target, left, right = i.operands
    if not isinstance(target, Register) or target.name not in plan.chains or target.name in plan.uniform:
        return None
    left_coefficient, right_coefficient = coefficients.of(left), coefficients.of(right)
    if left_coefficient is None or right_coefficient is None or (left_coefficient == 0) == (right_coefficient == 0):
        return None
    return _Test(target.name, i.type, left_coefficient or right_coefficient, left if left_coefficient else right)


def _row_access(slicer: Slicer, options: CompileOptions, i: Instruction, name: str, index: int) -> list[_RowAccess]:
    """The access of instruction ``index`` of block ``name``, if its address grows evenly along the row."""
    space = state_space(i)
    if i.opcode not in ("ld", "st", "atom", "red") or space not in ("global", "shared") or len(i.operands) < 2:
        return []
    if space == "shared" and not options.shared_check:
        return []
    address = i.operands[0 if i.opcode in ("st", "red") else 1]
    if not isinstance(address, Address) or not isinstance(address.base, Register):
        return []
    found = slicer.find(address.base.name, name, index)
    return [] if found is None else [_RowAccess(i, space, address.offset, i.type.size * i.vector_size, found)]


def emit_guard(e: Emitter, plan: Plan, guard: RowGuard, first: Value, end: Value) -> tuple[Value, dict[str, Value]]:
    """(whether the guard holds for the row of threads first <= x < end, the value of each tested predicate then)."""
    last = e.op("sub", end, 1)
    span = e.op("sub", last, first)
    holds = TRUE
    predicates: dict[str, Value] = {}
    for test in guard.tests:
        holds = e.op("and", holds, _same_outcome(e, plan, test, first, last, span))
        predicates[test.predicate] = _at(e, plan, test.predicate, first)
        e.registers.forget()
    distinct = {(access.slice, access.offset, access.size): access for access in guard.accesses}
    shared: dict[Slice, list[_RowAccess]] = {}
    for access in distinct.values():
        if access.space == "shared":
            shared.setdefault(access.slice, []).append(access)
        else:
            holds = e.op("and", holds, _inside(e, access, first, last, span))
    for slice_, accesses in shared.items():
        holds = e.op("and", holds, _inside_shared(e, slice_, accesses, first, last, span))
    return holds, predicates


def _at(e: Emitter, plan: Plan, register: str, x: Value) -> Value:
    """A register's value in the thread ``x`` of the row; leaves what it depends on in the register file."""
    thread = e.thread
    e.thread = replace(thread, x=x)
    e.registers.forget()
    for instruction in plan.chains[register]:
        emit_unpredicated(e, instruction)
    e.thread = thread
    return e.registers.get(register, e.registers.storage(register))


def _same_outcome(e: Emitter, plan: Plan, test: _Test, first: Value, last: Value, span: Value) -> Value:
    """Whether the comparison gives the same at both ends and the compared value did not wrap around in between."""
    ends = []
    for x in (first, last):
        outcome = _at(e, plan, test.predicate, x)
        saved, e.thread = e.thread, replace(e.thread, x=x)
        ends.append((outcome, e.read(test.value, test.datatype)))
        e.thread = saved
    (first_outcome, first_value), (last_outcome, last_value) = ends
    expected = e.op("mul", e.bits(span, first_value.type), test.coefficient)
    linear = e.icmp("eq", e.op("sub", last_value, first_value), expected)
    prefix = "s" if test.datatype.signed else "u"
    monotonic = e.icmp(prefix + ("ge" if test.coefficient > 0 else "le"), last_value, first_value)
    return e.op("and", e.op("and", linear, monotonic), e.icmp("eq", first_outcome, last_outcome))


def _ends(e: Emitter, slice_: Slice, first: Value, last: Value, span: Value) -> tuple[Value, Value, Value]:
    """(whether the address grows evenly, its lowest value in the row, its highest)"""
    ends = [_address_at(e, slice_, x) for x in (first, last)]
    expected = e.op("mul", e.zext(span, "i64"), slice_.coefficient)
    linear = e.icmp("eq", e.op("sub", ends[1], ends[0]), expected)
    low, high = ends if slice_.coefficient >= 0 else ends[::-1]
    return linear, low, high


def _inside_shared(
    e: Emitter, slice_: Slice, accesses: list[_RowAccess], first: Value, last: Value, span: Value
) -> Value:
    """Whether all accesses at one address with several offsets lie in the block's shared memory, and are aligned."""
    linear, low, high = _ends(e, slice_, first, last, span)
    lowest, end = min(access.offset for access in accesses), max(access.offset + access.size for access in accesses)
    start = e.op("add", low, lowest)
    holds = e.op("and", linear, e.icmp("sge", start, 0))
    holds = e.op("and", holds, e.icmp("sle", e.op("add", high, end), SHARED_SIZE))
    holds = e.op("and", holds, e.icmp("sge", high, low))
    size = max(access.size for access in accesses)
    if any(access.offset % access.size for access in accesses):
        return FALSE
    if size > 1:
        unaligned = e.op("and", e.op("or", low, abs(slice_.coefficient)), size - 1)
        holds = e.op("and", holds, e.icmp("eq", unaligned, 0))
    return holds


def _inside(e: Emitter, access: _RowAccess, first: Value, last: Value, span: Value) -> Value:
    """Whether all bytes between the accesses of both ends are valid, and every access is aligned."""
    linear, low, high = _ends(e, access.slice, first, last, span)
    low, high = (e.op("add", end, access.offset) for end in (low, high))
    valid = e.call_external(
        RUNTIME_FUNCTIONS["ptx_range"], e.address(LAUNCH_POINTER), low, e.op("add", high, access.size)
    )
    holds = e.op("and", linear, e.icmp("ne", valid, 0))
    if access.size > 1:
        unaligned = e.op("and", e.op("or", low, abs(access.slice.coefficient)), access.size - 1)
        holds = e.op("and", holds, e.icmp("eq", unaligned, 0))
    return holds


def _address_at(e: Emitter, slice_: Slice, x: Value) -> Value:
    """The address register's value in the thread ``x`` of the row."""
    thread, e.thread = e.thread, replace(e.thread, x=x)
    e.registers.forget()
    for name in slice_.given:
        e.registers.set(name, e.shared_values[name])
    for step in slice_.steps:
        emit_unpredicated(e, step)
    address = e.registers.get(slice_.register, "i64")
    e.registers.forget()
    e.thread = thread
    return address
