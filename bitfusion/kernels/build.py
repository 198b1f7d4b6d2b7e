"""Function objects from accepted syntax trees. Nothing of theirs is executed: the code object is taken out of the module's, unrun."""

from __future__ import annotations

import ast
import dis
import importlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import CodeType, FunctionType
from typing import Protocol

from bitfusion.kernels import gate, names
from bitfusion.kernels.numba_types import numba_value
from bitfusion.kernels.options import Options
from bitfusion.kernels.syntax import refuse
from bitfusion.kernels.types import Signature

FORBIDDEN = frozenset(
    {"IMPORT_NAME", "IMPORT_FROM", "LOAD_BUILD_CLASS", "LOAD_NAME", "STORE_GLOBAL", "STORE_NAME", "DELETE_GLOBAL"}
)
"""Instructions that no accepted function can have. The gate reads the syntax; this reads what Numba will read."""


class Maker(Protocol):
    """What a compiler makes of the things that a kernel calls."""

    def device_function(self, function: FunctionType, options: Options) -> object:
        """The object that stands for a device function."""
        ...

    def declare(self, device_function: object, signature: Signature) -> None:
        """Compile a device function for a signature."""
        ...

    def external(self, function: gate.External) -> object:
        """The object that stands for a function of linked code."""
        ...


def build(accepted: Sequence[gate.Accepted], make: Maker) -> FunctionType:
    """The kernel as a Python function; what it calls becomes what ``make`` makes of it.

    Device functions with signatures are declared, callees before their callers.
    """
    functions = [_function(item) for item in accepted]
    called: dict[int, object] = {}
    for item, function in zip(accepted, functions, strict=True):
        for key, value in item.bound.items():
            if isinstance(value, gate.Callee) and value.number not in called:
                called[value.number] = make.device_function(functions[value.number], accepted[value.number].options)
            function.__globals__[key] = _global(value, called, make)
    for number in _callees_first(accepted):
        for signature in accepted[number].signatures if number in called else ():
            make.declare(called[number], signature)
    return functions[0]


def _global(value: gate.Bound, called: Mapping[int, object], make: Maker) -> object:
    match value:
        case gate.Callee(number=number):
            return called[number]
        case gate.External():
            return make.external(value)
        case gate.Raisable(name=name):
            return type(name, (Exception,), {})
        case gate.Constant(value=constant):
            return numba_value(constant)


def _callees_first(accepted: Sequence[gate.Accepted]) -> Iterator[int]:
    """The numbers of all functions that the first one uses, in an order in which only recursion goes backwards."""
    met: set[int] = {0}
    waiting: list[tuple[int, Iterator[int]]] = [(0, _callees(accepted[0]))]
    while waiting:
        number, callees = waiting[-1]
        callee = next((callee for callee in callees if callee not in met), None)
        if callee is None:
            waiting.pop()
            yield number
        else:
            met.add(callee)
            waiting.append((callee, _callees(accepted[callee])))


def _callees(accepted: gate.Accepted) -> Iterator[int]:
    return (value.number for value in accepted.bound.values() if isinstance(value, gate.Callee))


def _function(accepted: gate.Accepted) -> FunctionType:
    code = _code(accepted)
    modules = {name for node in ast.walk(accepted.tree) if isinstance(node, ast.Name) for name in _modules(node.id)}
    values: dict[str, object] = {gate.MODULE_MARK + name: importlib.import_module(name) for name in modules}
    _check_code(accepted, code, {*values, *accepted.bound, *names.BUILTINS})
    values["__builtins__"] = {}  # what Numba executes on the way (inner functions) finds nothing here to act with
    defaults = tuple(map(numba_value, accepted.defaults))
    return FunctionType(code, values, accepted.source.name, defaults or None)


def _modules(name: str) -> Iterator[str]:
    if name.startswith(gate.MODULE_MARK):
        yield name.removeprefix(gate.MODULE_MARK)


def _code(accepted: gate.Accepted) -> CodeType:
    source = accepted.source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.Module([accepted.tree], [])
            # without the user's file name, as CPython would open the file to quote it in an error
            module = compile(tree, "", "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = error.msg if isinstance(error, SyntaxError) else str(error)
        raise refuse(
            source, getattr(error, "lineno", None) or source.line, f"the source is not Python: {why}"
        ) from None
    (code,) = (constant for constant in module.co_consts if isinstance(constant, CodeType))
    return _named(code, source.file)


def _named(code: CodeType, file: str) -> CodeType:
    """The code as if it came from ``file``."""
    constants = tuple(_named(item, file) if isinstance(item, CodeType) else item for item in code.co_consts)
    return code.replace(co_filename=file, co_consts=constants)


def _check_code(accepted: gate.Accepted, code: CodeType, known: set[str]) -> None:
    """Every global that the code reads is one that the gate has bound."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in FORBIDDEN or (instruction.opname == "LOAD_GLOBAL" and instruction.argval not in known):
            raise refuse(accepted.source, accepted.source.line, f"{instruction.argval!r} was not accepted")
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _check_code(accepted, constant, known)
