"""A device function as an LLVM function: for functions in which no thread stops. All others are expanded where they are
called.

::

    void @"d.name"(ptr %block, i32 %tx, i32 %ty, i32 %tz, i32 %linear, ptr %p0, ptr %p1, ...)

with a pointer for every result and every parameter, results first. All device functions look alike, so that they can be
called through pointers.
"""

from __future__ import annotations

from typing import ClassVar

from bitfusion.device.virtual.body import Body
from bitfusion.device.virtual.builder import Value
from bitfusion.device.virtual.emitter import BLOCK_POINTER, LAUNCH_POINTER, Emitter, Thread, Unit, function_name
from bitfusion.device.virtual.flow import Block, Suspend, build_graph
from bitfusion.device.virtual.layout import BLOCK, LAUNCH, THREADS_MAX, signature
from bitfusion.device.virtual.liveness import Liveness
from bitfusion.device.virtual.metadata import FUNCTION_ATTRIBUTES, NEVER
from bitfusion.device.virtual.plan import lay_out
from bitfusion.device.virtual.syntax import Declaration, Function
from bitfusion.device.virtual.table import unsupported
from bitfusion.device.virtual.tokens import syntax_error

FRAME_ALIGNMENT = 16
"""Of a function's part of the local area: no type is larger."""

INDEX = f"i32 range(i32 0, {THREADS_MAX})"
"""A thread's index: the range lets LLVM see that addresses do not wrap around."""


def signature_of(function: Function) -> int:
    """What a call through a pointer must fit."""
    return signature((item.size for item in function.results), (item.size for item in function.parameters))


class DeviceFunction(Emitter):
    """Emits one device function into the unit."""

    parameters_invariant: ClassVar[bool] = False

    def __init__(self, unit: Unit, function: Function) -> None:
        self.graph = build_graph(function)
        thread = Thread(*(Value("i32", f"%{name}") for name in ("tx", "ty", "tz", "linear")))
        super().__init__(unit, function, Liveness(function, self.graph), thread)
        formals = [*function.results, *function.parameters]
        self._pointers = {formal.name: Value("ptr", f"%p{index}") for index, formal in enumerate(formals)}
        self._bounded = function.name in unit.bounded
        self._allocates = any(i.opcode == "alloca" for i in function.instructions())
        self._escaping = self._find_escaping()
        self._slots, size = lay_out(self._escaping)
        self._frame_size = -(-size // FRAME_ALIGNMENT) * FRAME_ALIGNMENT
        self._frame = Value("ptr", "%frame")

    def _find_escaping(self) -> list[Declaration]:
        """Variables that lie in the local area, and parameters that are copied there because their address is taken."""
        names = self.local_memory.escaping()
        results = [result.name for result in self.function.results if result.name in names]
        if results:
            raise syntax_error(0, f"{self.function.name}: the address of {results[0]} cannot be taken")
        places = (*self.function.variables.values(), *self.function.parameters)
        return [place for place in places if place.name in names and place.space in ("local", "param")]

    def parameter_pointer(self, name: str) -> Value | None:
        if name in self._slots:
            return self.offset(self._frame, self._slots[name])
        return self._pointers.get(name)

    def local_pointer(self, variable: Declaration) -> Value:
        """In the local area where it escapes, else on the stack."""
        if variable.name in self._slots:
            return self.offset(self._frame, self._slots[variable.name])
        return super().local_pointer(variable)

    def emit_function(self, internal: bool) -> None:
        """Add the function to the unit. ``internal``: nobody outside of the LLVM module needs its address."""
        self.prologue()
        if self._frame_size or self._bounded or self._allocates:
            self._enter()
        for parameter in _in_registers(self.function.parameters):
            storage = self.registers.storage(parameter.name)
            self.registers.set(parameter.name, self.load(storage, self._pointers[parameter.name]))
        self.registers.store()
        results = _in_registers(self.function.results)
        body = Body(self, self.graph, "", "end", frozenset(result.name for result in results), self._suspend)
        names = list(self.graph)
        self.jump(body.label(names[0]))
        body.emit(names)
        self.label("end")
        self.registers.forget()
        for result in results:
            value = self.registers.get(result.name, self.registers.storage(result.name))
            self.store(value, self._pointers[result.name])
        if self._frame_size or self._allocates:
            self.store(self.address(self._frame), self.offset(BLOCK_POINTER, BLOCK["STACK"]))
        self.emit("ret void")
        self.unit.definitions.append(
            "\n".join([self._head(internal), *self.registers.allocas(), *self.allocas, *self.lines, "}"])
        )

    def _enter(self) -> None:
        """Take the frame from the local area; where there is no room, or the grid is stopped, return at once.

        A function that may call itself looks at the host's stack too, so that no recursion is its end.
        """
        self.unit.stack_used = True
        top = self.offset(BLOCK_POINTER, BLOCK["STACK"])
        start = self.load("i64", top)
        end = self.op("add", start, self._frame_size)
        full = self.icmp("ugt", end, self.load("i64", self.offset(BLOCK_POINTER, BLOCK["STACK_END"])))
        leave, overflow, room = (self.new_label(stem) for stem in ("leave", "overflow", "room"))
        if self._bounded:
            going = self.new_label("going")
            self.branch(self._stopped(), leave, going, NEVER)
            self.label(going)
            full = self.op("or", full, self._too_deep())
        self.branch(full, overflow, room, NEVER)
        self.label(overflow)
        self.fault("HARDWARE_STACK_ERROR")
        self.jump(leave)
        self.label(leave)
        self.emit("ret void")
        self.label(room)
        if self._frame_size:
            self.store(end, top)
        self.define("frame", "ptr", f"inttoptr {start} to ptr")
        for parameter in self.function.parameters:
            if parameter.name in self._slots:
                self._copy_parameter(parameter)

    def _too_deep(self) -> Value:
        """Whether the host's stack is used up."""
        frame = self.address(self.call_foreign("declare ptr @llvm.frameaddress.p0(i32)", "ptr", "i32 0"))
        return self.icmp("ult", frame, self.load("i64", self.offset(BLOCK_POINTER, BLOCK["NATIVE_END"])))

    def _stopped(self) -> Value:
        """Whether the grid is to stop: calls without an end are as endless as loops."""
        flag = self.offset(LAUNCH_POINTER, LAUNCH["ABORT"])
        return self.icmp("ne", self.let("i32", f"load atomic i32, {flag} monotonic, align 4"), 0)

    def _copy_parameter(self, parameter: Declaration) -> None:
        copied = self.offset(self._frame, self._slots[parameter.name])
        source = self._pointers[parameter.name]
        self.declare("declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)")
        self.emit(f"call void @llvm.memcpy.p0.p0.i64({copied}, {source}, i64 {parameter.size}, i1 false)")

    def _head(self, internal: bool) -> str:
        pointers = "".join(f", {pointer}" for pointer in self._pointers.values())
        linkage = "internal " if internal else ""
        name = function_name(self.function.name)
        return (
            f"define {linkage}void @{name}(ptr %block, {INDEX} %tx, {INDEX} %ty, {INDEX} %tz, {INDEX} %linear{pointers}) "
            f"{FUNCTION_ATTRIBUTES} {{\ntop:"
        )

    def _suspend(self, terminator: Suspend, _block: Block) -> None:
        """Functions with suspension points are expanded in the kernel, unless they are called through a pointer."""
        raise unsupported(terminator.instruction, "in a function that is called through a pointer")


def _in_registers(declarations: list[Declaration]) -> list[Declaration]:
    """Old-style parameters: .reg instead of .param."""
    return [declaration for declaration in declarations if declaration.space == "reg"]
