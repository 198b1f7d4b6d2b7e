"""The part of Python that a kernel may be written in: parses a function's text, refuses the rest, finds its names from outside.

Both sides use it, so that the client captures exactly the names which the gate will ask for, and a mistake shows before anything is
sent. What a name from outside may be is not decided here (``names``, ``source``, ``gate``). Nothing is ever evaluated: decorators,
annotations and docstrings are dropped, defaults of the function itself travel as values, those of inner functions are refused.

The walks are loops, not recursions: a text nested to the limit must not end this side's stack.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import EllipsisType

from bitfusion.errors import KernelSourceError
from bitfusion.kernels.constants import TEXT_SIZE_MAX
from bitfusion.kernels.program import Function, is_name

DEPTH_MAX = 250
"""Nesting of the syntax tree: a sum of 200 terms or a chain of 100 ``elif`` fits; CPython's compiler recurses over it."""

NODE_COUNT_MAX = 50_000
"""Nodes of one function's syntax tree: some 3000 lines."""


def _nodes(text: str) -> tuple[type[ast.AST], ...]:
    return tuple(getattr(ast, name) for name in text.split())


PLAIN_NODES = _nodes(
    "arguments arg Return Assign AugAssign For While If Raise Assert Expr Pass Break Continue BoolOp BinOp UnaryOp IfExp Compare"
    " Call keyword Constant Attribute Subscript Starred Name List Tuple Slice FunctionDef Lambda"
    " expr_context operator unaryop boolop cmpop"
)
"""What may stand in a kernel; a superset of what Numba's CUDA target compiles, without what could touch the host."""

PRINTING = "print takes values separated by commas"

ADVICE: dict[type[ast.AST], str] = {
    ast.Import: "an import: import at the top of the file",
    ast.ImportFrom: "an import: import at the top of the file",
    ast.ClassDef: "a class",
    ast.AsyncFunctionDef: "an async function",
    ast.Global: "'global': pass an array to write to",
    ast.Nonlocal: "'nonlocal': return the value",
    ast.NamedExpr: "':=': assign on a line of its own",
    ast.JoinedStr: f"an f-string: {PRINTING}",
    ast.With: "'with'",
    ast.Try: "'try': there are no exceptions to catch on a GPU",
    ast.Delete: "'del'",
    ast.Match: "'match': write if and elif",
    ast.Yield: "'yield'",
    ast.YieldFrom: "'yield from'",
    ast.Await: "'await'",
    ast.ListComp: "a comprehension: write a loop over an array",
    ast.SetComp: "a comprehension: write a loop over an array",
    ast.DictComp: "a comprehension: write a loop over an array",
    ast.GeneratorExp: "a generator: write a loop",
    ast.Dict: "a dict",
    ast.Set: "a set",
}


@dataclass(frozen=True, slots=True)
class Reference:
    """A name from outside where it is read, with all attributes after it: ``path`` is ``cuda.threadIdx.x``."""

    path: str
    node: ast.Attribute | ast.Name


@dataclass(frozen=True, slots=True)
class Parsed:
    """A function's syntax tree, cleaned and checked, with the line numbers of the user's file."""

    tree: ast.FunctionDef
    references: tuple[Reference, ...]
    default_count: int
    inner: bool
    """Whether it defines functions itself."""


def refuse(function: Function, line: int, why: str) -> KernelSourceError:
    """The error for something at ``line`` of the user's file."""
    return KernelSourceError(f"{function.file}:{line}: in {function.name}: {why}", file=function.file, line=line)


def parse(function: Function) -> Parsed:
    """Parse and check a function's text. KernelSourceError with the user's file and line says what cannot be there."""
    tree = _definition(function, _parse_text(function))
    default_count = len(tree.args.defaults)
    tree.name, tree.decorator_list, tree.args.defaults = function.name, [], []
    _drop_what_is_not_evaluated(tree)
    _check_size(function, tree)
    _check_nodes(function, tree)
    inner = any(isinstance(node, ast.FunctionDef | ast.Lambda) and node is not tree for node in ast.walk(tree))
    if inner:
        _check_no_text(function, tree)
    return Parsed(tree, tuple(_references(function, tree)), default_count, inner)


def printed_max(tree: ast.FunctionDef) -> int:
    """The most values that one ``print`` in a function is given."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and _path(node.func) == "print")
    return max((len(call.args) for call in calls), default=0)


def _parse_text(function: Function) -> ast.Interactive:
    text, line = function.text, function.line
    if text[0] in " \t":  # a method, or a function in a function: its lines stay as they are, so that columns agree
        text, line = f"if 1:\n{text}", line - 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the user's own compiler has already said what there is to say
            module = ast.parse(f"{text}\n", mode="single")  # in other modes CPython opens the file that an error names
    except SyntaxError as error:
        raise refuse(function, line - 1 + (error.lineno or 1), f"the source is not Python: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise refuse(
            function, function.line, f"the source cannot be parsed: {error or 'it is nested too deeply'}"
        ) from None
    ast.increment_lineno(module, line - 1)
    return module


def _definition(function: Function, module: ast.Interactive) -> ast.FunctionDef:
    """The one function definition the text must be."""
    match module.body:
        case [ast.FunctionDef() as tree] | [ast.If(body=[ast.FunctionDef() as tree], orelse=[])]:
            return tree
        case [ast.AsyncFunctionDef()] | [ast.If(body=[ast.AsyncFunctionDef()])]:
            raise refuse(function, function.line, "a kernel cannot be an async function")
    raise refuse(function, function.line, "a kernel must be one function definition and nothing else")


def _drop_what_is_not_evaluated(tree: ast.FunctionDef) -> None:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef():
                node.returns = None
            case ast.arg():
                node.annotation = None
        for branch in ("body", "orelse"):
            statements = getattr(node, branch, None)
            if isinstance(statements, list):
                setattr(node, branch, [_drop_in_statement(statement) for statement in statements])


def _drop_in_statement(statement: ast.stmt) -> ast.stmt:
    match statement:
        case ast.AnnAssign(value=ast.expr() as value, target=target):
            return ast.copy_location(ast.Assign([target], value), statement)
        case ast.AnnAssign() | ast.Expr(value=ast.Constant(value=str())):
            return ast.copy_location(ast.Pass(), statement)
    return statement


def _check_size(function: Function, tree: ast.FunctionDef) -> None:
    count = 0
    waiting: list[tuple[ast.AST, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if depth > DEPTH_MAX or count > NODE_COUNT_MAX:
            raise refuse(
                function, getattr(node, "lineno", function.line), "the function is too long or nested too deeply"
            )
        waiting.extend((child, depth + 1) for child in ast.iter_child_nodes(node))


def _check_nodes(function: Function, tree: ast.FunctionDef) -> None:
    line = tree.lineno
    for node in ast.walk(tree):
        line = getattr(node, "lineno", line)
        if not isinstance(node, PLAIN_NODES):
            what = ADVICE.get(type(node), f"{type(node).__name__}, which kernels do not know")
            raise refuse(function, line, f"a kernel cannot contain {what}")
        match node:
            case ast.FunctionDef() if node is not tree and node.decorator_list:
                raise refuse(function, line, "a function inside a kernel cannot have decorators")
            case ast.arguments():
                _check_arguments(function, line, node)
            case ast.Constant(value=value):
                _check_constant(function, line, value)
            case ast.BinOp(left=ast.Constant(value=str() | bytes()), op=ast.Mod()):
                raise refuse(function, line, f"a kernel cannot format text with '%': {PRINTING}")
            case ast.Attribute(value=ast.Constant(value=str() | bytes()), attr=name):
                raise refuse(function, line, f"a kernel cannot use {name!r} of a text: {PRINTING}")
            case ast.Attribute(attr=name) if name.startswith("_"):
                raise refuse(function, line, f"a kernel cannot use the attribute {name!r}: it is not public")
        for name in _names(node):
            if not is_name(name):
                raise refuse(function, line, f"a kernel cannot use the name {name[:40]!r}")


def _names(node: ast.AST) -> tuple[str, ...]:
    match node:
        case ast.FunctionDef(name=name) | ast.Name(id=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
            return (name,)
        case ast.Attribute(attr=name):
            return (name,)
    return ()


def _check_arguments(function: Function, line: int, arguments: ast.arguments) -> None:
    if arguments.kwonlyargs or arguments.kwarg:
        raise refuse(function, line, "a kernel's parameters cannot be keyword-only or **")
    if arguments.defaults:
        raise refuse(function, line, "a function inside a kernel cannot have default values")


def _check_constant(function: Function, line: int, value: object) -> None:
    match value:
        case None | bool() | float() | complex() | EllipsisType():
            return
        case int() if value < 2**64:
            return
        case str() | bytes() if len(value) <= TEXT_SIZE_MAX:
            return
        case int():
            raise refuse(function, line, "an integer in a kernel must fit 64 bits")
        case str() | bytes():
            raise refuse(function, line, f"a string in a kernel can have {TEXT_SIZE_MAX} characters at most")
    raise refuse(function, line, f"a kernel cannot contain {type(value).__name__}")


def _check_no_text(function: Function, tree: ast.FunctionDef) -> None:
    """Numba writes what an inner function closes over into source that it executes, as text (core.ir_utils, convert_code_obj_to_function):
    a string there would be code.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
            raise refuse(function, node.lineno, "a kernel that defines functions of its own cannot contain strings")


def _references(function: Function, tree: ast.FunctionDef) -> Iterator[Reference]:
    """The names from outside, in the order of the text."""
    found: list[Reference] = []
    waiting: list[tuple[ast.AST, frozenset[str]]] = [(tree, frozenset())]
    while waiting:
        node, known = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            known |= _locals(node)
        path = _path(node)
        if path is None or path.partition(".")[0] in known:
            waiting.extend((child, known) for child in ast.iter_child_nodes(node))
        elif isinstance(node, ast.Name | ast.Attribute):
            if not isinstance(node.ctx, ast.Load):
                raise refuse(function, node.lineno, f"a kernel cannot change {path!r}, which stands outside of it")
            found.append(Reference(path, node))
    return iter(sorted(found, key=lambda item: (item.node.lineno, item.node.col_offset)))


def _path(node: ast.AST) -> str | None:
    """``a.b.c`` for a name with attributes, None for any other expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(parts)])


def _locals(function: ast.FunctionDef | ast.Lambda) -> frozenset[str]:
    """Parameters and every name the function itself assigns."""
    names = {argument.arg for argument in ast.walk(function.args) if isinstance(argument, ast.arg)}
    waiting: list[ast.AST] = list(function.body) if isinstance(function, ast.FunctionDef) else [function.body]
    while waiting:
        match node := waiting.pop():
            case ast.FunctionDef(name=name):
                names.add(name)
            case ast.Lambda():
                pass
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case _:
                waiting.extend(ast.iter_child_nodes(node))
    return frozenset(names)
