"""Finds loops in which a thread should let others go first, and puts a suspension point at their back edge.

* A *spin loop* waits for another thread (a lock, a flag of another block). Threads of a virtual block run one after the
  other, so it would never end; with a yield in front of its back edge the others get their turn. Recognised: short
  loops without stores whose exit depends on an acquire, volatile or relaxed load, or on compare-and-swap or exchange
  with constants.
* A loop that all threads of a block seem to leave together (a grid-stride loop, a loop over a tile) is run *side by side*
  (option lockstep): all threads do one iteration each, so that neighbours touch neighbouring memory and the iteration is
  vectorised. Threads that cannot keep step run through to the loop's end (``region``).
"""

from __future__ import annotations

from dataclasses import dataclass

from bitfusion.device.virtual.effects import LOCKSTEP, YIELD, destinations, inverse, reads, suspension
from bitfusion.device.virtual.evenness import Evenness, grows_unevenly
from bitfusion.device.virtual.syntax import (
    Function,
    Immediate,
    Instruction,
    Label,
    Operand,
    Register,
    Statement,
    Symbol,
)

SPIN_SIZE_MAX = 40

_NOT_IN_STEP = frozenset({"call", "brx", "ret", "exit", "trap", YIELD})
LOCKSTEP_SIZE_MAX = 120
"""Instructions in the loop: its code is there twice, and more often than it is run if the body is long."""


def insert_yields(function: Function) -> None:
    """Put a yield in front of the back edge of every spin loop."""
    constants = _constant_registers(function)
    ends = {loop.end for loop in _loops(function) if _spins(loop.body, constants)}
    cut: list[Statement] = []
    for index, statement in enumerate(function.body or []):
        if index in ends and isinstance(statement, Instruction):
            cut += _cut(statement, f"$cut@{index}")
        else:
            cut.append(statement)
    function.body = cut


def insert_lockstep(function: Function, evenness: Evenness) -> None:
    """Cut the loops that are run side by side at their head."""
    if any(variable.space in ("local", "param") for variable in function.variables.values()):
        return  # they lie on the stack, one for all threads of a region, unless a thread may stop
    loops = _loops(function)
    heads = {loop.start for loop in loops if _in_step(loop, evenness)}
    heads -= {loop.start for loop in loops if not _in_step(loop, evenness)}  # a second branch back to the same head
    cut: list[Statement] = []
    for index, statement in enumerate(function.body or []):
        cut.append(statement)
        if index in heads:
            cut.append(Instruction(LOCKSTEP, (), ()))
    function.body = cut


@dataclass(frozen=True, slots=True)
class _Loop:
    """``start`` and ``end``: places of its label and of the branch back in the text. ``body``: with that branch.
    ``exits``: branches that leave the loop. ``nested``: it has a loop inside.
    """

    start: int
    end: int
    body: list[Instruction]
    exits: list[Instruction]
    nested: bool


def _loop(body: list[Statement], labels: dict[str, int], start: int, end: int) -> _Loop:
    """The loop from the label at ``start`` to the branch at ``end``."""
    inside = [item for item in body[start : end + 1] if isinstance(item, Instruction)]
    branches = [(item, labels.get(target, end)) for item in inside if (target := _target(item)) is not None]
    places = {id(item): index for index, item in enumerate(body[start : end + 1], start)}
    return _Loop(
        start,
        end,
        inside,
        [item for item, target in branches if not start < target <= end],
        any(start < target <= places[id(item)] for item, target in branches),
    )


def _target(instruction: Instruction) -> str | None:
    """Label of a ``bra``."""
    if instruction.opcode == "bra" and instruction.operands and isinstance(instruction.operands[0], Symbol):
        return instruction.operands[0].name
    return None


def _loops(function: Function) -> list[_Loop]:
    """The loops that end with a backward branch, in the order of their ends."""
    body = function.body or []
    labels = {statement.name: index for index, statement in enumerate(body) if isinstance(statement, Label)}
    found = []
    for index, statement in enumerate(body):
        start = labels.get(_target(statement) or "", index) if isinstance(statement, Instruction) else index
        if start < index:
            found.append(_loop(body, labels, start, index))
    return found


def _cut(branch: Instruction, skip: str) -> list[Statement]:
    """The branch with a yield executed when it is taken."""
    pause = Instruction(YIELD, (), (), None, branch.line)
    if branch.predicate is None:
        return [pause, branch]
    leave = Instruction("bra", (), (Symbol(skip),), inverse(branch.predicate), branch.line)
    back = Instruction("bra", (), branch.operands, None, branch.line)
    return [leave, pause, back, Label(skip)]


def _constant_registers(function: Function) -> set[str]:
    """Registers that only ever hold an immediate."""
    constant: dict[str, bool] = {}
    for instruction in function.instructions():
        immediate = instruction.opcode == "mov" and isinstance(instruction.operands[-1], Immediate)
        for name in destinations(instruction):
            constant[name] = constant.get(name, True) and immediate
    return {name for name, always in constant.items() if always}


def _spins(body: list[Instruction], constants: set[str]) -> bool:
    if len(body) >= SPIN_SIZE_MAX or any(i.opcode in ("call", "st", "red") or suspension(i) for i in body):
        return False
    waits = [i for i in body if _waits(i, constants)]
    return bool(waits) and _decide_exit(body, waits)


def _waits(instruction: Instruction, constants: set[str]) -> bool:
    """Whether the value may be another thread's signal."""

    def constant(operand: Operand) -> bool:
        return isinstance(operand, Immediate) or (isinstance(operand, Register) and operand.name in constants)

    if instruction.opcode == "ld":
        return instruction.has("acquire", "volatile", "relaxed")
    if instruction.opcode == "atom" and len(instruction.operands) > 2:
        return instruction.has("cas", "exch") and constant(instruction.operands[2])
    return False


def _decide_exit(body: list[Instruction], waits: list[Instruction]) -> bool:
    """Whether a value of ``waits`` reaches a predicate of the loop. Three rounds follow any chain a compiler writes."""
    tainted = {name for wait in waits for name in destinations(wait)}
    for _ in range(3):
        for instruction in body:
            if tainted.intersection(reads(instruction)):
                tainted.update(destinations(instruction))
    return any(
        (i.opcode == "bra" and i.predicate is not None and i.predicate.name in tainted)
        or (i.opcode == "setp" and not tainted.isdisjoint(destinations(i)))
        for i in body
    )


def _in_step(loop: _Loop, evenness: Evenness) -> bool:
    """Whether the threads of a row seem to leave the loop together, and may stop in it."""
    if loop.nested or len(loop.body) > LOCKSTEP_SIZE_MAX:
        return False
    if any(suspension(i) or i.opcode in _NOT_IN_STEP for i in loop.body):
        return False
    return all(i.predicate is not None and _even_exit(i.predicate.name, loop.body, evenness) for i in loop.exits)


def _even_exit(predicate: str, body: list[Instruction], evenness: Evenness) -> bool:
    """Whether a predicate that decides about leaving the loop seems to be the same for all threads of a row."""
    if evenness.of(Register(predicate)) is None:
        return False
    comparisons = [i for i in body if i.opcode == "setp" and predicate in destinations(i)]
    return not any(grows_unevenly(evenness, comparison, body) for comparison in comparisons)
