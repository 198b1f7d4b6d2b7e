"""Random kernels as trees: what a thread computes on 32-bit integers, with loops, branches, barriers and memory.

There is always one right result. Threads meet only where all that live come (``uniform``), lanes where all of their warp come
(``warps``), so no kernel can deadlock; each writes cells of its own, or adds to counters, so nothing depends on an order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from hypothesis import strategies as st

INPUT_SIZE = 203
"""Elements of the array that kernels read."""

SLOTS = 4
"""Variables, loop counters, and cells each thread has in the output; as many again for what the variables are in the end."""

COUNTERS = 16
LOCAL_CELLS = 8

INDICES = ("tid.x", "tid.y", "ctaid.x", "ntid.x", "linear", "lane", "warp")
VARIABLES = tuple(f"v{index}" for index in range(SLOTS))
COUNTS = tuple(f"i{index}" for index in range(SLOTS))

Expression: TypeAlias = "int | str | tuple[str, *tuple[Expression, ...]]"


def signed(value: int, bits: int = 32) -> int:
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value


@dataclass(frozen=True)
class Operation:
    """``ptx``: {d} from {a} and {b}; {w} to {z} are wide registers, {h} and {g} short ones, {p} a predicate.

    ``python``: the same on integers from 0 to 2^32 - 1.
    """

    arity: int
    ptx: str
    python: Callable[..., int]


_CHOOSE = "selp.b32 {d}, 1, 0, {p};"
OPERATIONS = {
    "add": Operation(2, "add.s32 {d}, {a}, {b};", lambda a, b: a + b),
    "sub": Operation(2, "sub.s32 {d}, {a}, {b};", lambda a, b: a - b),
    "mul": Operation(2, "mul.lo.s32 {d}, {a}, {b};", lambda a, b: a * b),
    "xor": Operation(2, "xor.b32 {d}, {a}, {b};", lambda a, b: a ^ b),
    "and": Operation(2, "and.b32 {d}, {a}, {b};", lambda a, b: a & b),
    "min": Operation(2, "min.s32 {d}, {a}, {b};", lambda a, b: min(signed(a), signed(b))),
    "sign": Operation(1, "shr.s32 {d}, {a}, 31;", lambda a: signed(a) >> 31),
    "byte": Operation(1, "cvt.u32.u8 {d}, {a};", lambda a: a % 256),
    "short": Operation(1, "cvt.s32.s16 {d}, {a};", lambda a: signed(a, 16)),
    "saturated": Operation(1, "cvt.sat.u8.s32 {d}, {a};", lambda a: min(max(signed(a), 0), 255)),
    "mean": Operation(
        2,
        "cvt.u64.u32 {w}, {a}; cvt.u64.u32 {x}, {b}; add.u64 {y}, {w}, {x}; shr.u64 {z}, {y}, 1; cvt.u32.u64 {d}, {z};",
        lambda a, b: (a + b) >> 1,
    ),
    "less": Operation(2, "setp.lt.s32 {p}, {a}, {b}; " + _CHOOSE, lambda a, b: signed(a) < signed(b)),
    "below": Operation(2, "setp.lt.u32 {p}, {a}, {b}; " + _CHOOSE, lambda a, b: a < b),
    "equal": Operation(2, "setp.eq.s32 {p}, {a}, {b}; " + _CHOOSE, lambda a, b: a == b),
    "less16": Operation(
        2,
        "cvt.u16.u32 {h}, {a}; cvt.u16.u32 {g}, {b}; setp.lt.s16 {p}, {h}, {g}; " + _CHOOSE,
        lambda a, b: signed(a, 16) < signed(b, 16),
    ),
}


@dataclass(frozen=True)
class Assign:
    variable: str
    value: Expression


@dataclass(frozen=True)
class Load:
    """The input at an index that may be negative as in Python; outside of it nothing happens."""

    variable: str
    index: Expression


@dataclass(frozen=True)
class Store:
    """Into a cell of the thread's own."""

    slot: int
    value: Expression


@dataclass(frozen=True)
class Add:
    """Atomically to a cell of the thread's own; the variable becomes what was there."""

    variable: str
    slot: int
    value: Expression


@dataclass(frozen=True)
class Count:
    """Atomically to one of the counters that all threads share."""

    index: Expression
    value: Expression


@dataclass(frozen=True)
class Keep:
    """In an array of the thread's own."""

    index: Expression
    value: Expression


@dataclass(frozen=True)
class Recall:
    variable: str
    index: Expression


@dataclass(frozen=True)
class If:
    condition: Expression
    then: tuple[Statement, ...]
    other: tuple[Statement, ...]


@dataclass(frozen=True)
class Repeat:
    """Up to 7 times."""

    counter: str
    count: Expression
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Stride:
    """The counter goes from tid.x to the limit in steps of a row."""

    counter: str
    limit: int
    body: tuple[Statement, ...]


@dataclass(frozen=True)
class Break:
    condition: Expression


@dataclass(frozen=True)
class Leave:
    """The thread ends."""

    condition: Expression


@dataclass(frozen=True)
class Exchange:
    """All threads put the variable into shared memory and take it from the one ``distance`` further."""

    variable: str
    distance: int


@dataclass(frozen=True)
class Shift:
    """Even and odd lanes, each by themselves, take the variable from the lane two below."""

    variable: str


@dataclass(frozen=True)
class Shuffle:
    """All lanes of a warp: the variable of another one, and 1 more if that is in the lane's segment. ``operand`` and ``control``
    are shfl's b and c, ``posted`` says that the mask is no constant.

    Only ``up`` where the last warp has fewer lanes: another source may not exist.
    """

    variable: str
    mode: str
    operand: Expression
    control: Expression
    posted: bool


@dataclass(frozen=True)
class Gather:
    """All lanes of a warp: what the ``operation`` (a key of GATHERED) makes of their variables."""

    variable: str
    operation: str
    posted: bool


def shuffled(mode: str, lane: int, operand: int, control: int) -> tuple[int, bool]:
    """(the lane whose value ``lane`` gets, whether that is the one asked for): PTX ISA, 9.7.9.6."""
    distance, clamp, segment = operand & 31, control & 31, control >> 8 & 31
    first = lane & segment
    bound = first | clamp & ~segment
    wanted = {"up": lane - distance, "down": lane + distance, "bfly": lane ^ distance}
    source = wanted.get(mode, first | distance & ~segment)
    inside = source >= bound if mode == "up" else source <= bound
    return source if inside else lane, inside


_VOTE = "and.b32 {t}, {v}, 1; setp.ne.u32 {p}, {t}, 0; vote.sync."
GATHERED: dict[str, tuple[str, Callable[[int, list[int]], int]]] = {
    "ballot": (
        _VOTE + "ballot.b32 {v}, {p}, {m};",
        lambda _, lanes: sum((value & 1) << lane for lane, value in enumerate(lanes)),
    ),
    "any": (_VOTE + "any.pred {q}, {p}, {m}; selp.b32 {v}, 1, 0, {q};", lambda _, lanes: any(v & 1 for v in lanes)),
    "all": (_VOTE + "all.pred {q}, {p}, {m}; selp.b32 {v}, 1, 0, {q};", lambda _, lanes: all(v & 1 for v in lanes)),
    "match": (
        "match.any.sync.b32 {v}, {v}, {m};",
        lambda own, lanes: sum((value == own) << lane for lane, value in enumerate(lanes)),
    ),
    "sum": ("redux.sync.add.s32 {v}, {v}, {m};", lambda _, lanes: sum(lanes)),
    "least": ("redux.sync.min.s32 {v}, {v}, {m};", lambda _, lanes: min(map(signed, lanes))),
    "most": ("redux.sync.max.u32 {v}, {v}, {m};", lambda _, lanes: max(lanes)),
}
"""Operation -> (PTX: {v} is the variable, {m} the mask, {t} a register, {p} and {q} predicates; its result from the lane's own value
and those of all lanes).
"""

Statement: TypeAlias = (
    Assign
    | Load
    | Store
    | Add
    | Count
    | Keep
    | Recall
    | If
    | Repeat
    | Stride
    | Break
    | Leave
    | Exchange
    | Shift
    | Shuffle
    | Gather
)

numbers = st.sampled_from(
    [0, 1, 2, 3, 4, 7, 31, 32, 65, 100, INPUT_SIZE, 255, 1000, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 5]
)
leaves = st.sampled_from(INDICES) | st.sampled_from((*VARIABLES, *COUNTS)) | numbers
EXPRESSION_DEPTH = 3
STATEMENT_DEPTH = 3


@st.composite
def expressions(draw: st.DrawFn, depth: int = EXPRESSION_DEPTH) -> Expression:
    if depth == 0 or draw(st.booleans()):
        return draw(leaves)
    name = draw(st.sampled_from(list(OPERATIONS)))
    return (name, *(draw(expressions(depth - 1)) for _ in range(OPERATIONS[name].arity)))


@st.composite
def rows(draw: st.DrawFn) -> Expression:
    """What grows evenly along a row of threads, or would if it did not wrap around."""
    index = draw(st.sampled_from(("tid.x", "linear", *COUNTS)))
    grown = ("add", ("mul", index, draw(st.sampled_from([1, 1, 1, 2, 65, 2**32 - 1, 2**16]))), draw(leaves))
    return draw(st.sampled_from((grown, grown, ("byte", grown), ("short", grown), ("mean", grown, ("sub", 0, grown)))))


comparisons = st.tuples(st.sampled_from(["less", "below", "less16"]), rows(), leaves)
conditions = expressions() | comparisons
values = expressions() | leaves | rows()


@dataclass(frozen=True)
class Place:
    """Where a statement stands. ``uniform``: all threads that live come here together; ``warps``: all of a warp do.
    ``leaves``: whether threads may end early; if so, they exchange no registers. ``keeps``: whether threads have arrays of their own;
    if so, no loop is run side by side.
    """

    uniform: bool
    leaves: bool
    keeps: bool
    warps: bool = True
    loops: int = 0
    breaks: bool = False
    """Whether it is in a loop that threads may leave by themselves."""
    depth: int = STATEMENT_DEPTH

    def below(self, **changes: bool | int) -> Place:
        return replace(self, depth=self.depth - 1, **changes)


@st.composite
def statements(draw: st.DrawFn, place: Place) -> Statement:
    simple: list[Callable[[], Statement]] = [
        lambda: Assign(draw(variables), draw(values)),
        lambda: Load(draw(variables), draw(values)),
        lambda: Store(draw(slots), draw(values)),
        lambda: Add(draw(variables), draw(slots), draw(values)),
        lambda: Count(draw(values), draw(values)),
    ]
    apart, together = place.below(uniform=False, warps=False), place.below()
    inside = place.below(uniform=False, warps=False, loops=place.loops + 1, breaks=True)
    looped = place.below(loops=place.loops + 1, breaks=False)
    by_warps, looped_by_warps = replace(together, uniform=False), replace(looped, uniform=False)
    counter = COUNTS[place.loops % SLOTS]
    if place.keeps:
        simple += [lambda: Keep(draw(values), draw(values)), lambda: Recall(draw(variables), draw(values))]
    if place.leaves:
        simple.append(lambda: Leave(draw(conditions)))
    if place.breaks:
        simple.append(lambda: Break(draw(conditions)))
    if place.uniform:
        simple += 2 * [lambda: Exchange(draw(variables), draw(st.integers(0, 40)))]
        if not place.leaves:
            simple.append(lambda: Shift(draw(variables)))
    if place.warps and not place.leaves:
        simple += [
            lambda: Shuffle(draw(variables), draw(modes), draw(values), draw(controls), draw(st.booleans())),
            lambda: Gather(draw(variables), draw(st.sampled_from(list(GATHERED))), draw(st.booleans())),
        ]
    if place.depth and place.warps:
        simple += [
            lambda: If(("less", "warp", draw(st.integers(0, 7))), draw(bodies(by_warps)), draw(bodies(by_warps))),
            lambda: Repeat(counter, ("add", "warp", draw(st.integers(0, 7))), draw(bodies(looped_by_warps))),
        ]
    if place.depth:
        simple += [
            lambda: If(draw(conditions), draw(bodies(apart)), draw(bodies(apart))),
            lambda: If(draw(st.sampled_from(("ctaid.x", "ntid.x", 0, 1))), draw(bodies(together)), ()),
            lambda: Repeat(counter, draw(values), draw(bodies(inside))),
            lambda: Repeat(counter, draw(st.integers(0, 7)), draw(bodies(looped))),
            lambda: Stride(counter, draw(st.sampled_from([0, 50, INPUT_SIZE, 300])), draw(bodies(inside))),
        ]
    return draw(st.sampled_from(simple))()


def bodies(place: Place, count_max: int = 4) -> st.SearchStrategy[tuple[Statement, ...]]:
    return st.lists(statements(place), min_size=1, max_size=count_max).map(tuple)


variables, slots = st.sampled_from(VARIABLES), st.integers(0, SLOTS - 1)
modes = st.sampled_from(("up", "down", "bfly", "idx"))
controls = st.sampled_from((31, 0, 0x1C1F, 0x181F, 0x1003)) | leaves
REPORT = tuple(Store(SLOTS + index, name) for index, name in enumerate(VARIABLES))
"""The end of every kernel: what its variables have become."""

places = st.builds(Place, uniform=st.just(True), leaves=st.booleans(), keeps=st.booleans())
kernels = places.flatmap(lambda place: bodies(place, 8)).map(lambda body: body + REPORT)
