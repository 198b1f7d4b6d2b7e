"""What an instruction reads, writes and waits for; owns no analysis of its own."""

from __future__ import annotations

from collections.abc import Iterator

from bitfusion.device.virtual.syntax import Address, Instruction, Negated, Operand, Pair, Register, Symbol, Vector

CARRY = "%CC"
"""The condition code register that .cc instructions write and addc, subc, madc read (PTX ISA, 9.7.2)."""

YIELD = ".yield"
LOCKSTEP = ".lockstep"
"""Instructions PTX does not have: the thread lets others go first. Put in by ``loops``, and by the parser in front of tests
of an mbarrier.
"""

STACK_FRAME = ".stackframe"
"""Put in by the parser: a kernel that uses ``alloca`` begins."""

_WITHOUT_DESTINATION = frozenset(
    [
        "st",
        "red",
        "bra",
        "brx",
        "membar",
        "fence",
        "prefetch",
        "prefetchu",
        "ret",
        "exit",
        "trap",
        "brkpt",
        "nanosleep",
        "cp",
        "discard",
        "applypriority",
        "pmevent",
        "griddepcontrol",
        "setmaxnreg",
        "stackrestore",
        "call",
    ]
)
_WARP_OPERATIONS = frozenset({"shfl", "vote", "match", "redux", "activemask", "elect"})
_READ_CARRY = frozenset({"addc", "subc", "madc"})


def registers_in(operand: Operand) -> list[str]:
    """Names of the registers an operand mentions."""
    match operand:
        case Register(name) | Negated(name):
            return [name]
        case Address(base):
            return registers_in(base)
        case Vector(items):
            return [name for item in items for name in registers_in(item)]
        case Pair(first, second):
            return registers_in(first) + registers_in(second)
    return []


def symbols_in(operand: Operand) -> Iterator[str]:
    """Names of the variables, functions and labels an operand mentions."""
    match operand:
        case Symbol(name):
            yield name
        case Address(base):
            yield from symbols_in(base)
        case Vector(items):
            for item in items:
                yield from symbols_in(item)


def has_destination(instruction: Instruction) -> bool:
    """Whether the first operand is written."""
    if instruction.opcode in ("bar", "barrier"):
        return instruction.has("red")
    if instruction.opcode == "mbarrier":
        return not instruction.has("init", "inval")
    return instruction.opcode not in _WITHOUT_DESTINATION and bool(instruction.operands)


def destinations(instruction: Instruction) -> list[str]:
    """Registers written, without the carry."""
    if instruction.call is not None:
        return [name for result in instruction.call.results for name in registers_in(result)]
    return registers_in(instruction.operands[0]) if has_destination(instruction) else []


def writes(instruction: Instruction) -> list[str]:
    """Registers written, with the carry."""
    written = destinations(instruction)
    return [*written, CARRY] if "cc" in instruction.modifiers else written


def sources(instruction: Instruction) -> tuple[Operand, ...]:
    """Operands that are read."""
    if instruction.call is not None:
        return (instruction.call.target, *instruction.call.arguments)
    return instruction.operands[1:] if has_destination(instruction) else instruction.operands


def reads(instruction: Instruction) -> list[str]:
    """Registers read. A predicated instruction reads its destinations too: it may leave them as they are."""
    names = [name for operand in sources(instruction) for name in registers_in(operand)]
    if instruction.opcode in _READ_CARRY:
        names.append(CARRY)
    if instruction.predicate is not None:
        names += [instruction.predicate.name, *destinations(instruction)]
    return names


def suspension(instruction: Instruction) -> str | None:
    """The kind of suspension point (a key of layout.SUSPENSION), "arrive" for bar.arrive, or None."""
    match instruction.opcode:
        case "bar" | "barrier":
            if instruction.has("arrive"):
                return "arrive"
            if instruction.has("warp"):
                return "warpsync"
            return None if instruction.has("cluster") else "bar"
        case "nanosleep" | ".yield":
            return "yield"
        case ".lockstep":
            return "lockstep"
        case opcode if opcode in _WARP_OPERATIONS:
            return opcode
    return None


def is_warp_operation(instruction: Instruction) -> bool:
    return instruction.opcode in _WARP_OPERATIONS


def suspends(instruction: Instruction) -> bool:
    """Whether the thread stops here until others have come."""
    return suspension(instruction) not in (None, "arrive")


def inverse(predicate: Register | Negated) -> Register | Negated:
    return Negated(predicate.name) if isinstance(predicate, Register) else Register(predicate.name)
