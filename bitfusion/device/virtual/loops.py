"""Finds loops in which a thread should let others go first, and puts a suspension point at their back edge.

* A *spin loop* waits for another thread (a lock, a flag of another block). Threads of a virtual block run one after the
  other, so it would never end; with a yield in front of its back edge the others get their turn. Recognised: short
  loops without stores whose exit depends on an acquire, volatile or relaxed load, or on compare-and-swap or exchange
  with constants.
* A *grid-stride loop* over global memory can be run side by side (option lockstep): all threads do one iteration each,
  so that neighbours touch neighbouring memory and the iteration is vectorised.
"""

from __future__ import annotations

from collections.abc import Callable

from bitfusion.device.virtual.effects import LOCKSTEP, YIELD, destinations, inverse, reads, suspension
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
LOCKSTEP_SIZE_MAX = 48
"""Instructions in the loop: longer bodies lose more by saving registers than they gain."""


def insert_yields(function: Function) -> None:
    """Put a yield in front of the back edge of every spin loop."""
    constants = _constant_registers(function)
    _cut_back_edges(function, YIELD, lambda body, _: _spins(body, constants))


def insert_lockstep(function: Function) -> None:
    """Cut grid-stride loops at their back edge."""
    _cut_back_edges(function, LOCKSTEP, _strides)


def _target(instruction: Instruction) -> str | None:
    """Label of a ``bra``."""
    if instruction.opcode == "bra" and instruction.operands and isinstance(instruction.operands[0], Symbol):
        return instruction.operands[0].name
    return None


def _cut_back_edges(function: Function, opcode: str, wanted: Callable[[list[Instruction], bool], bool]) -> None:
    """Put ``opcode`` in front of each backward branch whose loop body is ``wanted(body, has_inner_loop)``."""
    body = function.body or []
    labels = {statement.name: index for index, statement in enumerate(body) if isinstance(statement, Label)}
    cut: list[Statement] = []
    for index, statement in enumerate(body):
        start = labels.get(_target(statement) or "", index) if isinstance(statement, Instruction) else index
        if start < index and isinstance(statement, Instruction):
            loop = [item for item in body[start:index] if isinstance(item, Instruction)]
            inner = any(start < labels.get(_target(item) or "", -1) for item in loop)
            if wanted(loop, inner):
                cut += _cut(statement, opcode, f"$cut@{index}")
                continue
        cut.append(statement)
    function.body = cut


def _cut(branch: Instruction, opcode: str, skip: str) -> list[Statement]:
    """The branch with ``opcode`` executed when it is taken."""
    pause = Instruction(opcode, (), (), None, branch.line)
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


def _strides(body: list[Instruction], has_inner_loop: bool) -> bool:
    if has_inner_loop or len(body) > LOCKSTEP_SIZE_MAX:
        return False
    if any(suspension(i) or i.opcode in ("call", "atom", YIELD) for i in body):
        return False
    return any(i.opcode in ("ld", "ldu") and not i.has("shared", "param", "const", "local") for i in body)
