"""PTX for kernels of ``kernel_language``: parameters are the input, the output (an array for each slot) and the counters."""

from __future__ import annotations

from itertools import count

from tests.device.virtual.gpu import HEADER
from tests.fuzz.kernel_language import (
    COUNTERS,
    COUNTS,
    GATHERED,
    INPUT_SIZE,
    LOCAL_CELLS,
    OPERATIONS,
    VARIABLES,
    Add,
    Assign,
    Break,
    Count,
    Exchange,
    Expression,
    Gather,
    If,
    Keep,
    Leave,
    Load,
    Recall,
    Repeat,
    Shift,
    Shuffle,
    Statement,
    Store,
    Stride,
)

_INDEX_REGISTERS = {
    "tid.x": "%tx",
    "tid.y": "%ty",
    "ctaid.x": "%cx",
    "ntid.x": "%nx",
    "linear": "%linear",
    "lane": "%lane",
    "warp": "%warp",
}
_COMPARISONS = {"less": "setp.lt.s32", "below": "setp.lt.u32", "equal": "setp.eq.s32"}
_TEMPORARIES = {"w": "%rd", "x": "%rd", "y": "%rd", "z": "%rd", "h": "%h", "g": "%h", "p": "%p"}


class Writer:
    """Statements as PTX, every value in a register of its own."""

    def __init__(self, threads: int, grid: int) -> None:
        self.threads, self.grid = threads, grid
        self.lines: list[str] = []
        self._numbers = count(1)
        self._ends: list[str] = []
        """Labels behind the loops around the current statement."""

    def new(self, prefix: str) -> str:
        return f"{prefix}{next(self._numbers)}"

    def emit(self, text: str) -> None:
        self.lines.append(text)

    def value(self, expression: Expression) -> str:
        if isinstance(expression, int):
            return str(expression)
        if isinstance(expression, str):
            return _INDEX_REGISTERS.get(expression, f"%{expression}")
        name, *operands = expression
        registers = dict(zip("ab", map(self.register, operands), strict=False))
        result = self.new("%r")
        temporaries = {letter: self.new(prefix) for letter, prefix in _TEMPORARIES.items()}
        self.emit(OPERATIONS[name].ptx.format(d=result, **registers, **temporaries))
        return result

    def register(self, expression: Expression) -> str:
        value = self.value(expression)
        if value.startswith("%"):
            return value
        register = self.new("%r")
        self.emit(f"mov.u32 {register}, {value};")
        return register

    def predicate(self, condition: Expression) -> str:
        """Where the condition is a comparison, its own predicate."""
        predicate = self.new("%p")
        if isinstance(condition, tuple) and condition[0] in _COMPARISONS:
            name, left, right = condition
            self.emit(f"{_COMPARISONS[name]} {predicate}, {self.register(left)}, {self.value(right)};")
            return predicate
        self.emit(f"setp.ne.s32 {predicate}, {self.register(condition)}, 0;")
        return predicate

    def address(self, base: str, index: str) -> str:
        """Of element ``index`` of an array of 32-bit words."""
        distance, address = self.new("%rd"), self.new("%rd")
        self.emit(f"mul.wide.u32 {distance}, {index}, 4; add.u64 {address}, {base}, {distance};")
        return address

    def cell(self, slot: int) -> str:
        index = self.new("%r")
        self.emit(f"add.u32 {index}, %thread, {slot * self.threads * self.grid};")
        return self.address("%out", index)

    def limited(self, index: Expression, size: int) -> str:
        limited = self.new("%r")
        self.emit(f"and.b32 {limited}, {self.register(index)}, {size - 1};")
        return limited

    def body(self, statements: tuple[Statement, ...]) -> None:
        for statement in statements:
            self.statement(statement)

    def statement(self, statement: Statement) -> None:
        match statement:
            case Assign(variable, value):
                self.emit(f"mov.u32 %{variable}, {self.value(value)};")
            case Load(variable, index):
                self.load(variable, index)
            case Store(slot, value):
                held = self.register(value)
                self.emit(f"st.global.u32 [{self.cell(slot)}], {held};")
            case Add(variable, slot, value):
                held = self.register(value)
                self.emit(f"atom.global.add.u32 %{variable}, [{self.cell(slot)}], {held};")
            case Count(index, value):
                held = self.register(value)
                self.emit(f"red.global.add.u32 [{self.address('%counters', self.limited(index, COUNTERS))}], {held};")
            case Keep(index, value):
                held = self.register(value)
                self.emit(f"st.local.u32 [{self.address('%kept', self.limited(index, LOCAL_CELLS))}], {held};")
            case Recall(variable, index):
                self.emit(f"ld.local.u32 %{variable}, [{self.address('%kept', self.limited(index, LOCAL_CELLS))}];")
            case If(condition, then, other):
                self.choose(condition, then, other)
            case Repeat(counter, times, body):
                limit = self.new("%r")
                self.emit(f"and.b32 {limit}, {self.register(times)}, 7;")
                self.loop(counter, "0", limit, "1", body)
            case Stride(counter, limit, body):
                self.loop(counter, "%tx", str(limit), "%nx", body)
            case Break(condition):
                self.emit(f"@{self.predicate(condition)} bra {self._ends[-1]};")
            case Leave(condition):
                self.emit(f"@{self.predicate(condition)} ret;")
            case Exchange(variable, distance):
                self.exchange(variable, distance)
            case Shift(variable):
                self.shift(variable)
            case Shuffle():
                self.shuffle(statement)
            case Gather(variable, operation, posted):
                names = {"t": self.new("%r"), "p": self.new("%p"), "q": self.new("%p"), "m": self.mask(posted)}
                self.emit(GATHERED[operation][0].format(v=f"%{variable}", **names))

    def load(self, variable: str, index: Expression) -> None:
        negative, wrapped, place, inside, end = (self.new(prefix) for prefix in ("%p", "%r", "%r", "%p", "L"))
        given = self.register(index)
        self.emit(f"setp.lt.s32 {negative}, {given}, 0; add.s32 {wrapped}, {given}, {INPUT_SIZE};")
        self.emit(f"selp.b32 {place}, {wrapped}, {given}, {negative};")
        self.emit(f"setp.lt.u32 {inside}, {place}, {INPUT_SIZE}; @!{inside} bra {end};")
        self.emit(f"ld.global.u32 %{variable}, [{self.address('%in', place)}]; {end}:")

    def choose(self, condition: Expression, then: tuple[Statement, ...], other: tuple[Statement, ...]) -> None:
        otherwise, end = self.new("L"), self.new("L")
        self.emit(f"@!{self.predicate(condition)} bra {otherwise};")
        self.body(then)
        self.emit(f"bra {end}; {otherwise}:")
        self.body(other)
        self.emit(f"{end}:")

    def loop(self, counter: str, start: str, limit: str, step: str, body: tuple[Statement, ...]) -> None:
        """A test ahead of the loop and one at its end, as compilers write them."""
        head, end, own, going, again = (self.new(prefix) for prefix in ("L", "L", "%r", "%p", "%p"))
        self.emit(f"mov.u32 {own}, {start}; setp.ge.s32 {going}, {own}, {limit}; @{going} bra {end}; {head}:")
        self.emit(f"mov.u32 %{counter}, {own};")
        self._ends.append(end)
        self.body(body)
        self._ends.pop()
        self.emit(f"add.s32 {own}, {own}, {step}; setp.lt.s32 {again}, {own}, {limit}; @{again} bra {head}; {end}:")

    def exchange(self, variable: str, distance: int) -> None:
        other, place = self.new("%r"), self.new("%r")
        self.emit(f"st.shared.u32 [{self.address('%shared', '%linear')}], %{variable}; bar.sync 0;")
        self.emit(f"add.u32 {other}, %linear, {distance}; rem.u32 {place}, {other}, {self.threads};")
        self.emit(f"ld.shared.u32 %{variable}, [{self.address('%shared', place)}]; bar.sync 0;")

    def shift(self, variable: str) -> None:
        odd, end, parity, even = self.new("L"), self.new("L"), self.new("%r"), self.new("%p")
        self.emit(f"and.b32 {parity}, %lane, 1; setp.eq.u32 {even}, {parity}, 0; @!{even} bra {odd};")
        self.emit(f"shfl.sync.up.b32 %{variable}, %{variable}, 2, 0, 0x55555555; bra {end}; {odd}:")
        self.emit(f"shfl.sync.up.b32 %{variable}, %{variable}, 2, 0, 0xaaaaaaaa; {end}:")

    def shuffle(self, statement: Shuffle) -> None:
        b, c, mask = self.value(statement.operand), self.value(statement.control), self.mask(statement.posted)
        if statement.mode != "up" and self.threads % 32:
            return
        taken, inside, more = self.new("%r"), self.new("%p"), self.new("%r")
        self.emit(f"shfl.sync.{statement.mode}.b32 {taken}|{inside}, %{statement.variable}, {b}, {c}, {mask};")
        self.emit(f"selp.b32 {more}, 1, 0, {inside}; add.u32 %{statement.variable}, {taken}, {more};")

    def mask(self, posted: bool) -> str:
        """All lanes, as a constant or as a value that is computed."""
        if not posted:
            return "0xffffffff"
        mask = self.new("%r")
        self.emit(f"or.b32 {mask}, %v0, 0xffffffff;")
        return mask

    def text(self, statements: tuple[Statement, ...]) -> str:
        self.body(statements)
        cleared = " ".join(f"mov.u32 %{name}, 0;" for name in (*VARIABLES, *COUNTS))
        local = any("%kept" in line for line in self.lines)
        kept = f".local .align 4 .b8 kept[{4 * LOCAL_CELLS}]; mov.u64 %kept, kept;" if local else ""
        kept += "".join(f"st.local.u32 [%kept+{4 * index}], 0;" for index in range(LOCAL_CELLS)) if local else ""
        meets = any("%shared" in line for line in self.lines)
        shared = "st.shared.u32 [%shared0], 0; bar.sync 0;" if meets else ""
        number = next(self._numbers)
        names = ", ".join(f"%{name}" for name in (*VARIABLES, *COUNTS))
        body = "\n".join(self.lines)
        return f"""{HEADER}.shared .align 16 .b8 memory[{4 * self.threads}];
.visible .entry kernel(.param .u64 p0, .param .u64 p1, .param .u64 p2) {{
.reg .b16 %h<{number}>; .reg .b32 %r<{number}>; .reg .b64 %rd<{number}>; .reg .pred %p<{number}>; .reg .b32 {names};
.reg .b32 %tx, %ty, %cx, %nx, %linear, %lane, %warp, %thread; .reg .b64 %in, %out, %counters, %kept, %shared, %shared0;
ld.param.u64 %in, [p0]; ld.param.u64 %out, [p1]; ld.param.u64 %counters, [p2];
mov.u32 %tx, %tid.x; mov.u32 %ty, %tid.y; mov.u32 %cx, %ctaid.x; mov.u32 %nx, %ntid.x;
mad.lo.u32 %linear, %ty, %nx, %tx; and.b32 %lane, %linear, 31; shr.u32 %warp, %linear, 5; mad.lo.u32 %thread, %cx, {self.threads}, %linear;
mov.u64 %shared, memory; mad.wide.u32 %shared0, %linear, 4, %shared;
{cleared} {kept} {shared}
{body}
ret; }}"""
