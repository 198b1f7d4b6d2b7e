"""The control flow graph of a function: basic blocks that end in a jump, a branch, a suspension point or the function's
end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from bitfusion.device.virtual.effects import LOCKSTEP, inverse, suspends
from bitfusion.device.virtual.syntax import Function, Instruction, Label, Negated, Operand, Register, Statement, Symbol
from bitfusion.device.virtual.tokens import syntax_error

ENTRY = "@entry"

_PREDICATED_CONTROL = frozenset({"call", "ret", "exit", "trap", "brx"})


@dataclass(frozen=True, slots=True)
class Jump:
    target: str


@dataclass(frozen=True, slots=True)
class Branch:
    predicate: Register | Negated
    taken: str
    other: str


@dataclass(frozen=True, slots=True)
class Switch:
    """``brx.idx``: ``index`` selects a target."""

    index: Operand
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Suspend:
    """The thread stops at ``instruction`` and goes on at ``target``."""

    instruction: Instruction
    target: str


@dataclass(frozen=True, slots=True)
class End:
    """``ret``, ``exit`` or the last statement."""


Terminator: TypeAlias = Jump | Branch | Switch | Suspend | End


@dataclass(slots=True, eq=False)
class Block:
    """``position`` is the block's place in the text: a jump to a lower or equal one goes backward."""

    name: str
    position: int
    instructions: list[Instruction] = field(default_factory=list)
    terminator: Terminator = field(default_factory=End)

    @property
    def successors(self) -> tuple[str, ...]:
        match self.terminator:
            case Jump(target) | Suspend(_, target):
                return (target,)
            case Branch(_, taken, other):
                return (taken, other)
            case Switch(_, targets):
                return tuple(dict.fromkeys(targets))
        return ()

    def all_instructions(self) -> list[Instruction]:
        """The block's instructions and the one it suspends at."""
        if isinstance(self.terminator, Suspend):
            return [*self.instructions, self.terminator.instruction]
        return self.instructions


Graph: TypeAlias = dict[str, Block]


def build_graph(function: Function) -> Graph:
    """The reachable blocks by name, in the order of the text; the first is ENTRY.

    InvalidValueError for an unknown label.
    """
    body = _branch_around(function.body or [])
    builder = _Builder(function, {statement.name for statement in body if isinstance(statement, Label)})
    for statement in body:
        builder.add(statement)
    return _reachable(builder.graph)


def _branch_around(body: list[Statement]) -> list[Statement]:
    """Predicated suspensions and control flow become a branch around the plain instruction."""
    result: list[Statement] = []
    for index, item in enumerate(body):
        if (
            isinstance(item, Label)
            or item.predicate is None
            or not (suspends(item) or item.opcode in _PREDICATED_CONTROL)
        ):
            result.append(item)
            continue
        skip = f"$skip@{index}"
        plain = Instruction(item.opcode, item.modifiers, item.operands, None, item.line, item.call)
        result += [Instruction("bra", (), (Symbol(skip),), inverse(item.predicate), item.line), plain, Label(skip)]
    return result


class _Builder:
    def __init__(self, function: Function, labels: set[str]) -> None:
        self.function = function
        self.labels = labels
        self.graph: Graph = {}
        self.open = True
        self.current = self._begin(ENTRY)

    def add(self, statement: Statement) -> None:
        if isinstance(statement, Label):
            if statement.name in self.graph:
                raise syntax_error(0, f"label {statement.name} of {self.function.name} is defined twice")
            if self.open:
                self.current.terminator = Jump(statement.name)
            self.current = self._begin(statement.name)
            return
        if not self.open:
            self.current = self._begin(f"@{len(self.graph)}")
        terminator, falls_through = self._terminator(statement)
        if terminator is None:
            self.current.instructions.append(statement)
            return
        self.current.terminator = terminator
        self.open = False
        if falls_through:
            self.current = self._begin(self._next_name())

    def _begin(self, name: str) -> Block:
        self.graph[name] = Block(name, len(self.graph))
        self.open = True
        return self.graph[name]

    def _next_name(self) -> str:
        return f"@{len(self.graph)}"

    def _terminator(self, instruction: Instruction) -> tuple[Terminator | None, bool]:
        """How the instruction ends its block, and whether the next statement belongs to the block that follows."""
        match instruction.opcode:
            case "bra":
                target = self._label(instruction)
                if instruction.predicate is None:
                    return Jump(target), False
                return Branch(instruction.predicate, target, self._next_name()), True
            case "brx":
                return self._switch(instruction), False
            case "ret" | "exit":
                return End(), False
            case "trap":
                self.current.instructions.append(instruction)
                return End(), False
        if suspends(instruction):
            return Suspend(instruction, self._next_name()), True
        return None, False

    def _label(self, instruction: Instruction) -> str:
        if len(instruction.operands) != 1 or not isinstance(instruction.operands[0], Symbol):
            raise syntax_error(instruction.line, "bra needs a label")
        return self._known(instruction.operands[0].name, instruction.line)

    def _known(self, label: str, line: int) -> str:
        if label not in self.labels:
            raise syntax_error(line, f"unknown label {label}")
        return label

    def _switch(self, instruction: Instruction) -> Switch:
        """``brx.idx index, table`` (PTX ISA, 9.7.12.4)"""
        if len(instruction.operands) != 2 or not isinstance(instruction.operands[1], Symbol):
            raise syntax_error(instruction.line, "brx.idx needs an index and a table")
        targets = self.function.branch_targets.get(instruction.operands[1].name, ())
        if not targets:
            raise syntax_error(instruction.line, f"unknown table {instruction.operands[1].name}")
        return Switch(instruction.operands[0], tuple(self._known(target, instruction.line) for target in targets))


def _reachable(graph: Graph) -> Graph:
    seen = reach([ENTRY], {name: block.successors for name, block in graph.items()})
    return {name: block for name, block in graph.items() if name in seen}


def running(graph: Graph, through: str = "") -> dict[str, tuple[str, ...]]:
    """Block -> the blocks that follow it without a stop at a suspension point, other than that of the block ``through``."""
    return {
        name: () if isinstance(block.terminator, Suspend) and name != through else block.successors
        for name, block in graph.items()
    }


def is_lockstep(block: Block) -> bool:
    """Whether the block ends at the head of a loop that is run side by side."""
    return isinstance(block.terminator, Suspend) and block.terminator.instruction.opcode == LOCKSTEP


def reach(starts: Iterable[str], successors: Mapping[str, Iterable[str]], avoiding: str = "") -> set[str]:
    """The blocks that can be reached from ``starts``, with these themselves, on ways that do not pass ``avoiding``."""
    seen: set[str] = set()
    todo = list(starts)
    while todo:
        name = todo.pop()
        if name != avoiding and name not in seen:
            seen.add(name)
            todo += successors[name]
    return seen
