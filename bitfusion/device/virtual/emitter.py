"""What all translation of PTX to LLVM IR shares: operands, special values of the thread, records of the run-time.

An ``Emitter`` writes one LLVM function. The ``emit_*`` modules translate instructions with it; ``kernel`` and
``device_function`` derive from it and give the function its frame.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from bitfusion.device.virtual import metadata
from bitfusion.device.virtual.builder import FALSE, TRUE, Builder, Value, constant
from bitfusion.device.virtual.datatypes import BITS_OF_LLVM, TYPES, Type
from bitfusion.device.virtual.float_bits import f32_bits, f64_bits, widened_bits
from bitfusion.device.virtual.layout import BLOCK, FAULT, LAUNCH, RUNTIME_FUNCTIONS, CompileOptions
from bitfusion.device.virtual.liveness import Liveness
from bitfusion.device.virtual.local_memory import LocalMemory
from bitfusion.device.virtual.metadata import Metadata
from bitfusion.device.virtual.registers import RegisterFile
from bitfusion.device.virtual.special import special_register
from bitfusion.device.virtual.syntax import (
    Declaration,
    Discard,
    Function,
    Immediate,
    Instruction,
    Module,
    Negated,
    Operand,
    Pair,
    Register,
    SpecialRegister,
    Symbol,
    Vector,
)
from bitfusion.device.virtual.tokens import syntax_error

BLOCK_POINTER = Value("ptr", "%block")
LAUNCH_POINTER = Value("ptr", "%launch")
SHARED = Value("ptr", "%shared")
PARAMETERS = Value("ptr", "%parameters")
VARIABLES = Value("ptr", "%variables")
FRAME = Value("ptr", "%frame")
LOCAL = Value("ptr", "%local")
MEMORY_BASE = Value("i64", "%memory_base")
MEMORY_SIZE = Value("i64", "%memory_size")
SHADOW = Value("ptr", "%shadow")
SHARED_SIZE = Value("i64", "%shared_size")

DIMENSIONS = ("x", "y", "z")


@dataclass(frozen=True, slots=True)
class Thread:
    """The index of the thread being translated: inside its block, and linear."""

    x: Value
    y: Value
    z: Value
    linear: Value


@dataclass(slots=True)
class Unit:
    """One LLVM module under construction, and where the PTX module's variables lie."""

    module: Module
    options: CompileOptions
    variables: dict[str, int]
    """.global and .const: offset in the module's allocation."""
    shared: dict[str, int]
    """.shared: offset in the block's shared memory."""
    shared_size: int
    """Static shared memory; extern arrays begin there."""
    metadata: Metadata
    declarations: dict[str, str] = field(default_factory=dict)
    definitions: list[str] = field(default_factory=list)
    bounded: frozenset[str] = frozenset()
    """Device functions that look at the stack before they use it: they may call themselves."""
    stack_used: bool = False
    """Whether a device function needs the stack in the block's local area."""
    contended: bool = False
    """Whether something updates global memory with a lock prefix."""
    cooperative: bool = False
    """Whether something asks for the grid's workspace."""
    entry_address: Callable[[str], int] = field(kw_only=True)
    """The address of a device function; the error that keeps it from having one."""
    called: dict[str, None] = field(default_factory=dict)
    """Device functions that are called."""

    def declare(self, declaration: str) -> None:
        self.declarations.setdefault(declaration[declaration.index("@") : declaration.index("(")], declaration)

    def variable(self, name: str) -> Declaration | None:
        return self.module.variables.get(name)

    def text(self) -> str:
        return "\n".join([*self.definitions, *self.declarations.values(), self.metadata.text()])


def function_name(name: str) -> str:
    """The LLVM name of a device function."""
    return f'"d.{name}"'


class Emitter(Builder, ABC):
    """Translates the instructions of one function; ``current`` is the one at work."""

    parameters_invariant: ClassVar[bool]
    """Whether parameters lie in memory that never changes: a kernel's do, a device function's do not."""

    def __init__(self, unit: Unit, function: Function, liveness: Liveness, thread: Thread) -> None:
        super().__init__(unit.declare)
        self.unit = unit
        self.options = unit.options
        self.function = function
        self.liveness = liveness
        self.thread: Thread = thread
        self.registers = RegisterFile(self, function.registers)
        self.current = Instruction("", (), ())
        self.access_group = ""
        self.row_pointers: dict[Instruction, Callable[[], Value]] = {}
        """Accesses whose bounds were checked for the whole row of threads, and how to get this thread's pointer."""
        self.row_gathers: dict[Instruction, Value] = {}
        """Accesses that may go anywhere in some range, and whether all of it is valid."""
        self.row_predicates: dict[str, Value] = {}
        """Predicate registers known to be the same for the whole row."""
        self.shared_values: dict[str, Value] = {}
        """Saved registers that are loaded once for all threads of a block."""
        self.parameters = {parameter.name: parameter for parameter in (*function.results, *function.parameters)}
        self.local_memory = LocalMemory(function, liveness.definitions)
        self._locals: dict[str, Value] = {}

    @abstractmethod
    def parameter_pointer(self, name: str) -> Value | None:
        """Where a parameter of this function lies, or None if it has none of that name."""

    # operands
    def read(self, operand: Operand, datatype: Type) -> Value:
        """The value of a source operand in the LLVM type that ``datatype`` is computed in."""
        type_ = datatype.llvm
        match operand:
            case Register(name):
                return self.registers.get(name, type_)
            case Negated(name) if type_ == "i1":
                return self.invert(self.registers.get(name, "i1"))
            case Immediate():
                return self._immediate(operand, type_)
            case SpecialRegister(name):
                return self.bits(special_register(self, name), type_)
            case Symbol():
                return self.bits(self.symbol_address(operand), type_)
            case Vector(items):
                return self._read_packed(items, type_)
        raise self.invalid(f"{type(operand).__name__.lower()} cannot be read")

    def read_pred(self, operand: Operand) -> Value:
        return self.read(operand, TYPES["pred"])

    def _read_packed(self, items: tuple[Operand, ...], type_: str) -> Value:
        part = TYPES.get(f"b{BITS_OF_LLVM[type_] // len(items)}")
        if part is None or part.size * 8 * len(items) != BITS_OF_LLVM[type_]:
            raise self.invalid("the vector does not fit the type")
        parts = [constant(part.llvm, 0) if isinstance(item, Discard) else self.read(item, part) for item in items]
        return self.bits(self.pack(parts), type_)

    def write(self, operand: Operand, value: Value, datatype: Type | None = None) -> None:
        """Write a destination operand; sign-extended into a wider register if ``datatype`` is signed."""
        match operand:
            case Register(name):
                self.registers.set(name, value, datatype is not None and datatype.signed)
            case Vector(items):
                self._write_unpacked(items, value)
            case Pair(first):
                self.write(first, value, datatype)
            case Discard():
                pass
            case _:
                raise self.invalid(f"{type(operand).__name__.lower()} cannot be written")

    def _write_unpacked(self, items: tuple[Operand, ...], value: Value) -> None:
        width = value.bits // len(items)
        if f"i{width}" not in BITS_OF_LLVM or width * len(items) != value.bits:
            raise self.invalid("the vector does not fit the type")
        bits = self.bitcast(value, f"i{value.bits}")
        for index, item in enumerate(items):
            self.write(item, self.field(bits, index * width, f"i{width}"))

    def _immediate(self, operand: Immediate, type_: str) -> Value:
        match type_:
            case "float":
                return self._float_constant(f32_bits(operand))
            case "double":
                return constant("double", f"0x{f64_bits(operand):016X}")
            case "half":
                return constant("half", f"0xH{operand.value & 0xFFFF:04X}")
            case "<2 x half>":
                return self.let(type_, f"bitcast i32 {operand.value & 0xFFFFFFFF} to <2 x half>")
            case "i1":
                return TRUE if operand.value else FALSE
        bits = BITS_OF_LLVM[type_]
        value = operand.value & (1 << bits) - 1
        return constant(type_, value - (1 << bits) if value >> (bits - 1) else value)

    def _float_constant(self, bits: int) -> Value:
        """LLVM writes a float as the double of the same value, in which a NaN's payload would be lost."""
        if bits & 0x7F800000 == 0x7F800000 and bits & 0x7FFFFF:
            return self.let("float", f"bitcast i32 {bits} to float")
        return constant("float", f"0x{widened_bits(bits):016X}")

    # symbols
    def variable(self, name: str) -> Declaration | None:
        """A variable of the function or the module."""
        return self.function.variables.get(name) or self.unit.variable(name)

    def symbol_address(self, symbol: Symbol) -> Value:
        """The address of a variable or function in its own state space, as i64."""
        name = symbol.name
        if name in self.unit.module.functions and name not in self.function.variables:
            return constant("i64", self.unit.entry_address(name))
        variable = self.variable(name)
        if variable is None:
            parameter = self.parameter_pointer(name)
            if parameter is None:
                raise self.invalid(f"unknown name {name}")
            return self.address(self.offset(parameter, symbol.offset))
        if variable.space == "shared":
            return constant("i64", self.shared_offset(variable) + symbol.offset)
        return self.address(self.variable_pointer(variable, symbol.offset))

    def variable_pointer(self, variable: Declaration, offset: int) -> Value:
        """A pointer to a variable plus ``offset`` bytes."""
        match variable.space:
            case "shared":
                return self.offset(SHARED, self.shared_offset(variable) + offset)
            case "global" | "const":
                return self.offset(VARIABLES, self.unit.variables[variable.name] + offset)
        return self.offset(self.local_pointer(variable), offset)

    def shared_offset(self, variable: Declaration) -> int:
        return self.unit.shared[variable.name] if variable.count else self.unit.shared_size

    def local_pointer(self, variable: Declaration) -> Value:
        """Memory of a .local variable or of a call's .param variable: on the stack."""
        pointer = self._locals.get(variable.name)
        if pointer is None:
            pointer = self.cleared(max(variable.size, 1), variable.alignment)
            self._locals[variable.name] = pointer
        return pointer

    # records of the run-time
    def block_field(self, name: str, type_: str) -> Value:
        """A field of the block record that does not change while the block runs."""
        return self.load(type_, self.offset(BLOCK_POINTER, BLOCK[name]), metadata.INVARIANT + self.access_group)

    def launch_field(self, name: str, type_: str) -> Value:
        return self.load(type_, self.offset(LAUNCH_POINTER, LAUNCH[name]), metadata.INVARIANT + self.access_group)

    def grid_workspace(self) -> Value:
        """The address of the grid's workspace; who asks for it waits for all blocks of the grid."""
        self.unit.cooperative = True
        return self.launch_field("GRID_WORKSPACE", "i64")

    def thread_index64(self) -> list[Value]:
        return [self.zext(index, "i64") for index in (self.thread.x, self.thread.y, self.thread.z)]

    def fault(self, name: str, address: Value | None = None) -> None:
        """Report a fault of this thread at the current instruction."""
        block = self.address(BLOCK_POINTER)
        where = constant("i64", 0) if address is None else address
        function, thread = RUNTIME_FUNCTIONS["ptx_fault"], self.thread_index64()
        self.call_external(function, block, FAULT[name], where, *thread, self.current.line, attributes=" cold")

    def unless(self, good: Value, value: Value, otherwise: Callable[[], Value]) -> Value:
        """``value``, or in the rare case that ``good`` is not set what ``otherwise`` computes."""
        bad, done = self.new_label("bad"), self.new_label("good")
        before = self.here
        self.branch(good, done, bad, metadata.ALWAYS)
        self.label(bad)
        replacement = otherwise()
        after = self.here
        self.jump(done)
        self.label(done)
        return self.phi((value, before), (replacement, after))

    def invalid(self, message: str) -> Exception:
        """The error for PTX that makes no sense at the current instruction."""
        return syntax_error(self.current.line, f"{self.current}: {message}")

    # frame
    def prologue(self) -> None:
        """Load what every function needs: it does not change while the function runs."""
        self._load_field("launch", "block", BLOCK["LAUNCH"], "ptr", metadata.LAUNCH_POINTER)
        self._load_field("shared", "block", BLOCK["SHARED"], "ptr")
        for index, dimension in enumerate(DIMENSIONS):
            self._load_field(
                f"ctaid_{dimension}", "block", BLOCK["BLOCK_X"] + 4 * index, "i32", metadata.GRID_INDEX_RANGE
            )
            self._load_field(
                f"nctaid_{dimension}", "launch", LAUNCH["GRID_X"] + 4 * index, "i32", metadata.GRID_SIZE_RANGE
            )
            self._load_field(
                f"ntid_{dimension}", "launch", LAUNCH["THREADS_X"] + 4 * index, "i32", metadata.THREADS_RANGE
            )
        self._load_field("parameters", "launch", LAUNCH["PARAMETERS"], "ptr", metadata.PARAMETERS_POINTER)
        self._load_field("variables", "launch", LAUNCH["VARIABLES"], "ptr", metadata.VARIABLES_POINTER)
        if self.options.bounds_check:
            self._load_field("memory_base", "launch", LAUNCH["MEMORY_BASE"], "i64")
            self._load_field("memory_size", "launch", LAUNCH["MEMORY_SIZE"], "i64")
            self._load_field("shadow", "launch", LAUNCH["SHADOW"], "ptr")
        if self.options.shared_check:
            size = self._load_field("shared_size32", "launch", LAUNCH["SHARED_SIZE"], "i32")
            self.define("shared_size", "i64", f"zext {size} to i64")

    def _load_field(self, name: str, base: str, offset: int, type_: str, attributes: str = "") -> Value:
        pointer = self.define(f"{name}.p", "ptr", f"getelementptr i8, ptr %{base}, i64 {offset}")
        return self.define(name, type_, f"load {type_}, {pointer}{metadata.INVARIANT}{attributes}")
