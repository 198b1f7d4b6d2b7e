"""From an address operand to an LLVM pointer, with the checks that keep a kernel inside its own memory.

State spaces (PTX ISA, 5.1): global, const and generic addresses are host addresses; a shared address is an offset into
the block's shared memory; .param and .local variables are addressed by name or through generic addresses.
"""

from __future__ import annotations

from collections.abc import Callable

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
from bitfusion.device.virtual.layout import FAULT, GRANULE, RUNTIME_FUNCTIONS
from bitfusion.device.virtual.local_memory import Place
from bitfusion.device.virtual.syntax import Address, Immediate, Instruction, Operand, Register, Symbol

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
            place = e.local_memory.find(name) if space in ("local", "generic") else None
            if place is not None:
                return _local_access(e, place, name, offset, size)
            address = _register_address(e, name, offset, space)
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
    """A variable or parameter at a constant offset, which must lie inside it. What is not aligned is told when it is executed."""
    declaration = e.variable(name) or e.parameters.get(name)
    if declaration is None:
        raise e.invalid(f"unknown name {name}")
    sized, space = declaration.count > 0, declaration.space
    if (sized or space == "param") and (offset < 0 or (sized and offset + size > declaration.size)):
        raise e.invalid(f"offset {offset} is outside of {name}")
    parameter = None if e.variable(name) else e.parameter_pointer(name)
    if parameter is not None:
        return e.offset(parameter, offset)
    if space == "local":
        return _local_access(e, (declaration, 0), name, offset, size)
    place = e.shared_offset(declaration) if space == "shared" else e.unit.variables.get(name, 0)
    if space == "param" or (sized and (place + offset) % size == 0):
        return e.variable_pointer(declaration, offset)
    if space == "shared":  # dynamic, whose size only the launch knows, or not aligned
        return _checked(e, constant("i64", place + offset), space, size)
    return _checked(e, e.address(e.variable_pointer(declaration, offset)), "global", size)


def _register_address(e: Emitter, name: str, offset: int, space: str) -> Value:
    """Shared addresses may stand in 32-bit registers, and wrap around as such: [-4 + 8] is good."""
    short = space == "shared" and e.registers.storage(name) == "i32"
    address = e.registers.get(name, "i32" if short else "i64")
    if offset:
        address = e.op("add", address, offset % (1 << 32) if short else offset)
    return e.zext(address, "i64") if short else address


def _checked(e: Emitter, address: Value, space: str, size: int) -> Value:
    if space == "shared":
        if e.options.shared_check:
            address = _unless_gathered(e, address, lambda: _check_shared(e, address, size))
        return e.offset(SHARED, address)
    if space == "local" and e.options.shared_check:
        return e.pointer(_local_window(e, address, size))
    if e.options.bounds_check and space != "local":
        address = _unless_gathered(e, address, lambda: _check_global(e, address, space, size))
    return e.pointer(address)


def _unless_gathered(e: Emitter, address: Value, check: Callable[[], Value]) -> Value:
    """The checked address; no check is needed where all that the row might touch is valid (``guard``)."""
    valid = e.row_gathers.get(e.current)
    return check() if valid is None else e.unless(valid, address, check)


# local variables
def _local_access(e: Emitter, place: Place, register: str, offset: int, size: int) -> Value:
    """A pointer derived from the variable itself, so that LLVM can split it into registers, within its size."""
    variable, distance = place
    if variable.size < size:
        raise e.invalid(f"{variable.name} has {variable.size} bytes")
    pointer = e.local_pointer(variable)
    aligned = variable.alignment >= size  # otherwise nobody knows
    at = -1 if distance is None else distance + offset
    if 0 <= at <= variable.size - size and (not aligned or at % size == 0):
        return e.offset(pointer, at)
    if distance is None:
        # the register minus the variable's address folds to the plain index
        index = e.op("sub", e.registers.get(register, "i64"), e.address(pointer))
    else:
        index = constant("i64", distance)
    if not e.options.shared_check:
        return e.offset(e.offset(pointer, index), offset)
    index = e.op("add", index, offset) if offset else index
    good = e.icmp("ule", index, variable.size - size)
    if size > 1 and aligned:
        good = e.op("and", good, e.icmp("eq", e.op("and", index, size - 1), 0))
    return e.offset(pointer, e.unless(good, index, lambda: _outside(e, "LOCAL_ADDRESS", index, size)))


def _local_window(e: Emitter, address: Value, size: int) -> Value:
    """An address in the block's local area: all that a .local address may be which cannot be followed to its variable."""
    base, area = e.block_field("LOCAL", "i64"), e.launch_field("LOCAL_SIZE", "i64")
    distance = e.op("sub", address, base)
    end = e.op("add", distance, size)
    good = e.op("and", e.icmp("ule", end, area), e.icmp("ult", distance, end))
    if size > 1:
        good = e.op("and", good, e.icmp("eq", e.op("and", address, size - 1), 0))
    return e.op("add", base, e.unless(good, distance, lambda: _outside(e, "LOCAL_ADDRESS", address, size)))


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
        generic = int(space != "global")
        where = e.thread_index64()
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

    return e.unless(good, address, lambda: _outside(e, "SHARED_ADDRESS", address, size))


def _outside(e: Emitter, fault: str, address: Value, size: int) -> Value:
    """A fault of an access outside of its window; 0, where it can do no harm."""
    block, line = e.address(BLOCK_POINTER), e.current.line
    function = RUNTIME_FUNCTIONS["ptx_badwindow"]
    return e.call_external(function, block, FAULT[fault], address, size, *e.thread_index64(), line, attributes=" cold")
