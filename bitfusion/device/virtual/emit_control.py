"""Calls, traps and the functions of the system (PTX ISA, 9.7.12 and CUDA C++ Programming Guide, "Formatted Output"
ff.).

A device function becomes an LLVM function that takes the block record, the thread's index and a pointer for every
result and parameter. The system functions are callbacks of the host, found in the launch record.
"""

from __future__ import annotations

from collections.abc import Callable

from bitfusion.device.virtual.builder import Value, constant
from bitfusion.device.virtual.datatypes import B32, BITS_OF_LLVM
from bitfusion.device.virtual.emitter import BLOCK_POINTER, Emitter, function_name
from bitfusion.device.virtual.layout import BLOCK, FUNCTION_SIZE, signature
from bitfusion.device.virtual.metadata import ALWAYS
from bitfusion.device.virtual.syntax import Address, Call, Immediate, Instruction, Operand, Register, Symbol
from bitfusion.device.virtual.table import Table
from bitfusion.errors import UnsupportedError

TABLE = Table()


@TABLE.emits("trap")
def trap(e: Emitter, i: Instruction) -> None:
    e.fault("LAUNCH_FAILED")


@TABLE.emits("brkpt")
def brkpt(e: Emitter, i: Instruction) -> None:
    """No debugger is attached."""


@TABLE.emits("bar barrier", modifiers="arrive cta sync aligned", operands=(0, 2))
def bar_arrive(e: Emitter, i: Instruction) -> None:
    """``bar.arrive`` only counts; all other barriers are suspension points."""
    if len(i.operands) != 2:
        raise e.invalid("needs a barrier and a thread count")
    barrier = e.bits(e.read(i.operands[0], B32), "i64")
    distance = e.op("shl", e.op("and", barrier, 15), 2)
    count = e.offset(e.offset(BLOCK_POINTER, BLOCK["ARRIVED"]), distance)
    e.store(e.op("add", e.load("i32", count), 1), count)


@TABLE.emits("call", modifiers="uni")
def call(e: Emitter, i: Instruction) -> None:
    assert i.call is not None
    target = i.call.target
    if isinstance(target, Symbol):
        function = e.unit.module.functions.get(target.name)
        if function is None or function.body is None:
            _call_system(e, i, target.name, i.call)
            return
        if (len(i.call.results), len(i.call.arguments)) != (len(function.results), len(function.parameters)):
            raise e.invalid(f"the call does not fit {target.name}")
        e.unit.called[target.name] = None
        formals = (*function.results, *function.parameters)
        for operand, formal in zip((*i.call.results, *i.call.arguments), formals, strict=True):
            if _size(e, operand, _ROOM) < formal.size:
                raise e.invalid(f"{target.name} takes {formal.size} bytes as {formal.name}")
        _call(e, i.call, f"@{function_name(target.name)}")
    elif isinstance(target, Register):
        _call_through(e, i.call, e.registers.get(target.name, "i64"))
    else:
        raise e.invalid("calls neither a function nor a register")


_ROOM = 16
"""Bytes that a parameter in a register has (_parameter_memory)."""


def _size(e: Emitter, operand: Operand, in_register: int = 0) -> int:
    """Bytes of an operand of a call; of a register's memory ``in_register``, or of the register itself."""
    match operand:
        case Symbol(name):
            declaration = e.function.variables.get(name) or e.parameters.get(name)
            return 0 if declaration is None else declaration.size
        case Register(name):
            return in_register or BITS_OF_LLVM[e.registers.storage(name)] // 8
    return 8


def _call(e: Emitter, call: Call, function: str) -> None:
    memory = [_parameter_memory(e, operand) for operand in (*call.results, *call.arguments)]
    _emit_call(e, function, memory)
    _take_results(e, call, memory)


def _call_through(e: Emitter, call: Call, address: Value) -> None:
    """Only what is in the table of the launch is called, and only where the sizes of results and parameters agree."""
    if any(isinstance(item, Immediate) for item in call.arguments):
        raise e.invalid("the size of a constant is not known; put it into a register")
    e.unit.stack_used = True
    memory = [_parameter_memory(e, operand) for operand in (*call.results, *call.arguments)]
    for result, pointer in zip(call.results, memory, strict=False):
        e.store(constant(f"i{8 * min(_size(e, result), 8)}", 0), pointer)
    expected = signature((_size(e, item) for item in call.results), (_size(e, item) for item in call.arguments))
    distance = e.op("sub", address, FUNCTION_SIZE)
    known = e.icmp("ult", e.op("lshr", distance, 4), e.launch_field("FUNCTION_COUNT", "i64"))
    known = e.op("and", known, e.icmp("eq", e.op("and", distance, FUNCTION_SIZE - 1), 0))
    look, fits, bad, done = (e.new_label(stem) for stem in ("look", "fits", "bad", "done"))
    e.branch(known, look, bad, ALWAYS)
    e.label(look)
    entry = e.offset(e.launch_field("FUNCTIONS", "ptr"), distance)
    e.branch(e.icmp("eq", e.load("i64", e.offset(entry, 8)), constant("i64", expected)), fits, bad, ALWAYS)
    e.label(bad)
    e.fault("INVALID_PC", address)
    e.jump(done)
    e.label(fits)
    _emit_call(e, e.load("ptr", entry).name, memory)
    e.jump(done)
    e.label(done)
    _take_results(e, call, memory)


def _emit_call(e: Emitter, function: str, memory: list[Value]) -> None:
    thread = (e.thread.x, e.thread.y, e.thread.z, e.thread.linear)
    e.emit(f"call void {function}({', '.join(map(str, (BLOCK_POINTER, *thread, *memory)))})")


def _take_results(e: Emitter, call: Call, memory: list[Value]) -> None:
    for result, pointer in zip(call.results, memory, strict=False):
        if isinstance(result, Register):
            e.write(result, e.load(e.registers.storage(result.name), pointer))


def _parameter_memory(e: Emitter, operand: Operand) -> Value:
    """Where a call finds a parameter: the .param variable, or memory made for a register or constant."""
    match operand:
        case Symbol(name):
            variable = e.function.variables.get(name)
            pointer = e.local_pointer(variable) if variable is not None else e.parameter_pointer(name)
            if pointer is None:
                raise e.invalid(f"unknown name {name}")
            return pointer
        case Register(name):
            pointer = e.cleared(_ROOM, 16)
            e.store(e.registers.get(name, e.registers.storage(name)), pointer)
            return pointer
        case Immediate(value):
            pointer = e.alloca("i64")
            e.store(constant("i64", value), pointer)
            return pointer
    raise e.invalid("this kind of parameter is not supported")


# functions of the system
def _call_system(e: Emitter, i: Instruction, name: str, call: Call) -> None:
    if name not in _SYSTEM:
        raise UnsupportedError(
            f"the function {name} has no body (PTX line {i.line}): link the code that defines it",
            instruction=str(i),
            line=i.line,
        )
    arguments, results, emit = _SYSTEM[name]
    if len(call.arguments) != arguments or len(call.results) != results:
        raise e.invalid(f"the call does not fit {name}")
    emit(e, call)


def _argument(e: Emitter, call: Call, index: int, type_: str = "i64") -> Value:
    operand = call.arguments[index]
    if _size(e, operand, _ROOM) < BITS_OF_LLVM[type_] // 8:
        raise e.invalid(f"argument {index + 1} has {BITS_OF_LLVM[type_] // 8} bytes")
    return e.zext(e.load(type_, _parameter_memory(e, operand)), "i64")


def _return(e: Emitter, call: Call, value: Value) -> None:
    result = call.results[0]
    if isinstance(result, Register):
        e.write(result, value)
    else:
        e.store(value, _parameter_memory(e, result))


def _call_host(e: Emitter, name: str, *operands: Value) -> Value:
    function = e.cast("inttoptr", e.launch_field(name, "i64"), "ptr")
    arguments = ", ".join(map(str, (e.address(BLOCK_POINTER), *operands)))
    return e.let("i64", f"call i64 {function.name}({arguments})")


def _vprintf(e: Emitter, call: Call) -> None:
    text = _argument(e, call, 0)
    arguments, size = _packed(e, call)
    count = _call_host(e, "PRINTF", text, arguments, constant("i64", size))
    _return(e, call, e.trunc(count, "i32"))


def _packed(e: Emitter, call: Call) -> tuple[Value, int]:
    """Where ``vprintf`` finds its arguments, and their bytes: the rest of the .local variable that its second one points into.

    -1 where that cannot be followed; then what the kernel says is believed only of device memory.
    """
    operand = call.arguments[1]
    if isinstance(operand, Symbol):
        stores = [
            i
            for i in e.function.instructions()
            if i.opcode == "st" and i.operands[:1] == (Address(Symbol(operand.name)),)
        ]
        operand = stores[0].operands[1] if len(stores) == 1 else operand
    match e.local_memory.find(operand.name) if isinstance(operand, Register) else None:
        case (variable, int(offset)) if 0 <= offset <= variable.size:
            return e.address(e.offset(e.local_pointer(variable), offset)), variable.size - offset
    return _argument(e, call, 1), -1


def _assertfail(e: Emitter, call: Call) -> None:
    """(message, file, line, function, character size)"""
    arguments = [_argument(e, call, index, "i32" if index == 2 else "i64") for index in range(4)]
    _call_host(e, "ASSERT", *arguments, *e.thread_index64())
    e.fault("ASSERT")


def _malloc(e: Emitter, call: Call) -> None:
    _return(e, call, _call_host(e, "MALLOC", _argument(e, call, 0)))


def _free(e: Emitter, call: Call) -> None:
    _call_host(e, "FREE", _argument(e, call, 0))


def _grid_handle(e: Emitter, call: Call) -> None:
    """cudaCGGetIntrinsicHandle: the grid's workspace."""
    _return(e, call, e.grid_workspace())


_SYSTEM: dict[str, tuple[int, int, Callable[[Emitter, Call], None]]] = {
    "vprintf": (2, 1, _vprintf),
    "__assertfail": (5, 0, _assertfail),
    "malloc": (1, 1, _malloc),
    "free": (1, 0, _free),
    "cudaCGGetIntrinsicHandle": (1, 1, _grid_handle),
}
"""Name -> (arguments, results, translation)."""
