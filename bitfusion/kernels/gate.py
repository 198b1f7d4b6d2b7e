"""The gate: decides on the server whether a captured kernel may be compiled, and binds its names. Evaluates nothing.

What comes out is all that the compiler sees: syntax trees without decorators, defaults and annotations, in which every name is a
parameter, a local, an allowed builtin, or bound to a path of the allow-list, another function of the program, or a constant. Names
from outside are rewritten to what they stand for, so no name of the client's can stand for something else later.
"""

from __future__ import annotations

import ast
import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from bitfusion.errors import KernelTypeError, RemoteProtocolError
from bitfusion.kernels import names, program, syntax
from bitfusion.kernels.constants import DeviceConstant, decode_constant, holds_text
from bitfusion.kernels.options import Options
from bitfusion.kernels.options import decode as decode_options
from bitfusion.kernels.signatures import decode_signature
from bitfusion.kernels.types import Signature

VALUE_MEMBERS = frozenset("T dtype flat imag itemsize nbytes ndim real shape size strides".split())  # noqa: SIM905 (words, as in names.py)
"""Attributes of constants: what arrays and numbers have in Numba, and NumPy computes without a side effect."""


@dataclass(frozen=True, slots=True)
class Path:
    """Something on the allow-list, by the module it is in and its dotted name there."""

    path: str


@dataclass(frozen=True, slots=True)
class Callee:
    """Another function of the program, by its number."""

    number: int


@dataclass(frozen=True, slots=True)
class Constant:
    """A value; types are still ``kernels.types`` objects."""

    value: object


@dataclass(frozen=True, slots=True)
class External:
    """A function of linked code. ``abi`` is ``numba`` or ``c``; a ``cooperative`` one needs all blocks of its grid to run at once."""

    name: str
    signature: Signature
    abi: str
    cooperative: bool


@dataclass(frozen=True, slots=True)
class Raisable:
    """An exception class of the client's: here only its name counts."""

    name: str


Bound: TypeAlias = Callee | Constant | External | Raisable

SYMBOL = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]{0,1023}")
"""What can name a function of linked code (PTX ISA, Identifiers, without ``%``)."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A function that may be compiled. ``bound`` has the values of the global names in ``tree``, but for modules and builtins."""

    source: program.Function
    tree: ast.FunctionDef
    bound: Mapping[str, Bound]
    defaults: tuple[object, ...]
    signatures: tuple[Signature, ...]
    options: Options


MODULE_MARK = "module "
"""Before a module's name where the tree refers to it; no name of the client's can have a space."""


def accept(data: bytes) -> tuple[Accepted, ...]:
    """The functions of a captured kernel, the kernel first. KernelSourceError names the user's file and line."""
    return check(program.decode(data))


def check(captured: program.Program) -> tuple[Accepted, ...]:
    """As ``accept``, for a program that has been read already."""
    return tuple(map(_accept_function, captured.functions))


def _accept_function(function: program.Function) -> Accepted:
    parsed = syntax.parse(function)
    bindings = {binding.key: _bind(function, binding) for binding in function.bindings}
    if len(bindings) != len(function.bindings):
        raise syntax.refuse(function, function.line, "a name is bound twice")
    defaults = tuple(_constant(function, value) for value in function.defaults)
    if len(defaults) != parsed.default_count:
        raise syntax.refuse(function, function.line, "the default values do not fit the text")
    texts = [value.value for value in bindings.values() if isinstance(value, Constant)]
    if parsed.inner and any(map(holds_text, (*texts, *defaults))):
        raise syntax.refuse(function, function.line, "a kernel that defines functions of its own cannot use strings")
    replaced = {id(item.node): _replacement(function, item, bindings) for item in parsed.references}
    _replace(parsed.tree, replaced)
    bound = {key: value for key, value in bindings.items() if not isinstance(value, Path)}
    signatures = tuple(_signature(function, parsed, tree) for tree in function.signatures)
    return Accepted(function, parsed.tree, bound, defaults, signatures, _options(function))


def _options(function: program.Function) -> Options:
    """A device function's own options."""
    pairs = [item for item in function.options if isinstance(item, tuple) and len(item) == 2]
    try:
        if len(pairs) != len(function.options):
            raise KernelTypeError("a function's options must be pairs of a name and a value")
        return decode_options({str(name): value for name, value in pairs})
    except KernelTypeError as error:
        raise syntax.refuse(function, function.line, error.message) from None


def _signature(function: program.Function, parsed: syntax.Parsed, tree: object) -> Signature:
    """A signature that a device function was declared with."""
    try:
        signature = decode_signature(tree)
    except (RemoteProtocolError, KernelTypeError) as error:
        raise syntax.refuse(function, function.line, error.message) from None
    count = len(parsed.tree.args.args) + len(parsed.tree.args.posonlyargs)
    if not count - parsed.default_count <= len(signature.args) <= count:
        raise syntax.refuse(function, function.line, f"the signature {signature} does not fit its {count} parameters")
    return signature


def _bind(function: program.Function, binding: program.Binding) -> Path | Bound:
    match binding:
        case program.Binding(kind=program.NAME, value=str(path)):
            if not names.is_allowed(path) or names.type_name(path) is not None:
                raise syntax.refuse(function, function.line, names.refusal(path if path.isprintable() else ascii(path)))
            return Path(path)
        case program.Binding(kind=program.FUNCTION, value=int(number)):
            return Callee(number)
        case program.Binding(kind=program.EXCEPTION, value=str(name)) if program.is_name(name):
            return Raisable(name)
        case program.Binding(kind=program.EXTERNAL | program.EXCEPTION):
            return _external(function, binding.value)
    return Constant(_constant(function, binding.value))


def _external(function: program.Function, value: object) -> External:
    match value:
        case (str(name), tree, ("numba" | "c") as abi, bool(cooperative)) if SYMBOL.fullmatch(name):
            try:
                return External(name, decode_signature(tree), abi, cooperative)
            except (RemoteProtocolError, KernelTypeError) as error:
                raise syntax.refuse(function, function.line, error.message) from None
    raise syntax.refuse(
        function, function.line, "an external function must be [name, signature, 'numba' | 'c', cooperative]"
    )


def _constant(function: program.Function, value: object) -> object:
    try:
        return decode_constant(value)
    except (RemoteProtocolError, KernelTypeError) as error:
        raise syntax.refuse(function, function.line, error.message) from None


def _replacement(
    function: program.Function, reference: syntax.Reference, bindings: Mapping[str, Path | Bound]
) -> ast.expr:
    """The expression for a name from outside: what it is bound to, then the attributes that are left."""
    parts = reference.path.split(".")
    for count in range(1, len(parts) + 1):
        key, rest = ".".join(parts[:count]), parts[count:]
        if key in bindings and _may_follow(bindings[key], rest):
            return _expression(key, bindings[key], rest, reference.node)
    if len(parts) == 1 and parts[0] in names.BUILTINS:
        return reference.node
    raise syntax.refuse(function, reference.node.lineno, f"a kernel cannot use {reference.path!r}")


def _may_follow(value: Path | Bound, rest: list[str]) -> bool:
    """Whether the attributes ``rest`` may be taken from a bound value."""
    match value:
        case Path(path=path):
            return not rest or (len(rest) == 1 and names.is_allowed(f"{path}.{rest[0]}"))
        case Constant(value=enum.EnumMeta() as kind):
            return rest[:1] == [] or (rest[0] in kind.__members__ and rest[1:] in ([], ["value"]))
        case Constant(value=enum.Enum()):
            return rest in ([], ["value"])
        case Constant(value=tuple() as items):
            return not rest or (len(rest) == 1 and rest[0] in getattr(items, "_fields", ()))
        case Constant(value=np.ndarray() | DeviceConstant() | np.generic() | int() | float() | complex()):
            return VALUE_MEMBERS.issuperset(rest)
    return not rest


def _expression(key: str, value: Path | Bound, rest: list[str], place: ast.expr) -> ast.expr:
    root, attributes = key, rest
    if isinstance(value, Path):
        module = names.module_of(value.path)
        root, attributes = MODULE_MARK + module, [*value.path.removeprefix(f"{module}.").split("."), *rest]
    made: ast.expr = ast.copy_location(ast.Name(root, ast.Load()), place)
    for attribute in attributes:
        made = ast.copy_location(ast.Attribute(made, attribute, ast.Load()), place)
    return made


def _replace(tree: ast.FunctionDef, replaced: Mapping[int, ast.expr]) -> None:
    """Put the replacements, by the identity of what they replace, in their places."""
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if isinstance(value, list):
                setattr(node, field, [replaced.get(id(item), item) for item in value])
            elif id(value) in replaced:
                setattr(node, field, replaced[id(value)])
