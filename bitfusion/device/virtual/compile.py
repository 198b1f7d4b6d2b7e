"""The PTX compiler's entry: a PTX text becomes a ``PTXModule``, which translates its kernels to LLVM IR one by one, on
demand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from bitfusion.device.virtual.device_function import DeviceFunction, signature_of
from bitfusion.device.virtual.effects import symbols_in
from bitfusion.device.virtual.emitter import Unit
from bitfusion.device.virtual.flow import reach
from bitfusion.device.virtual.inline import call_graph, suspending_functions
from bitfusion.device.virtual.layout import (
    FUNCTION_SIZE,
    THREADS_MAX,
    CompileOptions,
    FunctionTable,
    KernelCode,
    Relocation,
    Variable,
)
from bitfusion.device.virtual.local_memory import STACK_SIZE
from bitfusion.device.virtual.metadata import Metadata
from bitfusion.device.virtual.parse import parse
from bitfusion.device.virtual.plan import Plan, lay_out, plan_kernel
from bitfusion.device.virtual.prelude import prelude
from bitfusion.device.virtual.region import Region
from bitfusion.device.virtual.syntax import Declaration, Function, Immediate, Module, Symbol
from bitfusion.errors import InvalidValueError, UnsupportedError

VARIABLES_SIZE_MAX = 1 << 32
"""Bytes of all .global and .const variables of a module: more than that no virtual GPU has."""

CHAIN_LENGTH_MAX = 100
"""Device functions of a module that may call each other in a row without a look at the stack."""

_ALIGNMENT = 16
"""Least alignment of variables, so that they can be copied with vector instructions."""


def compile_module(text: str) -> PTXModule:
    """Parse a PTX text.

    Raises InvalidValueError with the line; what a kernel cannot use is found when it is compiled.
    """
    return PTXModule(parse(text))


class PTXModule:
    """A parsed module.

    ``kernels``: names in the order of the text; ``variables``: where .global and .const variables lie.
    """

    def __init__(self, module: Module) -> None:
        self._module = module
        for name, function in prelude().items():
            declared = module.functions.get(name)
            if declared is not None and declared.body is None:
                module.functions[name] = function
        self._graph = call_graph(module)
        self._suspending = suspending_functions(module, self._graph)
        stored = [variable for variable in module.variables.values() if variable.space in ("global", "const")]
        self._offsets, size = lay_out(map(_widely_aligned, stored))
        if size > VARIABLES_SIZE_MAX:
            raise InvalidValueError(f"the module's variables take {size} bytes")
        self.variables_size = max(size, _ALIGNMENT)
        self.variables: Mapping[str, Variable] = {
            variable.name: Variable(self._offsets[variable.name], variable.size, variable.space == "const")
            for variable in stored
        }
        self.kernels = tuple(
            name for name, function in module.functions.items() if function.entry and function.body is not None
        )

    @cached_property
    def initial_values(self) -> tuple[tuple[int, bytes], ...]:
        """(offset, bytes) of the initialised variables; everything else is zeros.

        Addresses are left to ``relocations``.
        """
        return tuple((self._offsets[variable.name], _initial_bytes(variable)) for variable in self._initialised())

    @cached_property
    def relocations(self) -> tuple[Relocation, ...]:
        """Addresses inside the initial values. InvalidValueError for a name the module does not have."""
        return tuple(relocation for variable in self._initialised() for relocation in self._relocations(variable))

    def kernel(self, name: str, options: CompileOptions | None = None) -> KernelCode:
        """Translate a kernel and the device functions it calls.

        Raises InvalidValueError for an unknown kernel or PTX that makes no sense, UnsupportedError naming an
        instruction or feature.
        """
        options = options or CompileOptions()
        if name not in self.kernels:
            raise InvalidValueError(f"the module has no kernel {name}")
        function = self._module.functions[name]
        plan = plan_kernel(self._module, function, self._suspending, options)
        unit = self._unit(options, self._used_shared(name, plan))
        regions = [Region(unit, plan, point) for point in (None, *plan.points)]
        for region in regions:
            region.emit_region()
        self._emit_functions(unit)
        self._check_entries(name, plan, options)
        return KernelCode(
            name=name,
            ir=unit.text(),
            regions=tuple(region.name for region in regions),
            suspensions=plan.suspensions,
            parameters=tuple((plan.parameters[item.name], item.size) for item in function.parameters),
            arguments_size=plan.arguments_size,
            shared_size=unit.shared_size,
            local_area=plan.local_area + (STACK_SIZE if unit.stack_used else 0),
            frame_size=plan.frame_size,
            stack_size=plan.stack_size,
            constant_size=sum(variable.size for variable in self.variables.values() if variable.constant),
            registers=plan.registers_count(),
            threads_max=_threads_max(function),
            threads_required=_threads_required(function),
            yields=plan.yields,
            contended=unit.contended,
            cooperative=unit.cooperative and plan.yields,
        )

    def function_table(self, options: CompileOptions | None = None) -> FunctionTable | None:
        """The device functions whose address is taken, or None if there are none."""
        if not self._entries:
            return None
        options = options or CompileOptions()
        try:
            unit = self._emit_entries(list(self._entries), options)
            good = set(self._entries)
        except (UnsupportedError, InvalidValueError):
            good = {name for name in self._entries if self._entry_error(name, options) is None}
            unit = self._emit_entries(list(good), options)
        functions = (self._module.functions[name] for name in self._entries)
        entries = ((f"d.{f.name}" if f.name in good else "", signature_of(f)) for f in functions)
        return FunctionTable(unit.text(), tuple(entries))

    def _emit_entries(self, names: list[str], options: CompileOptions) -> Unit:
        unit = self._unit(options, self._all_shared())
        unit.called.update(dict.fromkeys(names))
        self._emit_functions(unit, exported=set(names))
        return unit

    def _entry_error(self, name: str, options: CompileOptions) -> Exception | None:
        """What keeps a device function from being called through a pointer."""
        try:
            self._emit_entries([name], options)
        except (UnsupportedError, InvalidValueError) as error:
            return error
        return None

    @cached_property
    def _entries(self) -> Mapping[str, int]:
        """Device functions whose address is taken, with their addresses. InvalidValueError for one without a body."""
        taken = [name for name in self._module.functions if name in self._taken]
        return {name: FUNCTION_SIZE * index for index, name in enumerate(taken, 1)}

    # units
    def _unit(self, options: CompileOptions, shared: Iterable[Declaration]) -> Unit:
        offsets, size = lay_out(map(_widely_aligned, shared))
        return Unit(
            module=self._module,
            options=options,
            variables=self._offsets,
            shared=offsets,
            shared_size=-(-size // self._dynamic_alignment) * self._dynamic_alignment,
            metadata=Metadata(self.variables_size),
            bounded=self._bounded,
            entry_address=self._entries.__getitem__,
        )

    def _emit_functions(self, unit: Unit, exported: frozenset[str] | set[str] = frozenset()) -> None:
        """Emit the functions the unit calls, and those they call."""
        done: set[str] = set()
        while waiting := [name for name in unit.called if name not in done]:
            for name in waiting:
                done.add(name)
                function = self._module.functions[name]
                if function.body is None:
                    raise UnsupportedError(
                        f"the function {name} has no body: link the code that defines it", feature=name
                    )
                DeviceFunction(unit, function).emit_function(internal=name not in exported)

    def _check_entries(self, kernel: str, plan: Plan, options: CompileOptions) -> None:
        """Raises what keeps a function from being called whose address the kernel takes."""
        for function in (plan.function, *self._callees(kernel)):
            for name in _names_in(function):
                if name in self._entries and (error := self._entry_error(name, options)) is not None:
                    raise error

    @cached_property
    def _bounded(self) -> frozenset[str]:
        """Device functions that may call themselves, through others or through a pointer; all of a module with very many."""
        functions = {name for name, function in self._module.functions.items() if function.body is not None}
        if len(functions) > CHAIN_LENGTH_MAX:
            return frozenset(functions)
        taken = {name for name in functions if name in self._taken}
        return frozenset(taken | {name for name in functions if name in self._reached(name)})

    def _reached(self, start: str) -> set[str]:
        return reach(self._graph[start], self._graph)

    @cached_property
    def _taken(self) -> set[str]:
        """Names whose address is taken, functions among them."""
        mentioned = {name for function in self._module.functions.values() for name in _names_in(function)}
        stored = {v.name for item in self._module.variables.values() for v in item.initial if isinstance(v, Symbol)}
        return mentioned | stored

    # shared memory
    def _used_shared(self, kernel: str, plan: Plan) -> list[Declaration]:
        """The static shared variables a kernel can reach; all of them if it calls through pointers."""
        functions = [plan.function, *self._callees(kernel)]
        if any(
            i.call is not None and not isinstance(i.call.target, Symbol)
            for function in functions
            for i in function.instructions()
        ):
            return self._all_shared()
        used = {name for function in functions for name in _names_in(function)}
        return [variable for variable in self._all_shared() if variable.name in used]

    def _all_shared(self) -> list[Declaration]:
        return [
            variable for variable in self._module.variables.values() if variable.space == "shared" and variable.count
        ]

    @cached_property
    def _dynamic_alignment(self) -> int:
        """Of dynamic shared memory, which lies behind the static: what its declarations ask for, and at least
        _ALIGNMENT. 1 where there are none.
        """
        shared = (variable for variable in self._module.variables.values() if variable.space == "shared")
        return max((max(variable.alignment, _ALIGNMENT) for variable in shared if not variable.count), default=1)

    def _callees(self, kernel: str) -> list[Function]:
        """Functions called from a kernel, directly or not."""
        seen: dict[str, None] = {}
        waiting = list(self._graph[kernel])
        while waiting:
            name = waiting.pop()
            if name not in seen and name in self._module.functions:
                seen[name] = None
                waiting += self._graph[name]
        return [self._module.functions[name] for name in seen]

    # initial values
    def _initialised(self) -> list[Declaration]:
        return [self._module.variables[name] for name in self._offsets if self._module.variables[name].initial]

    def _relocations(self, variable: Declaration) -> Iterator[Relocation]:
        for index, value in enumerate(variable.initial):
            if not isinstance(value, Symbol):
                continue
            function = value.name in self._module.functions
            if not function and value.name not in self._offsets:
                raise InvalidValueError(f"variable {variable.name} is initialised with the unknown name {value.name}")
            offset = self._offsets[variable.name] + index * variable.type.size
            addend = self._entries[value.name] if function else value.offset
            yield Relocation(offset, variable.type.size, value.name, addend, function, value.shift)


def _widely_aligned(variable: Declaration) -> Declaration:
    if variable.alignment >= _ALIGNMENT:
        return variable
    return Declaration(variable.space, variable.type, variable.name, _ALIGNMENT, variable.count, variable.vector_size)


def _initial_bytes(variable: Declaration) -> bytes:
    size = variable.type.size
    mask = (1 << 8 * size) - 1
    values = (value.value if isinstance(value, Immediate) else 0 for value in variable.initial)
    return b"".join((value & mask).to_bytes(size, "little") for value in values)[: variable.size]


def _names_in(function: Function) -> Iterator[str]:
    """Symbols the instructions of a function mention."""
    for instruction in function.instructions():
        for operand in instruction.operands:
            yield from symbols_in(operand)


def _threads_max(function: Function) -> int:
    """From .maxntid or .reqntid (PTX ISA, 11.4)."""
    shape = function.directives.get("reqntid") or function.directives.get("maxntid") or (THREADS_MAX,)
    product = 1
    for threads in shape:
        product *= threads
    return max(1, min(product, THREADS_MAX))


def _threads_required(function: Function) -> tuple[int, int, int] | None:
    shape = function.directives.get("reqntid")
    if not shape:
        return None
    x, y, z = (*shape, 1, 1)[:3]
    return x, y, z
