"""Expands calls of device functions in which threads may stop, in PTX itself: a suspension point must lie in the
kernel.

The parameters of an expanded call become registers where they are scalars that are only loaded and stored. All other
calls stay calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bitfusion.device.virtual.datatypes import B16, B32, B64
from bitfusion.device.virtual.effects import suspension, symbols_in
from bitfusion.device.virtual.syntax import (
    Address,
    Call,
    Declaration,
    Function,
    Immediate,
    Instruction,
    Label,
    Module,
    Negated,
    Operand,
    Pair,
    Register,
    Statement,
    Symbol,
    Vector,
)
from bitfusion.device.virtual.tokens import syntax_error
from bitfusion.errors import UnsupportedError

STATEMENT_COUNT_MAX = 1 << 17
"""Statements of a kernel after expansion: calls that fan out could otherwise grow without bound."""

DEPTH_MAX = 100
"""Calls within calls that are expanded: Numba's are some levels deep, and each takes three of Python's frames here."""

_REGISTER_OF_SIZE = {1: B16, 2: B16, 4: B32, 8: B64}
_BYTE_TYPES = {"b8": ("u16", "u8"), "u8": ("u16", "u8"), "s8": ("s16", "s8")}


def call_graph(module: Module) -> dict[str, set[str]]:
    """Names of the module's functions that each function calls directly."""
    return {
        function.name: {
            i.call.target.name
            for i in function.instructions()
            if i.call is not None and isinstance(i.call.target, Symbol) and i.call.target.name in module.functions
        }
        for function in module.functions.values()
    }


def suspending_functions(module: Module, graph: Mapping[str, set[str]]) -> set[str]:
    """Functions in which, or below which, a thread may stop, exit or trap."""
    found = {
        function.name
        for function in module.functions.values()
        if any(suspension(i) or i.opcode in ("exit", "trap") for i in function.instructions())
    }
    while more := {name for name, callees in graph.items() if callees & found} - found:
        found |= more
    return found


def inline_calls(module: Module, function: Function, names: set[str]) -> Function:
    """A copy of ``function`` in which all calls of functions in ``names`` are expanded.

    Raises UnsupportedError where such functions are recursive.
    """
    return _Inliner(module, function, names, (function.name,)).expand()


def rename(operand: Operand, names: Mapping[str, str]) -> Operand:
    """The operand with registers and symbols renamed."""
    match operand:
        case Register(name):
            return Register(names.get(name, name))
        case Negated(name):
            return Negated(names.get(name, name))
        case Symbol(name, offset):
            return Symbol(names.get(name, name), offset)
        case Address(base, offset):
            return Address(rename(base, names), offset)
        case Vector(items):
            return Vector(tuple(rename(item, names) for item in items))
        case Pair(first, second):
            return Pair(rename(first, names), rename(second, names))
    return operand


def _rename_predicate(predicate: Register | Negated | None, names: Mapping[str, str]) -> Register | Negated | None:
    if predicate is None:
        return None
    return replace(predicate, name=names.get(predicate.name, predicate.name))


def _parameter_access(instruction: Instruction) -> Address | None:
    """The address of ``ld.param`` or ``st.param``."""
    if instruction.opcode in ("ld", "st") and "param" in instruction.modifiers and len(instruction.operands) == 2:
        address = instruction.operands[1 if instruction.opcode == "ld" else 0]
        if isinstance(address, Address):
            return address
    return None


def _used_in_memory(function: Function) -> set[str]:
    """Parameter variables that must keep an address: used otherwise than by a scalar ld.param or st.param at offset 0."""
    found: set[str] = set()
    for instruction in function.instructions():
        address = _parameter_access(instruction)
        if address is not None and address.offset == 0 and instruction.vector_size == 1:
            continue
        for operand in instruction.operands:
            found.update(symbols_in(operand))
    return found


class _Inliner:
    def __init__(self, module: Module, function: Function, names: set[str], stack: tuple[str, ...]) -> None:
        self.module = module
        self.source = function
        self.names = names
        self.stack = stack
        self.count = 0
        self.body: list[Statement] = []
        self.result = replace(
            function, body=self.body, registers=dict(function.registers), variables=dict(function.variables),
            branch_targets=dict(function.branch_targets),
        )  # fmt: skip
        self.as_register: dict[str, Register] = {}

    def expand(self) -> Function:
        self._choose_registers()
        for statement in self.source.body or ():
            if isinstance(statement, Label):
                self.body.append(statement)
            elif callee := self._callee(statement):
                self._expand_call(statement, callee)
            else:
                self.body.append(self._own_access(statement))
            if len(self.body) > STATEMENT_COUNT_MAX:
                raise UnsupportedError(
                    "the kernel is too large after its device functions were expanded", feature="inlining"
                )
        return self.result

    def _callee(self, instruction: Instruction) -> Function | None:
        """The function to expand, if this is a call of one."""
        call = instruction.call
        if call is None or not isinstance(call.target, Symbol) or call.target.name not in self.names:
            return None
        return self.module.functions[call.target.name]

    def _choose_registers(self) -> None:
        """Which variables of call sequences become registers."""
        in_memory = _used_in_memory(self.source)
        for instruction in self.source.instructions():
            callee = self._callee(instruction)
            if callee is None or instruction.call is None:
                continue
            callee_in_memory = _used_in_memory(callee)
            for formal, actual in _bindings(instruction, callee):
                variable = self.source.variables.get(actual.name) if isinstance(actual, Symbol) else None
                if variable is None or variable.space != "param" or variable.count * variable.vector_size != 1:
                    continue
                if (
                    variable.name in in_memory
                    or formal.name in callee_in_memory
                    or variable.size not in _REGISTER_OF_SIZE
                ):
                    in_memory.add(variable.name)
                    self.as_register.pop(variable.name, None)
                    continue
                register = Register(f"%param@{variable.name}")
                self.as_register[variable.name] = register
                self.result.registers[register.name] = _REGISTER_OF_SIZE[variable.size]

    def _own_access(self, instruction: Instruction) -> Instruction:
        """An instruction of the caller, with ld.param and st.param of a call's variable turned into a move."""
        address = _parameter_access(instruction)
        if address is not None and isinstance(address.base, Symbol) and address.base.name in self.as_register:
            return _as_move(
                instruction, self.as_register[address.base.name], instruction.operands, instruction.predicate
            )
        return instruction

    def _expand_call(self, instruction: Instruction, callee: Function) -> None:
        if callee.name in self.stack:
            raise UnsupportedError(
                f"recursive function {callee.name} with a barrier, exit or trap inside is not supported",
                feature="recursion",
            )
        if len(self.stack) > DEPTH_MAX:
            raise UnsupportedError(
                f"over {DEPTH_MAX} calls within calls around a barrier, exit or trap are not supported",
                feature="inlining",
            )
        if callee.body is None:
            raise syntax_error(instruction.line, f"function {callee.name} has no body")
        inner = _Inliner(self.module, callee, self.names, (*self.stack, callee.name)).expand()
        self.count += 1
        _Expansion(self, instruction, inner, f"@{self.count}").run()


def _bindings(instruction: Instruction, callee: Function) -> list[tuple[Declaration, Operand]]:
    """Formal and actual parameters of a call, results first."""
    call = instruction.call
    assert call is not None
    if len(call.results) != len(callee.results) or len(call.arguments) != len(callee.parameters):
        raise syntax_error(instruction.line, f"the call does not fit the parameters of {callee.name}")
    return [*zip(callee.results, call.results, strict=True), *zip(callee.parameters, call.arguments, strict=True)]


def _as_move(
    access: Instruction, value: Operand, operands: tuple[Operand, ...], predicate: Register | Negated | None
) -> Instruction:
    """``ld.param``/``st.param`` with ``operands`` (one of them the address) as a move from or to ``value``."""
    name = access.type.name
    opcode, modifiers = ("cvt", _BYTE_TYPES[name]) if name in _BYTE_TYPES else ("mov", (name,))
    moved = (operands[0], value) if access.opcode == "ld" else (value, operands[1])
    return Instruction(opcode, modifiers, moved, predicate, access.line)


class _Expansion:
    """One call, expanded into the caller's body."""

    def __init__(self, caller: _Inliner, instruction: Instruction, callee: Function, suffix: str) -> None:
        self.caller = caller
        self.line = instruction.line
        self.callee = callee
        self.end = f"$end@{callee.name}{suffix}"
        self.after: list[Statement] = []
        labels = [statement.name for statement in callee.body or () if isinstance(statement, Label)]
        self.names = {
            name: name + suffix for name in (*callee.registers, *callee.variables, *callee.branch_targets, *labels)
        }
        self.actuals: dict[str, Operand] = {}
        for formal, actual in _bindings(instruction, callee):
            self._bind(formal, actual, suffix)

    def run(self) -> None:
        result = self.caller.result
        result.registers.update({self.names[name]: kind for name, kind in self.callee.registers.items()})
        for variable in self.callee.variables.values():
            name = self.names[variable.name]
            result.variables[name] = replace(variable, name=name)
        for name, labels in self.callee.branch_targets.items():
            result.branch_targets[self.names[name]] = tuple(self.names.get(label, label) for label in labels)
        for statement in self.callee.body or ():
            self.caller.body.append(self._translate(statement))
        self.caller.body += [Label(self.end), *self.after]

    def _bind(self, formal: Declaration, actual: Operand, suffix: str) -> None:
        if formal.space != "reg":
            self.actuals[formal.name] = actual
            if isinstance(actual, Symbol):
                self.names[formal.name] = actual.name
            return
        register = Register(formal.name + suffix)
        self.names[formal.name] = register.name
        self.caller.result.registers[register.name] = formal.type
        if formal in self.callee.results:
            self.after.append(Instruction("mov", (formal.type.name,), (actual, register), None, self.line))
        else:
            self.caller.body.append(Instruction("mov", (formal.type.name,), (register, actual), None, self.line))

    def _translate(self, statement: Statement) -> Statement:
        if isinstance(statement, Label):
            return Label(self.names[statement.name])
        predicate = _rename_predicate(statement.predicate, self.names)
        if statement.opcode == "ret":
            return Instruction("bra", (), (Symbol(self.end),), predicate, statement.line)
        operands = tuple(rename(operand, self.names) for operand in statement.operands)
        value = self._parameter_value(statement)
        if value is not None:
            return _as_move(statement, value, operands, predicate)
        return replace(statement, operands=operands, predicate=predicate, call=self._rename_call(statement.call))

    def _parameter_value(self, instruction: Instruction) -> Operand | None:
        """What stands for the memory of a formal parameter: a register or a constant of the caller."""
        address = _parameter_access(instruction)
        if address is None or not isinstance(address.base, Symbol):
            return None
        actual = self.actuals.get(address.base.name)
        if isinstance(actual, Register | Immediate):
            return actual
        return self.caller.as_register.get(actual.name) if isinstance(actual, Symbol) else None

    def _rename_call(self, call: Call | None) -> Call | None:
        if call is None:
            return None
        results = tuple(rename(result, self.names) for result in call.results)
        arguments = tuple(rename(argument, self.names) for argument in call.arguments)
        return Call(results, rename(call.target, self.names), arguments)
