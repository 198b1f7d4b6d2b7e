"""One region of a kernel: the loop over a block's threads that runs each from one suspension point to the next (see
layout).

::

    for z:
        plane guard                     what can be decided for all rows of a plane
        for y:                          rows
            guard                       what can be decided for the row, if it was not for the plane
        for x:                          threads, vectorised by LLVM
            load saved registers, take the result of the suspension point
            the blocks of the graph
            at a suspension point: post operands, save registers, store the state
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar, TypeVar

from bitfusion.device.virtual import emit_warp
from bitfusion.device.virtual.body import Body
from bitfusion.device.virtual.builder import TRUE, Value, constant
from bitfusion.device.virtual.device_function import INDEX
from bitfusion.device.virtual.effects import STACK_FRAME, writes
from bitfusion.device.virtual.emitter import BLOCK_POINTER, FRAME, LOCAL, SHARED, Thread, Unit
from bitfusion.device.virtual.flow import ENTRY, Block, is_lockstep
from bitfusion.device.virtual.guard import Decided, RowEmitter, RowGuard, emit_guard, find_guard, grouped
from bitfusion.device.virtual.instructions import emit_unpredicated
from bitfusion.device.virtual.layout import BLOCK, THREADS_MAX
from bitfusion.device.virtual.local_memory import NATIVE_SIZE
from bitfusion.device.virtual.metadata import ALIAS, FUNCTION_ATTRIBUTES, SHORT_LOOP_SIZE_MAX
from bitfusion.device.virtual.plan import Plan, Point, reachable
from bitfusion.device.virtual.plane import Plane
from bitfusion.device.virtual.plane_guard import (
    PlaneDecided,
    PlaneGuard,
    emit_plane_guard,
    find_plane_guard,
    nothing_known,
)
from bitfusion.device.virtual.syntax import Declaration, Instruction

_BOUND = f"i32 range(i32 1, {THREADS_MAX + 1})"
_ENDED = -1

ROW_SIZE_MIN = 16
"""Threads: shorter rows run loops thread by thread, as there is less to gain side by side than each iteration costs."""

ROWS_MIN = 4
"""Fewer are looked at one by one: a plane is looked at in five threads, a row in two."""

_Key = TypeVar("_Key")

_LANEWISE = frozenset(
    (
        "mov",
        "add",
        "sub",
        "mul",
        "mad",
        "fma",
        "min",
        "max",
        "and",
        "or",
        "xor",
        "not",
        "shl",
        "shr",
        "neg",
        "abs",
        "selp",
        "setp",
    )
)
_NOT_LANEWISE = ("hi", "wide", "sat", "cc", "rz", "rm", "rp")

_X_FIRST, _X_END = Value("i32", "%x0"), Value("i32", "%x1")
_FIRST_LINEAR = Value("i32", "%t0")
_ROW_LINEAR = Value("i32", "%row_linear")


class Region(RowEmitter):
    """Emits the region that resumes from ``point`` (None: starts the kernel) into the unit."""

    parameters_invariant: ClassVar[bool] = True

    def __init__(self, unit: Unit, plan: Plan, point: Point | None) -> None:
        super().__init__(unit, plan.function, plan.liveness, _thread(""))
        self.plan = plan
        self.point = point
        self.start = ENTRY if point is None else point.target
        self.name = f"region.{0 if point is None else point.state}"
        self.blocks = reachable(plan.graph, self.start)
        self.loop = point.block.name if point is not None and is_lockstep(point.block) else ""
        """The head of the loop that the threads of a row run side by side, if they do."""
        self.even = _even(plan, point) if self.options.guards else {}
        self.row_values: dict[str, Value] = {}
        """Saved registers that grow evenly along the row: their value in its first thread."""

    def parameter_pointer(self, name: str) -> Value | None:
        distance = self.plan.parameters.get(name)
        return None if distance is None else self.offset(Value("ptr", "%parameters"), distance)

    def local_pointer(self, variable: Declaration) -> Value:
        """In the block's area where it escapes, or must outlive the region because the kernel can stop; else on the stack."""
        if variable.name not in self.plan.locals:
            return super().local_pointer(variable)
        distance = self.plan.locals[variable.name]
        if not self.plan.points:
            return self.offset(LOCAL, distance)
        start = self.op("mul", self.zext(self.thread.linear, "i64"), self.plan.local_size)
        return self.offset(LOCAL, self.op("add", start, distance))

    def emit_region(self) -> None:
        self.prologue()
        self._load_field("frame", "block", BLOCK["FRAME"], "ptr")
        self._load_field("local", "block", BLOCK["LOCAL"], "ptr")
        if any(
            i.call is not None or i.opcode == STACK_FRAME or i.opcode == "alloca" for i in self.function.instructions()
        ):
            self._begin_stack()
        self._load_uniform()
        guard = find_guard(self, self.plan, self.blocks, self.start) if self.options.guards else RowGuard()
        plane = self._begin_rows(guard)
        has_locals = any(variable.space == "local" for variable in self.function.variables.values())
        self._threads(guard, plane, parallel=self.options.parallel and not has_locals)
        self._end_rows()
        self.unit.definitions.append(
            "\n".join([self._head(), *self.registers.allocas(), *self.allocas, *self.lines, "}"])
        )

    def _head(self) -> str:
        bounds = ", ".join(f"{INDEX} %{axis}0, {_BOUND} %{axis}1" for axis in "zyx")
        block = f"ptr noalias dereferenceable({BLOCK['SIZE']}) %block"
        return f'define void @"{self.name}"({block}, {bounds}, {INDEX} %t0) {FUNCTION_ATTRIBUTES} {{\ntop:'

    def _begin_stack(self) -> None:
        """What device functions may use: the local area behind the threads' own, and a part of the host's stack."""
        start = self.op("add", self.address(LOCAL), self.plan.local_area)
        self.store(start, self.offset(BLOCK_POINTER, BLOCK["STACK"]))
        self.define("stack.bottom", "i64", f"add {start}, 0")
        end = self.op("add", self.address(LOCAL), self.launch_field("LOCAL_SIZE", "i64"))
        self.store(end, self.offset(BLOCK_POINTER, BLOCK["STACK_END"]))
        frame = self.call_foreign("declare ptr @llvm.frameaddress.p0(i32)", "ptr", "i32 0")
        self.store(self.op("sub", self.address(frame), NATIVE_SIZE), self.offset(BLOCK_POINTER, BLOCK["NATIVE_END"]))

    # rows
    def _begin_rows(self, guard: RowGuard) -> PlaneDecided | None:
        """The heads of the loops over planes and rows, and what is decided for a whole plane."""
        self.jump("planes")
        self.label("planes")
        z = self.define("tz", "i32", "phi i32 [%z0, %top], [%tz.next, %planes.next]")
        found = None if self.loop or self.even else find_plane_guard(self, self.plan, guard)
        decided = self._decide_plane(guard, found) if found else None
        before = self.here
        self.jump("row")
        self.label("row")
        y = self.define("ty", "i32", f"phi i32 [%y0, %{before}], [%ty.next, %row.next]")
        plane = self.op("mul nuw nsw", self.op("sub nuw nsw", z, Value("i32", "%z0")), Value("i32", "%ntid_y"))
        row = self.op("add nuw nsw", plane, self.op("sub nuw nsw", y, Value("i32", "%y0")))
        threads = self.op("mul nuw nsw", row, Value("i32", "%ntid_x"))
        self.define("row_linear", "i32", f"add nuw nsw {_FIRST_LINEAR}, {threads.name}")
        return decided

    def _decide_plane(self, guard: RowGuard, found: PlaneGuard) -> PlaneDecided:
        """Only where there are several rows: a thread may be resumed by itself."""
        first_y, end_y = Value("i32", "%y0"), Value("i32", "%y1")
        self.branch(self.icmp("ult", self.op("sub", end_y, first_y), ROWS_MIN), "planes.decided", "planes.decide")
        self.label("planes.decide")
        plane = Plane(_X_FIRST, self.op("sub", _X_END, 1), first_y, self.op("sub", end_y, 1))
        decided = emit_plane_guard(self, guard, found, plane)
        before = self.here
        self.jump("planes.decided")
        self.label("planes.decided")
        pairs = zip(decided.values(), nothing_known(decided), strict=True)
        return decided.replaced([self.phi((value, before), (nothing, "planes")) for value, nothing in pairs])

    def _end_rows(self) -> None:
        for axis, label, again, after in (
            ("y", "row.next", "row", "planes.next"),
            ("z", "planes.next", "planes", "end"),
        ):
            self.label(label)
            following = self.define(f"t{axis}.next", "i32", f"add nuw nsw i32 %t{axis}, 1")
            last = self.icmp("eq", following, Value("i32", f"%{axis}1"))
            self.branch(last, after, again, self.unit.metadata.outer_loop())
        self.label("end")
        self.emit("ret void")

    def _threads(self, guard: RowGuard, plane: PlaneDecided | None, parallel: bool) -> None:
        """The loop over a row, and in front of it a copy for rows in which the guard holds."""
        if not guard and not self.loop:
            before = self.here
            self.jump("threads")
            self._thread_loop("", before, parallel)
            return
        if plane is not None:
            self.branch(plane.holds, "known", "undecided")
            self.label("undecided")
        if self.plan.points:  # a thread that is resumed alone is no row
            short = self.icmp("ult", self.op("sub", _X_END, _X_FIRST), ROW_SIZE_MIN if self.loop else 2)
            self.branch(short, "unguarded", "guard")
            self.label("guard")
        self.row_values = {name: self._load_saved(name, self.zext(_ROW_LINEAR, "i64")) for name in self.even}
        decided = emit_guard(self, self.plan, guard, _X_FIRST, _X_END)
        holds = self.op("and", decided.holds, self._rows_even()) if self.even else decided.holds
        if plane is None:
            self._use(guard, decided)
            before = self.here
            self.branch(holds, "threads.fast", "unguarded")
        else:
            before = self.here
            self.branch(holds, "decided", "unguarded")
            self._use(guard, self._known(plane, decided, before))
            before = self.here
            self.jump("threads.fast")
        self._thread_loop(".fast", before, parallel)
        self.row_pointers, self.row_gathers, self.row_predicates, self.row_values = {}, {}, {}, {}
        self.label("unguarded")
        self.jump("threads")
        self._thread_loop("", "unguarded", parallel, self.loop)

    def _known(self, plane: PlaneDecided, row: Decided, before: str) -> Decided:
        """What is known of a row, be it from its plane or, behind the block ``before``, by itself."""
        self.label("known")
        distance = self.zext(self.op("sub nuw nsw", Value("i32", "%ty"), Value("i32", "%y0")), "i64")
        starts = {
            group: self.op("add", start, self.op("mul", distance, pitch))
            for group, (start, pitch) in plane.starts.items()
        }
        self.jump("decided")
        self.label("decided")

        def either(known: dict[_Key, Value], found: dict[_Key, Value]) -> dict[_Key, Value]:
            return {key: self.phi((value, "known"), (found[key], before)) for key, value in known.items()}

        return Decided(
            TRUE,
            either(plane.predicates, row.predicates),
            either(starts, row.starts),
            either(plane.gathers, row.gathers),
        )

    def _use(self, guard: RowGuard, decided: Decided) -> None:
        """Have the next loop over threads rest on what is known of the row."""
        self.row_predicates = decided.predicates
        for group, accesses in grouped(guard.accesses).items():
            for access in accesses:
                if group in decided.gathers:
                    self.row_gathers[access.instruction] = decided.gathers[group]
                    continue
                place = self.op("add", decided.starts[group], access.offset), access.slice.coefficient
                self.row_pointers[access.instruction] = partial(self._row_pointer, access.space, *place)

    def _rows_even(self) -> Value:
        """Whether the saved registers grow along the row as was guessed: a loop that compares them all."""
        before = self.here
        again, done = self.new_label("compare"), self.new_label("compared")
        self.jump(again)
        self.label(again)
        x = self.define(f"x.{again}", "i32", f"phi i32 [%x0, %{before}], [%next.{again}, %{again}]")
        differing = self.define(f"bits.{again}", "i64", f"phi i64 [0, %{before}], [%more.{again}, %{again}]")
        linear = self.zext(self.op("add nuw nsw", _ROW_LINEAR, self.op("sub nuw nsw", x, _X_FIRST)), "i64")
        for name in self.even:
            difference = self.op("xor", self._load_saved(name, linear), self.row_value(name, x))
            differing = self.op("or", differing, self.zext(difference, "i64"))
        self.define(f"more.{again}", "i64", f"or {differing}, 0")
        following = self.define(f"next.{again}", "i32", f"add nuw nsw {x}, 1")
        self.branch(self.icmp("eq", following, _X_END), done, again)
        self.label(done)
        return self.icmp("eq", Value("i64", f"%more.{again}"), 0)

    def row_value(self, name: str, x: Value) -> Value:
        """What an even register holds in the thread ``x`` of the row, if the guess is right."""
        first, growth = self.row_values[name], self.even[name]
        if not growth or first.type == "i1":
            return first
        distance = self.bits(self.op("sub nuw nsw", x, _X_FIRST), first.type)
        return self.op("add", first, self.op("mul", distance, growth))

    def _row_pointer(self, space: str, first: Value, growth: int) -> Value:
        """Where an access goes that was checked for the whole row."""
        start = self.offset(SHARED, first) if space == "shared" else self.pointer(first)
        distance = self.zext(self.op("sub nuw nsw", self.thread.x, _X_FIRST), "i64")
        return self.offset(start, self.op("mul", distance, growth)) if growth else start

    # threads
    def _thread_loop(self, suffix: str, before: str, parallel: bool, through: str = "") -> None:
        """The loop over the threads of a row. ``suffix`` tells copies apart; ``through``: a loop that a thread runs to its end."""
        blocks = reachable(self.plan.graph, self.start, through)
        self.written = {
            name for block in blocks for i in self.plan.graph[block].all_instructions() for name in writes(i)
        }
        short = parallel and not suffix and self._is_short(blocks)
        self.access_group, back_edge = self.unit.metadata.thread_loop(parallel, not self._divides(blocks), short)
        self.thread = _thread(suffix)
        self.registers.forget()
        loop, leave, latch = f"threads{suffix}", f"ended{suffix}", f"latch{suffix}"
        self.label(loop)
        x = self.define(f"tx{suffix}", "i32", f"phi i32 [%x0, %{before}], [%tx.next{suffix}, %{latch}]")
        distance = self.op("sub nuw nsw", x, _X_FIRST)
        self.define(f"linear{suffix}", "i32", f"add nuw nsw {_ROW_LINEAR}, {distance.name}")
        if self.point is not None:
            self._resume(self.point)
        body = Body(self, self.plan.graph, suffix, leave, frozenset(), lambda s, b: self._suspend(b, latch), through)
        self.jump(body.label(self.start))
        body.emit(blocks)
        self.label(leave)
        if self.plan.points:
            emit_warp.post_value(self, "STATE", constant("i16", _ENDED))
        self.jump(latch)
        self.label(latch)
        following = self.define(f"tx.next{suffix}", "i32", f"add nuw nsw {x}, 1")
        self.branch(self.icmp("eq", following, _X_END), "row.next", loop, back_edge)
        self.access_group = ""

    def _is_short(self, blocks: list[str]) -> bool:
        """Whether the threads do so little, and so plainly, that the loop over them is vectorised for certain: of one that LLVM is
        told how to vectorise and cannot it complains on standard error.
        """
        instructions = [i for name in blocks for i in self.plan.graph[name].instructions]
        return len(blocks) == 1 and len(instructions) <= SHORT_LOOP_SIZE_MAX and all(map(_is_lanewise, instructions))

    def _divides(self, blocks: list[str]) -> bool:
        """Whether threads divide 64-bit integers each by itself: in a vectorised loop that is done lane by lane behind as
        many branches, and costs more than all else gains (what Numba computes ahead of a ``range``: 50 ns a thread, not 5).
        """
        return any(
            i.opcode in ("div", "rem")
            and not i.type.float
            and i.type.size == 8
            and not self.plan.uniform.issuperset(writes(i))
            for name in blocks
            for i in self.plan.graph[name].instructions
        )

    def _resume(self, point: Point) -> None:
        """Compute again or load what the thread needs, and take the result it waited for."""
        steps: dict[Instruction, None] = {}
        for name in point.live:
            steps.update(dict.fromkeys(self.plan.chains.get(name, ())))
        for step in steps:
            emit_unpredicated(self, step)
        linear = self.zext(self.thread.linear, "i64")
        for name in point.saved:
            if name in self.shared_values:
                value = self.shared_values[name]
            elif name in self.row_values:
                value = self.row_value(name, self.thread.x)
            else:
                value = self._load_saved(name, linear)
            self.registers.set(name, value)
        emit_warp.take(self, point.instruction)
        self.registers.store(set(self.liveness.live_out(point.block)))

    def _suspend(self, block: Block, latch: str) -> None:
        point = next(point for point in self.plan.points if point.block is block)
        emit_warp.post(self, point.instruction, point.mask)
        linear = self.zext(self.thread.linear, "i64")
        written = self.written.union(() if self.point is None else self.point.results)
        unchanged = set() if self.point is None else set(self.point.saved) - written
        for name in point.saved:
            if name not in unchanged:
                self._save(name, linear)
        emit_warp.post_value(self, "STATE", constant("i16", point.state))
        self.jump(latch)

    # the frame
    def _load_uniform(self) -> None:
        """Registers all threads agree on are read from the first thread's slot.

        (They are stored for every thread: one may be resumed alone.)
        """
        if self.point is None or not self.options.uniform:
            return
        first = self.zext(_FIRST_LINEAR, "i64")
        for name in self.point.saved:
            if name in self.plan.uniform:
                self.shared_values[name] = self._load_saved(name, first)

    def _slot(self, name: str, linear: Value) -> Value:
        distance = self.op("mul", linear, self.plan.storage_size(name))
        return self.offset(FRAME, self.op("add", distance, self.plan.slots[name]))

    def _load_saved(self, name: str, linear: Value) -> Value:
        storage = self.registers.storage(name)
        attributes = ALIAS["frame"] + self.access_group
        value = self.load("i8" if storage == "i1" else storage, self._slot(name, linear), attributes)
        return self.trunc(value, "i1") if storage == "i1" else value

    def _save(self, name: str, linear: Value) -> None:
        value = self.registers.get(name, self.registers.storage(name))
        if value.type == "i1":
            value = self.zext(value, "i8")
        self.store(value, self._slot(name, linear), ALIAS["frame"] + self.access_group)


def _even(plan: Plan, point: Point | None) -> dict[str, int]:
    """Registers saved at a lockstep point that are thought to grow evenly along a row.

    Elsewhere it is not worth to compare them: few accesses follow from them.
    """
    if point is None or not is_lockstep(point.block):
        return {}
    return {name: plan.even[name] for name in point.saved if name in plan.even and name not in plan.uniform}


def _is_lanewise(i: Instruction) -> bool:
    """Whether the instruction surely becomes one on vectors."""
    return (
        i.opcode in _LANEWISE
        and i.predicate is None
        and not i.has(*_NOT_LANEWISE)
        and all(datatype.kind == "p" or datatype.name[1:] in ("32", "64") for datatype in i.types)
    )


def _thread(suffix: str) -> Thread:
    """The values the loop over threads defines."""
    return Thread(
        Value("i32", f"%tx{suffix}"), Value("i32", "%ty"), Value("i32", "%tz"), Value("i32", f"%linear{suffix}")
    )
