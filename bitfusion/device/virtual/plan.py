"""What is decided about a kernel before any code is written: its states, what it saves at suspension points, and where
memory lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bitfusion.device.virtual import emit_warp
from bitfusion.device.virtual.datatypes import BITS_OF_LLVM
from bitfusion.device.virtual.effects import destinations, suspension
from bitfusion.device.virtual.emit_warp import Description
from bitfusion.device.virtual.evenness import Evenness
from bitfusion.device.virtual.flow import ENTRY, Block, Graph, Suspend, build_graph, reach, running
from bitfusion.device.virtual.inline import inline_calls
from bitfusion.device.virtual.instructions import check_counts
from bitfusion.device.virtual.layout import THREADS_MAX, CompileOptions
from bitfusion.device.virtual.liveness import Liveness
from bitfusion.device.virtual.local_memory import LocalMemory
from bitfusion.device.virtual.loops import insert_lockstep, insert_yields
from bitfusion.device.virtual.rematerialize import Chains, rematerializable
from bitfusion.device.virtual.syntax import Declaration, Function, Immediate, Instruction, Module, Operand, Register
from bitfusion.device.virtual.uniform import uniform_registers
from bitfusion.errors import UnsupportedError

LOCAL_SIZE_MAX = 512 * 1024
"""Bytes of local memory per thread (CUDA C++ Programming Guide, Technical Specifications per Compute Capability)."""

LOCAL_ALIGNMENT = 16
"""Of what a thread keeps in the local area: no type is larger."""

UINT32_MAX = 0xFFFFFFFF

_SLOT_PAD = 64  # between the arrays of a frame, as in the block record


@dataclass(frozen=True, slots=True)
class Point:
    """A suspension point. ``live``: registers needed behind it; ``saved``: those of them that are kept in the frame.

    ``results``: registers that are written when the thread goes on; ``mask``: the lanes of a warp operation where they are constant,
    else 0.
    """

    state: int
    block: Block
    instruction: Instruction
    target: str
    live: tuple[str, ...]
    saved: tuple[str, ...]
    results: tuple[str, ...]
    mask: int


@dataclass(frozen=True, slots=True)
class Plan:
    """``uniform``: registers all threads of a block agree on.

    ``even``: saved register -> by how much it is thought to grow per thread (``evenness``).
    ``slots``: saved register -> offset of its array in the frame.
    """

    function: Function
    graph: Graph
    liveness: Liveness
    chains: Chains
    uniform: frozenset[str]
    even: Mapping[str, int]
    points: tuple[Point, ...]
    slots: dict[str, int]
    frame_size: int
    parameters: dict[str, int]
    arguments_size: int
    locals: dict[str, int]
    local_size: int

    @property
    def suspensions(self) -> tuple[Description, ...]:
        return ((0, 0, 0, 0), *(emit_warp.describe(point.instruction, point.mask) for point in self.points))

    @property
    def local_area(self) -> int:
        """Bytes of what the threads of a block keep in its local area. One that never stops shares it with those after it."""
        return self.local_size * (THREADS_MAX if self.points else 1)

    @property
    def yields(self) -> bool:
        return any(suspension(point.instruction) == "yield" for point in self.points)

    @property
    def stack_size(self) -> int:
        """Bytes of .local variables of a thread."""
        return sum(variable.size for variable in self.function.variables.values() if variable.space == "local")

    def storage_size(self, register: str) -> int:
        """Bytes of a register in the frame: predicates take one."""
        return (BITS_OF_LLVM[self.function.registers[register].storage] + 7) // 8

    def registers_count(self) -> int:
        """32-bit registers alive at once."""
        return sum(
            (self.storage_size(name) + 3) // 4 for name in self.liveness.most_alive() if name in self.function.registers
        )


def plan_kernel(module: Module, kernel: Function, suspending: set[str], options: CompileOptions) -> Plan:
    """Expand calls, cut loops and lay out memory. Raises UnsupportedError or InvalidValueError."""
    function = inline_calls(module, kernel, suspending)
    check_counts(function)
    insert_yields(function)
    evenness = Evenness(function)
    if options.lockstep:
        insert_lockstep(function, evenness)
    graph = build_graph(function)
    liveness = Liveness(function, graph)
    chains = rematerializable(function, liveness) if options.rematerialize else {}
    points = tuple(_points(graph, liveness, chains))
    slots, frame_size = _frame(function, points)
    guesses = {name: evenness.of(Register(name)) for name in slots}
    parameters, arguments_size = lay_out(function.parameters)
    stacked = [variable for variable in function.variables.values() if variable.space in ("local", "param")]
    escaping = LocalMemory(function, liveness.definitions).escaping()
    locals_, local_size = lay_out(variable for variable in stacked if points or variable.name in escaping)
    if sum(variable.size for variable in stacked) > LOCAL_SIZE_MAX:
        raise UnsupportedError(
            f"kernel {kernel.name} needs more than {LOCAL_SIZE_MAX} bytes of local memory", feature="local memory"
        )
    return Plan(
        function=function,
        graph=graph,
        liveness=liveness,
        chains=chains,
        uniform=frozenset(uniform_registers(function, graph)),
        even={name: guess for name, guess in guesses.items() if guess is not None},
        points=points,
        slots=slots,
        frame_size=frame_size,
        parameters=parameters,
        arguments_size=arguments_size,
        locals=locals_,
        local_size=-(-local_size // LOCAL_ALIGNMENT) * LOCAL_ALIGNMENT,
    )


def lay_out(declarations: Iterable[Declaration]) -> tuple[dict[str, int], int]:
    """Offsets of variables one behind the other at their alignment, and the size of them all."""
    offsets: dict[str, int] = {}
    top = 0
    for declaration in declarations:
        top = -(-top // declaration.alignment) * declaration.alignment
        offsets[declaration.name] = top
        top += declaration.size
    return offsets, top


def reachable(graph: Graph, start: str = ENTRY, through: str = "") -> list[str]:
    """Blocks reached from ``start`` without passing a suspension point, in the order of the text but ``start`` wherever
    it stands. ``through``: a block whose suspension point is passed.
    """
    seen = reach([start], running(graph, through))
    return sorted(seen, key=lambda name: graph[name].position)


def _points(graph: Graph, liveness: Liveness, chains: Chains) -> Iterable[Point]:
    blocks = [block for block in graph.values() if isinstance(block.terminator, Suspend)]
    for state, block in enumerate(blocks, 1):
        assert isinstance(block.terminator, Suspend)
        instruction = block.terminator.instruction
        emit_warp.check(instruction)
        results = tuple(destinations(instruction))
        behind = [name for name in liveness.live_out(block) if name not in results]
        live = tuple(dict.fromkeys([*behind, *emit_warp.kept(instruction)]))
        saved = tuple(name for name in live if name not in chains)
        mask = _constant(emit_warp.mask_of(instruction), chains)
        yield Point(state, block, instruction, block.terminator.target, live, saved, results, mask)


def _constant(operand: Operand | None, chains: Chains) -> int:
    """A 32-bit operand, if it is a constant; else 0."""
    if isinstance(operand, Register) and len(chains.get(operand.name, ())) == 1:
        (step,) = chains[operand.name]
        operand = step.operands[1] if step.opcode == "mov" else None
    return operand.value & UINT32_MAX if isinstance(operand, Immediate) else 0


def _frame(function: Function, points: tuple[Point, ...]) -> tuple[dict[str, int], int]:
    """The frame: for every saved register an array over the threads, so that a row is loaded with vector instructions."""
    slots: dict[str, int] = {}
    top = 0
    for point in points:
        for name in point.saved:
            if name not in slots:
                slots[name] = top
                top += (BITS_OF_LLVM[function.registers[name].storage] + 7) // 8 * THREADS_MAX + _SLOT_PAD
    return slots, top
