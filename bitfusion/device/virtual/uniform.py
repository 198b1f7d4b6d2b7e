"""Which registers hold the same value in all threads of a block (loop counters, bounds, kernel parameters).

A register is divergent if its value depends on the thread index, on memory another thread may have written, on a warp
operation, or if it is written under a branch that depends on a divergent predicate, or in a loop in which a thread stops at a
suspension point under such a branch. Branches that only lead to the end of the kernel are ignored: whoever takes them is gone, and
for the threads that stay nothing differs.
"""

from __future__ import annotations

from bitfusion.device.virtual.effects import CARRY, is_warp_operation, registers_in, sources, suspension, writes
from bitfusion.device.virtual.flow import Block, Branch, Graph, Suspend, Switch, reach
from bitfusion.device.virtual.syntax import Address, Function, Instruction, Operand, SpecialRegister, Symbol

TIMERS = frozenset({"clock", "clock64", "clock_hi", "globaltimer", "globaltimer_lo", "globaltimer_hi"})

_THREAD_REGISTERS = TIMERS | {
    "tid", "laneid", "warpid", "lanemask_eq", "lanemask_lt", "lanemask_le", "lanemask_gt", "lanemask_ge",
}  # fmt: skip
_DIVERGENT_OPCODES = frozenset({"atom", "ldu", "call", "isspacep", "mbarrier", "alloca", "stacksave"})
_CARRY_READERS = frozenset({"addc", "subc", "madc"})


def uniform_registers(function: Function, graph: Graph) -> set[str]:
    """Names of the registers that every thread of a block agrees on."""
    return _Uniformity(function, graph).solve()


class _Uniformity:
    def __init__(self, function: Function, graph: Graph) -> None:
        self.function = function
        self.graph = graph
        self.dependencies = control_dependencies(graph)
        self.divergent: set[str] = set()
        self.divergent_branches: set[str] = set()
        self._predecessors: dict[str, list[str]] = {name: [] for name in graph}
        for block in graph.values():
            for successor in block.successors:
                self._predecessors[successor].append(block.name)

    def solve(self) -> set[str]:
        while sum(map(self._visit, self.graph.values())):  # not any(): every block is visited before the next round
            pass
        written = {name for block in self.graph.values() for item in block.all_instructions() for name in writes(item)}
        return written - self.divergent

    def _visit(self, block: Block) -> bool:
        """Note what is divergent in the block; whether anything was new."""
        known = len(self.divergent) + len(self.divergent_branches)
        controlled = not self.divergent_branches.isdisjoint(self.dependencies[block.name])
        if controlled and isinstance(block.terminator, Suspend):
            self.divergent.update(self._written_around(block.name))
        for instruction in block.all_instructions():
            predicate = instruction.predicate
            if (
                controlled
                or (predicate is not None and predicate.name in self.divergent)
                or self._diverges(instruction)
            ):
                self.divergent.update(writes(instruction))
        match block.terminator:
            case Branch(predicate) if controlled or predicate.name in self.divergent:
                self.divergent_branches.add(block.name)
            case Switch(index) if controlled or self._divergent_operand(index):
                self.divergent_branches.add(block.name)
        return len(self.divergent) + len(self.divergent_branches) > known

    def _written_around(self, name: str) -> set[str]:
        """Registers that are written in the loops around a block: threads that do not all stop there in each iteration meet there in
        different ones.
        """
        behind = reach(self.graph[name].successors, {block.name: block.successors for block in self.graph.values()})
        around = behind & reach([name], self._predecessors)
        return {
            register for other in around for item in self.graph[other].all_instructions() for register in writes(item)
        }

    def _diverges(self, instruction: Instruction) -> bool:
        """Whether the instruction may give different threads different results."""
        if instruction.opcode == "ld":
            return not self._reads_constant(instruction)
        if suspension(instruction) == "bar":
            return self._divides(instruction)
        if is_warp_operation(instruction) or instruction.opcode in _DIVERGENT_OPCODES:
            return True
        if instruction.opcode in _CARRY_READERS and CARRY in self.divergent:
            return True
        return any(self._divergent_operand(operand) for operand in sources(instruction))

    def _divides(self, barrier: Instruction) -> bool:
        """Whether a ``bar.red`` may give groups of threads results of their own: ones that are counted, or choose their barrier
        (PTX ISA, 9.7.13.1: bar.red d, barrier{, threads}, predicate).
        """
        operands = sources(barrier)
        return len(operands) > 2 or any(map(self._divergent_operand, operands[:1]))

    def _reads_constant(self, load: Instruction) -> bool:
        """A load of a kernel parameter, or of .const memory at an address all threads share."""
        address = load.operands[-1]
        if not isinstance(address, Address):
            return False
        if "param" in load.modifiers:
            return isinstance(address.base, Symbol) and address.base.name not in self.function.variables
        return "const" in load.modifiers and not self._divergent_operand(address)

    def _divergent_operand(self, operand: Operand) -> bool:
        if isinstance(operand, SpecialRegister):
            return operand.name.partition(".")[0] in _THREAD_REGISTERS
        if isinstance(operand, Symbol):
            variable = self.function.variables.get(operand.name)
            return variable is not None and variable.space == "local"
        return any(name in self.divergent for name in registers_in(operand))


def control_dependencies(graph: Graph) -> dict[str, set[str]]:
    """Block -> the branching blocks that decide whether it is executed (Ferrante, Ottenstein, Warren 1987); early exits
    ignored.
    """
    successors = _without_early_exits(graph)
    names = list(graph)
    index = {name: position for position, name in enumerate(names)}
    dominators = _post_dominators(names, successors, index)
    dependencies: dict[str, set[str]] = {name: set() for name in names}
    for branch in names:
        if len(successors[branch]) < 2:
            continue
        strict = dominators[branch] & ~(1 << index[branch])
        for successor in successors[branch]:
            dependent = dominators[successor] & ~strict
            while dependent:
                dependencies[names[(dependent & -dependent).bit_length() - 1]].add(branch)
                dependent &= dependent - 1
    return dependencies


def _without_early_exits(graph: Graph) -> dict[str, list[str]]:
    """Successors, leaving out those from which a thread can only reach its end without stopping."""
    leaving: set[str] = set()
    changed = True
    while changed:
        changed = False
        for block in graph.values():
            if block.name in leaving or isinstance(block.terminator, Suspend):
                continue
            if all(successor in leaving for successor in block.successors):
                leaving.add(block.name)
                changed = True
    staying = {
        block.name: [name for name in block.successors if name not in leaving] or list(block.successors)
        for block in graph.values()
    }
    return staying | {name: list(graph[name].successors) for name in _endless(staying)}


def _endless(successors: dict[str, list[str]]) -> set[str]:
    """Blocks of loops that have lost their exits: without one, no block comes after another for certain."""
    reached = {name: reach(successors[name], successors) for name in successors}
    ends = {name for name in successors if not successors[name]}
    return {name for name in successors if name in reached[name] and ends.isdisjoint(reached[name])}


def _post_dominators(names: list[str], successors: dict[str, list[str]], index: dict[str, int]) -> dict[str, int]:
    """Block -> bit mask of the blocks every path from it to the end passes."""
    everything = (1 << len(names)) - 1
    dominators = {name: everything if successors[name] else 1 << index[name] for name in names}
    changed = True
    while changed:
        changed = False
        for name in reversed(names):
            if not successors[name]:
                continue
            common = everything
            for successor in successors[name]:
                common &= dominators[successor]
            common |= 1 << index[name]
            changed = changed or common != dominators[name]
            dominators[name] = common
    return dominators
