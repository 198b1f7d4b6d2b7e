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
from bitfusion.device.virtual.emitter import Emitter, Thread, Unit, function_name
from bitfusion.device.virtual.flow import Block, Suspend, build_graph
from bitfusion.device.virtual.layout import THREADS_MAX
from bitfusion.device.virtual.liveness import Liveness
from bitfusion.device.virtual.metadata import FUNCTION_ATTRIBUTES
from bitfusion.device.virtual.syntax import Declaration, Function
from bitfusion.device.virtual.table import unsupported

INDEX = f"i32 range(i32 0, {THREADS_MAX})"
"""A thread's index: the range lets LLVM see that addresses do not wrap around."""


class DeviceFunction(Emitter):
    """Emits one device function into the unit."""

    parameters_invariant: ClassVar[bool] = False

    def __init__(self, unit: Unit, function: Function) -> None:
        self.graph = build_graph(function)
        thread = Thread(*(Value("i32", f"%{name}") for name in ("tx", "ty", "tz", "linear")))
        super().__init__(unit, function, Liveness(function, self.graph), thread)
        formals = [*function.results, *function.parameters]
        self._pointers = {formal.name: Value("ptr", f"%p{index}") for index, formal in enumerate(formals)}

    def parameter_pointer(self, name: str) -> Value | None:
        return self._pointers.get(name)

    def emit_function(self, internal: bool) -> None:
        """Add the function to the unit. ``internal``: nobody outside of the LLVM module needs its address."""
        self.prologue()
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
        self.emit("ret void")
        self.unit.definitions.append(
            "\n".join([self._head(internal), *self.registers.allocas(), *self.allocas, *self.lines, "}"])
        )

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
