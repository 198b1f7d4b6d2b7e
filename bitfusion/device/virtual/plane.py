"""Decides for all rows of a plane (the threads of a block with one ``%tid.z``) what ``guard`` decides for a row.

In a plane an address is *affine*: it grows by a constant from thread to thread, and by some number that the kernel computes (a
pitch) from row to row. The number is measured: the value at the plane's four corners and at the start of its second row must be
those of such a plane, in 64 bits. So must be every value in between that would jump where it wraps around: what is made wider, and
what the sign of which is used. A number that wraps around within the plane differs by the jump at one of its corners.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from bitfusion.device.virtual.builder import FALSE, Value, constant
from bitfusion.device.virtual.datatypes import TYPES, Type
from bitfusion.device.virtual.effects import destinations, sources
from bitfusion.device.virtual.emitter import Emitter
from bitfusion.device.virtual.instructions import emit_unpredicated
from bitfusion.device.virtual.rematerialize import combined_coefficient, is_sign, special_coefficient
from bitfusion.device.virtual.syntax import Immediate, Instruction, Operand, Register, SpecialRegister, Symbol

PITCH_MAX = 1 << 40
"""From row to row: with no more, values below VALUE_MAX do not come near to the ends of 64 bits."""

VALUE_MAX = 1 << 62

THREAD_INDEX_SIZE = 2
"""Bytes that hold any %tid."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a value changes: by ``x`` from thread to thread, and from row to row not (``y`` not set) or by some number."""

    x: int
    y: bool
    small: bool = False
    """It is an index of a thread: whoever makes it wider makes the same number of it."""


@dataclass(frozen=True, slots=True)
class Affine:
    """A value that is affine if all ``watched`` ones are: (the step that uses or makes it, operand, type, how it changes).

    ``ring``: it is affine for certain if signs stay the same, as nothing but 64-bit numbers is computed with.
    """

    steps: tuple[Instruction, ...]
    given: frozenset[str]
    result: Operand
    datatype: Type
    form: Form
    watched: tuple[tuple[Instruction, Operand, Type, Form], ...]
    ring: bool
    comparison: Instruction | None = None
    """A ``setp`` of the result with what is the same in the plane."""


SAME = Form(0, False)


def find_affine(
    bits: Callable[[str], int],
    steps: Iterable[Instruction],
    given: Iterable[str],
    uniform: frozenset[str],
    result: Operand,
    datatype: Type,
) -> Affine | None:
    """``result`` after the steps, if it is affine in a plane; ``given`` registers are the same in all of it, ``uniform`` ones too.

    ``bits``: of a register.
    """
    steps, given = tuple(steps), frozenset(given)
    forms = dict.fromkeys(given, SAME)
    watched: list[tuple[Instruction, Operand, Type, Form]] = []
    for step in steps:
        target, form = step.operands[0], _form_of_result(step, forms)
        if form is None or not isinstance(target, Register):
            return None
        if form != SAME and (_resized(bits, step) or _hides_jumps(step)):
            return None
        if form != SAME and not form.small and (step.has("wide") or step.opcode == "cvt"):
            made = step.types[0]
            watched.append((step, target, TYPES[f"{made.kind}{made.bits << step.has('wide')}"], form))
        changing = _form(step.operands[1], forms) if is_sign(step) else None
        if changing is not None and changing != SAME and not changing.small:
            watched.append((step, step.operands[1], TYPES[f"s{step.type.bits}"], changing))
        forms[target.name] = SAME if target.name in uniform else form
    form = _form(result, forms)
    if form is None:
        return None
    wide = datatype.bits == 64 and isinstance(result, Register) and bits(result.name) == 64
    chosen = any(step.opcode == "selp" for step in steps)  # which grows along a row may not be the one that is taken
    ring = wide and not chosen and all(is_sign(step) and kind.bits == 64 for step, _, kind, _ in watched)
    return Affine(steps, given, result, datatype, form, tuple(watched), ring)


def compared(affine: Affine, comparison: Instruction, other: Operand, uniform: frozenset[str]) -> Affine | None:
    """The value together with a comparison, if the other operand is the same in the plane."""
    forms = dict.fromkeys(affine.given, SAME)
    for step in affine.steps:
        form = _form_of_result(step, forms)
        assert form is not None
        forms.update((name, SAME if name in uniform else form) for name in destinations(step))
    return replace(affine, comparison=comparison) if _form(other, forms) == SAME else None


def _resized(bits: Callable[[str], int], step: Instruction) -> bool:
    """Whether a register is wider than what is written to it, or narrower than what is read: it is filled up unseen."""
    target = step.operands[0]
    if isinstance(target, Register) and bits(target.name) > step.types[0].bits << step.has("wide"):
        return True
    narrowest = 1 if step.opcode in ("selp", "mad", "shl", "shr") else step.types[-1].bits
    return any(isinstance(i, Register) and bits(i.name) < narrowest for i in sources(step))


def _hides_jumps(step: Instruction) -> bool:
    """``mad.wide.u16``: of a product that wraps around in 16 bits, what is added in 32 can make a number that jumps twice, and back."""
    return step.opcode == "mad" and step.has("wide") and step.type.bits < 32


def _form(operand: Operand, forms: Mapping[str, Form]) -> Form | None:
    match operand:
        case Immediate() | Symbol():
            return SAME
        case SpecialRegister("tid.y"):
            return Form(0, True, small=True)
        case SpecialRegister(name):
            growth = special_coefficient(name)
            return None if growth is None else Form(growth, False, small=growth != 0)
        case Register(name):
            return forms.get(name)
    return None


def _form_of_result(step: Instruction, forms: Mapping[str, Form]) -> Form | None:
    if step.opcode == "ld":
        return SAME
    inputs = [_form(operand, forms) for operand in sources(step)]
    known = [form for form in inputs if form is not None]
    if len(known) != len(inputs):
        return None
    x = combined_coefficient(step, [form.x for form in known])
    y = _grows_with_rows(step, known)
    if x is None or y is None:
        return None
    whole = step.opcode in ("mov", "cvt") and all(kind.size >= THREAD_INDEX_SIZE for kind in step.types)
    return Form(x, y, small=whole and known[0].small)


def _grows_with_rows(step: Instruction, inputs: list[Form]) -> bool | None:
    """Whether the result changes from row to row; None if it need not do so evenly."""
    if is_sign(step) or not any(form.y for form in inputs):
        return False
    if step.has("sat", "hi") or any(datatype.float for datatype in step.types):
        return None
    match step.opcode, inputs:
        case (("mov" | "cvta" | "cvt"), [_]) | (("add" | "sub"), [_, _]):
            return True
        case "shl", [_, Form(0, False)]:
            return True
        case (("mul" | "mad"), [left, right, *_]):
            return None if (left.y and right != SAME) or (right.y and left != SAME) else True
        case "selp", [_, _, Form(0, False)]:
            return True
    return None


@dataclass(frozen=True, slots=True)
class Plane:
    """The threads first_x <= x <= last_x of the rows first_y <= y <= last_y."""

    first_x: Value
    last_x: Value
    first_y: Value
    last_y: Value

    def points(self, e: Emitter) -> list[tuple[Value, Value]]:
        """The first thread, that of the second row, and the other corners."""
        second = e.op("add", self.first_y, 1)
        corners = [(self.last_x, self.first_y), (self.first_x, self.last_y), (self.last_x, self.last_y)]
        return [(self.first_x, self.first_y), (self.first_x, second), *corners]


@dataclass(frozen=True, slots=True)
class Measured:
    """An affine value, as i64: in the plane's first thread, and how it grows; whether it does (``holds``)."""

    holds: Value
    start: Value
    pitch: Value
    low: Value
    high: Value
    """Of the value, as it is in the corners."""
    outcome: Value = FALSE
    """Of the comparison."""


@dataclass(frozen=True, slots=True)
class _Sample:
    """What is looked at in one thread, as i64; ``outcome`` of the comparison."""

    result: Value
    watched: list[Value]
    signs: list[Value]
    outcome: Value


def measure(e: Emitter, affine: Affine, plane: Plane) -> Measured:
    """Look at the value in the corners of the plane, or in fewer of its threads where they tell as much."""
    if affine.ring and not (affine.comparison and (affine.form.y or affine.watched)):
        return _measured_in_ring(e, affine, plane)
    samples = [_sample(e, affine, *point) for point in plane.points(e)]
    measured = _measured(e, [sample.result for sample in samples], affine.form, plane)
    holds = measured.holds
    for number, (_, _, _, form) in enumerate(affine.watched):
        holds = e.op("and", holds, _measured(e, [sample.watched[number] for sample in samples], form, plane).holds)
    first, *others = samples
    for sample in others:
        same = [*zip(first.signs, sample.signs, strict=True)]
        if affine.comparison is not None:
            same.append((first.outcome, sample.outcome))
        for one, other in same:
            holds = e.op("and", holds, e.icmp("eq", one, other))
    if affine.comparison is not None and not affine.datatype.signed:
        holds = e.op("and", holds, e.icmp("sge", measured.low, 0))
    return replace(measured, holds=holds, outcome=first.outcome)


def _measured_in_ring(e: Emitter, affine: Affine, plane: Plane) -> Measured:
    """The corners follow from the first thread and that of the second row. A comparison does not change from row to row."""
    first, second = _sample(e, affine, plane.first_x, plane.first_y), None
    if affine.form.y or any(form.y for *_, form in affine.watched):
        second = _sample(e, affine, plane.first_x, e.op("add", plane.first_y, 1))
    measured = _followed(e, first.result, second.result if second else None, affine.form, plane)
    holds = measured.holds
    for number, (_, _, _, form) in enumerate(affine.watched):
        source = _followed(e, first.watched[number], second.watched[number] if second else None, form, plane)
        same_sign = e.icmp("sge", e.op("xor", source.low, source.high), 0)
        holds = e.op("and", holds, e.op("and", source.holds, same_sign))
    if affine.comparison is not None:
        last = _sample(e, affine, plane.last_x, plane.first_y)
        holds = e.op("and", holds, e.icmp("eq", first.outcome, last.outcome))
        if not affine.datatype.signed:
            holds = e.op("and", holds, e.icmp("sge", measured.low, 0))
    return replace(measured, holds=holds, outcome=first.outcome)


def _followed(e: Emitter, start: Value, second: Value | None, form: Form, plane: Plane) -> Measured:
    """A value that is affine for certain: from its first thread and that of the second row."""
    width, height, pitch = _growth(e, start, second, form, plane)
    both = e.op("add", width, height)
    return _within(e, [start, *(e.op("add", start, growth) for growth in (width, height, both))], pitch)


def _sample(e: Emitter, affine: Affine, x: Value, y: Value) -> _Sample:
    thread, e.thread = e.thread, replace(e.thread, x=x, y=y)
    e.registers.forget()
    for name in affine.given:
        e.registers.set(name, e.shared_values[name])
    watched, signs = [], []
    for step in affine.steps:
        emit_unpredicated(e, step)
        watched += [_wide(e, operand, datatype) for maker, operand, datatype, _ in affine.watched if maker is step]
        if is_sign(step) and any(maker is step for maker, *_ in affine.watched):
            signs.append(_wide(e, step.operands[0], step.type))
    result, outcome = _wide(e, affine.result, affine.datatype), FALSE
    if affine.comparison is not None:
        emit_unpredicated(e, affine.comparison)
        outcome = e.read_pred(affine.comparison.operands[0])
    e.registers.forget()
    e.thread = thread
    return _Sample(result, watched, signs, outcome)


def _wide(e: Emitter, operand: Operand, datatype: Type) -> Value:
    value = e.read(operand, datatype)
    return value if value.bits == 64 else e.extend(value, "i64", datatype.signed)


def _measured(e: Emitter, values: list[Value], form: Form, plane: Plane) -> Measured:
    """``values``: in the plane's points."""
    start, second, across, down, both = values
    width, height, pitch = _growth(e, start, second, form, plane)
    measured = _within(e, [start, across, down, both], pitch)
    holds = measured.holds
    for value, growth in ((across, width), (down, height), (both, e.op("add", width, height))):
        holds = e.op("and", holds, e.icmp("eq", e.op("sub", value, start), growth))
    return replace(measured, holds=holds)


def _growth(e: Emitter, start: Value, second: Value | None, form: Form, plane: Plane) -> tuple[Value, Value, Value]:
    """(growth along a row, from the first row to the last, from one row to the next)"""
    width = e.op("mul", e.zext(e.op("sub", plane.last_x, plane.first_x), "i64"), form.x)
    rows = e.zext(e.op("sub", plane.last_y, plane.first_y), "i64")
    pitch = constant("i64", 0) if second is None else e.op("sub", second, start)
    return width, e.op("mul", pitch, rows), pitch


def _within(e: Emitter, corners: list[Value], pitch: Value) -> Measured:
    """Whether such numbers are far from the ends of 64 bits."""
    near = e.icmp("ult", e.op("add", pitch, PITCH_MAX), 2 * PITCH_MAX)
    inside = e.icmp("ult", e.op("add", corners[0], VALUE_MAX), 2 * VALUE_MAX)
    low = high = corners[0]
    for value in corners[1:]:
        low, high = e.intrinsic("smin", low, value), e.intrinsic("smax", high, value)
    return Measured(e.op("and", near, inside), corners[0], pitch, low, high)
