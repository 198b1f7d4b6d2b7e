"""From an address operand to an LLVM pointer, with the checks that keep a kernel inside its own memory.

State spaces (PTX ISA, 5.1): global, const and generic addresses are host addresses; a shared address is an offset into
the block's shared memory; .param and .local variables are addressed by name or through generic addresses.
"""

from __future__ import annotations

from bitfusion.device.virtual import metadata
from bitfusion.device.virtual.builder import Value, constant
from bitfusion.device.virtual.emitter import (
    BLOCK_POINTER,
    MEMORY_BASE,
    MEMORY_SIZE,
    SHADOW,
    SHARED,
    SHARED_SIZE,
    Emitter,
)
from bitfusion.device.virtual.layout import GRANULE, RUNTIME_FUNCTIONS
from bitfusion.device.virtual.syntax import Address, Declaration, Immediate, Instruction, Operand, Register, Symbol

_LOCAL_CHAIN_MAX = 8
"""Additions between a local variable and an access: compilers write at most three."""

_SPACES = {space: space for space in ("global", "shared", "local", "const", "param")}


def state_space(instruction: Instruction) -> str:
    """The state space an instruction names, or "generic"."""
    for modifier in instruction.modifiers:
        space = _SPACES.get(modifier.partition("::")[0])
        if space:
            return space
    return "generic"


def resolve(e: Emitter, operand: Operand, space: str, size: int) -> Value:
    """The pointer for an access of ``size`` bytes, checked as the options ask."""
    if not isinstance(operand, Address):
        raise e.invalid("needs an address")
    if e.current in e.row_pointers:
        return e.row_pointers[e.current]()
    base, offset = operand.base, operand.offset
    match base:
        case Symbol(name):
            return _named(e, name, offset, size)
        case Immediate(value):
            address = constant("i64", value + offset)
        case Register(name):
            local = _local_pointer(e, name, offset) if space == "local" else None
            if local is not None:
                return local
            address = _register_address(e, name, space)
            address = e.op("add", address, offset) if offset else address
        case _:
            raise e.invalid("this kind of address is not supported")
    return _checked(e, address, space, size)


def alias_attributes(e: Emitter, operand: Operand, space: str) -> str:
    """The metadata of an access: what it cannot overlap, and that threads are independent.

    Not for .local memory: on the stack it is one piece of memory for all threads of the loop.
    """
    base = operand.base if isinstance(operand, Address) else None
    if isinstance(base, Symbol):
        variable = e.variable(base.name)
        if variable is not None:
            space = "local" if variable.space == "param" else variable.space
        elif e.parameters_invariant:
            return metadata.INVARIANT + e.access_group
        else:
            return ""
    if space in ("local", "param"):
        return ""
    return metadata.ALIAS.get(space, "") + e.access_group


def _named(e: Emitter, name: str, offset: int, size: int) -> Value:
    """A variable or parameter at a constant offset, which must lie inside it."""
    declaration = e.variable(name) or e.parameters.get(name)
    if declaration is None:
        raise e.invalid(f"unknown name {name}")
    sized = declaration.count > 0
    if not sized and declaration.space == "shared":  # dynamic: only the launch knows its size
        return _checked(e, constant("i64", e.shared_offset(declaration) + offset), "shared", size)
    if offset < 0 or (sized and offset + size > declaration.size):
        raise e.invalid(f"offset {offset} is outside of {name}")
    parameter = None if e.variable(name) else e.parameter_pointer(name)
    if parameter is not None:
        return e.offset(parameter, offset)
    return e.variable_pointer(declaration, offset)


def _register_address(e: Emitter, name: str, space: str) -> Value:
    """Shared addresses may stand in 32-bit registers."""
    if space == "shared" and e.registers.storage(name) == "i32":
        return e.zext(e.registers.get(name, "i32"), "i64")
    return e.registers.get(name, "i64")


def _checked(e: Emitter, address: Value, space: str, size: int) -> Value:
    if space == "shared":
        if e.options.shared_check:
            address = _check_shared(e, address, size)
        return e.offset(SHARED, address)
    if e.options.bounds_check and space in ("global", "generic", "const"):
        address = _check_global(e, address, space, size)
    return e.pointer(address)


# local variables
def _local_pointer(e: Emitter, register: str, offset: int) -> Value | None:
    """A pointer derived from the variable's own alloca, so that LLVM can split it into registers."""
    found = local_variable(e, register)
    if found is None:
        return None
    variable, distance = found
    pointer = e.local_pointer(variable)
    if distance is not None:
        return e.offset(pointer, distance + offset)
    # the register minus the variable's address folds to the plain index
    index = e.op("sub", e.registers.get(register, "i64"), e.address(pointer))
    return e.offset(e.offset(pointer, index), offset)


def local_variable(e: Emitter, register: str, depth: int = 0) -> tuple[Declaration, int | None] | None:
    """The one .local variable an address register provably points into, and the constant offset if it has one."""
    definitions = e.liveness.definitions.get(register, [])
    if len(definitions) != 1 or depth > _LOCAL_CHAIN_MAX or definitions[0].predicate is not None:
        return None
    operands = definitions[0].operands
    match definitions[0].opcode, operands[1:]:
        case (("mov" | "cvta"), (Symbol(name, offset),)):
            variable = e.function.variables.get(name)
            return (variable, offset) if variable is not None and variable.space == "local" else None
        case (("mov" | "cvta"), (Register(name),)):
            return local_variable(e, name, depth + 1)
        case "add", (left, right):
            return _local_sum(e, left, right, depth) or _local_sum(e, right, left, depth)
    return None


def _local_sum(e: Emitter, base: Operand, addend: Operand, depth: int) -> tuple[Declaration, int | None] | None:
    found = local_variable(e, base.name, depth + 1) if isinstance(base, Register) else None
    if found is None:
        return None
    variable, distance = found
    if isinstance(addend, Immediate):
        return variable, None if distance is None else distance + addend.value
    return (variable, None) if isinstance(addend, Register) else None


# checks
def _check_global(e: Emitter, address: Value, space: str, size: int) -> Value:
    """The address if all ``size`` bytes are valid and aligned, else what the slow path makes of it.

    One look at the shadow table: the granule's valid bytes (from its start) must reach to the end of the access. What is
    outside of device memory is looked up in the entry behind the last, which is never valid.
    """
    distance = e.op("sub", address, MEMORY_BASE)
    inside = e.icmp("ult", distance, MEMORY_SIZE)
    distance = e.select(inside, distance, MEMORY_SIZE)
    granule = e.op("shl", e.op("lshr", distance, GRANULE.bit_length() - 1), 1)
    valid = e.zext(e.load("i16", e.offset(SHADOW, granule), e.access_group), "i64")
    end = e.op("add", e.op("and", distance, GRANULE - 1), size)
    good = e.icmp("ule", end, valid)
    if size > 1:
        good = e.op("and", good, e.icmp("eq", e.op("and", address, size - 1), 0))

    def slow_path() -> Value:
        frame = e.call_foreign("declare ptr @llvm.frameaddress.p0(i32)", "ptr", "i32 0")
        generic = int(space != "global")
        where = (e.address(frame), *e.thread_index64())
        function = RUNTIME_FUNCTIONS["ptx_badaddr"]
        return e.call_external(
            function, e.address(BLOCK_POINTER), address, size, generic, *where, e.current.line, attributes=" cold"
        )

    return e.unless(good, address, slow_path)


def _check_shared(e: Emitter, address: Value, size: int) -> Value:
    end = e.op("add", address, size)
    good = e.op("and", e.icmp("ule", end, SHARED_SIZE), e.icmp("ult", address, end))
    if size > 1:
        good = e.op("and", good, e.icmp("eq", e.op("and", address, size - 1), 0))

    def slow_path() -> Value:
        function = RUNTIME_FUNCTIONS["ptx_badwindow"]
        block, line = e.address(BLOCK_POINTER), e.current.line
        return e.call_external(function, block, address, size, *e.thread_index64(), line, attributes=" cold")

    return e.unless(good, address, slow_path)
