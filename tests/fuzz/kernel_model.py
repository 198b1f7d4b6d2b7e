"""What a kernel of ``kernel_language`` computes: every thread a generator that stops where it waits for others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tests.fuzz.kernel_language import (
    COUNTERS,
    COUNTS,
    GATHERED,
    INPUT_SIZE,
    LOCAL_CELLS,
    OPERATIONS,
    SLOTS,
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
    shuffled,
    signed,
)

MASK = (1 << 32) - 1
WARP_SIZE = 32
Wait = str
""""barrier": for all threads that live; "lanes": for those of the warp that come with it."""


class _Broken(Exception):
    """A loop is left."""


class _Ended(Exception):
    """A thread has left."""


@dataclass
class Thread:
    """``values``: of indices, variables and loop counters."""

    values: dict[str, int]
    x: list[int]
    counters: list[int]
    shared: list[int]
    cells: list[int] = field(default_factory=lambda: [0] * 2 * SLOTS)
    local: list[int] = field(default_factory=lambda: [0] * LOCAL_CELLS)
    warp: list[Thread] = field(default_factory=list)
    """The threads of its warp, itself among them."""
    sent: int = 0
    """What it holds out to other lanes."""

    def value(self, expression: Expression) -> int:
        if isinstance(expression, int):
            return expression & MASK
        if isinstance(expression, str):
            return self.values[expression]
        name, *operands = expression
        return int(OPERATIONS[name].python(*map(self.value, operands))) & MASK

    def execute(self, body: tuple[Statement, ...]) -> Iterator[Wait]:
        for statement in body:
            yield from self.step(statement)

    def step(self, statement: Statement) -> Iterator[Wait]:
        values = self.values
        match statement:
            case Assign(variable, value):
                values[variable] = self.value(value)
            case Load(variable, index):
                place = signed(self.value(index))
                if -INPUT_SIZE <= place < INPUT_SIZE:
                    values[variable] = self.x[place]
            case Store(slot, value):
                self.cells[slot] = self.value(value)
            case Add(variable, slot, value):
                total = (self.cells[slot] + self.value(value)) & MASK
                values[variable], self.cells[slot] = self.cells[slot], total
            case Count(index, value):
                self.counters[self.value(index) % COUNTERS] += self.value(value)
            case Keep(index, value):
                self.local[self.value(index) % LOCAL_CELLS] = self.value(value)
            case Recall(variable, index):
                values[variable] = self.local[self.value(index) % LOCAL_CELLS]
            case If(condition, then, other):
                yield from self.execute(then if self.value(condition) else other)
            case Repeat(counter, count, body):
                yield from self.loop(counter, 0, self.value(count) & 7, 1, body)
            case Stride(counter, limit, body):
                yield from self.loop(counter, values["tid.x"], limit, values["ntid.x"], body)
            case Break(condition):
                if self.value(condition):
                    raise _Broken
            case Leave(condition):
                if self.value(condition):
                    raise _Ended
            case Exchange(variable, distance):
                self.shared[values["linear"]] = values[variable]
                yield "barrier"
                values[variable] = self.shared[(values["linear"] + distance) % len(self.shared)]
                yield "barrier"
            case Shift(variable):
                yield from self.hold_out(values[variable])
                if values["lane"] >= 2:
                    values[variable] = self.warp[values["lane"] - 2].sent
                yield "lanes"
            case Shuffle(variable, mode, operand, control):
                b, c = self.value(operand), self.value(control)
                yield from self.hold_out(values[variable])
                if mode == "up" or len(self.shared) % WARP_SIZE == 0:
                    lane, inside = shuffled(mode, values["lane"], b, c)
                    values[variable] = (self.warp[lane].sent + inside) & MASK
                yield "lanes"
            case Gather(variable, operation):
                yield from self.hold_out(values[variable])
                values[variable] = GATHERED[operation][1](self.sent, [lane.sent for lane in self.warp]) & MASK
                yield "lanes"

    def hold_out(self, value: int) -> Iterator[Wait]:
        self.sent = value
        yield "lanes"

    def loop(self, counter: str, start: int, limit: int, step: int, body: tuple[Statement, ...]) -> Iterator[Wait]:
        """The counter is set anew for every iteration, whatever loops inside have made of it."""
        try:
            for value in range(start, limit, step):
                self.values[counter] = value
                yield from self.execute(body)
        except _Broken:
            pass


def run_block(body: tuple[Statement, ...], threads: list[Thread]) -> None:
    """All threads of a block to their ends."""
    running = {index: thread.execute(body) for index, thread in enumerate(threads)}
    waiting: dict[int, Wait] = {}
    while running:
        for index, steps in list(running.items()):
            if index in waiting:
                continue
            try:
                waiting[index] = next(steps)
            except (StopIteration, _Ended):
                del running[index]
        exchanging = [index for index, wait in waiting.items() if wait == "lanes"]
        for index in exchanging or list(waiting):
            del waiting[index]


def block_threads(number: int, shape: tuple[int, int], x: list[int], counters: list[int]) -> list[Thread]:
    """The threads of block ``number`` before they begin."""
    width, height = shape
    shared = [0] * (width * height)
    start = dict.fromkeys((*VARIABLES, *COUNTS), 0)

    def indices(linear: int) -> Mapping[str, int]:
        here = {"tid.x": linear % width, "tid.y": linear // width, "ctaid.x": number, "ntid.x": width}
        return {**here, "linear": linear, "lane": linear % WARP_SIZE, "warp": linear // WARP_SIZE}

    threads = [Thread({**start, **indices(linear)}, x, counters, shared) for linear in range(width * height)]
    for linear, thread in enumerate(threads):
        base = linear - linear % WARP_SIZE
        thread.warp = threads[base : base + WARP_SIZE]
    return threads
