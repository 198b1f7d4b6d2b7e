"""Translates functions of the ``restricted`` language to LLVM IR. Owns no run-time code of its own."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Annotated, Any, Final, cast, get_args, get_origin, get_type_hints

from bitfusion.device.virtual import restricted
from bitfusion.device.virtual.restricted import Array, Record

_ARITHMETIC: Final[Mapping[type[ast.operator], str]] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.FloorDiv: "sdiv",
    ast.Mod: "srem",
    ast.BitAnd: "and",
    ast.BitOr: "or",
    ast.BitXor: "xor",
    ast.LShift: "shl",
    ast.RShift: "lshr",
}
_COMPARISONS: Final[Mapping[type[ast.cmpop], str]] = {
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.Lt: "slt",
    ast.LtE: "sle",
    ast.Gt: "sgt",
    ast.GtE: "sge",
}
_DECLARATIONS: Final = """
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare i32 @sem_post(ptr)
declare i32 @sem_wait(ptr)
"""

RestrictedFunction = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class _Value:
    """An operand of LLVM, an i64. ``record`` is set where it is a record's address."""

    text: str
    record: type[Record] | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value lies: an operand with its address, and the annotation of its type."""

    address: str
    hint: Any


def translate(*entries: RestrictedFunction) -> str:
    """LLVM IR of the functions and of all they call. SyntaxError names what is not in the language."""
    definitions: dict[str, str] = {}
    waiting = list(entries)
    while waiting:
        function = waiting.pop()
        if function.__name__ not in definitions:
            translator = _Translator(function)
            definitions[function.__name__] = translator.definition()
            waiting += translator.called
    return "\n".join(definitions.values()) + _DECLARATIONS


def _integer(hint: Any) -> str | None:
    """``i8`` ... ``i64``, ``u16`` or ``u32``; None if the hint is not one of the integers."""
    return str(get_args(hint)[1]) if get_origin(hint) is Annotated else None


def _record(hint: Any) -> type[Record] | None:
    return hint if isinstance(hint, type) and issubclass(hint, Record) else None


def _size(hint: Any) -> int:
    integer, record = _integer(hint), _record(hint)
    if integer is not None:
        return int(integer[1:]) // 8
    assert record is not None
    return record.size


class _Translator:
    """One function. Every variable is an alloca, which LLVM turns into registers."""

    def __init__(self, function: RestrictedFunction) -> None:
        assert isinstance(function, FunctionType)
        self.called: list[RestrictedFunction] = []
        self._globals = function.__globals__
        self._lines: list[str] = []
        self._count = 0
        self._loops: list[tuple[str, str]] = []  # (where continue goes, where break goes)
        syntax = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        assert isinstance(syntax, ast.FunctionDef)
        self._syntax = syntax
        self._arguments = [argument.arg for argument in syntax.args.args]
        stored = [
            node.id for node in ast.walk(syntax) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ]
        self._variables: dict[str, type[Record] | None] = dict.fromkeys([*self._arguments, *stored])
        for name in self._arguments:
            self._variables[name] = _record(get_type_hints(function)[name])

    def definition(self) -> str:
        self._statements(self._syntax.body)
        self._emit("ret i64 0")
        parameters = ", ".join(f"i64 %a.{argument}" for argument in self._arguments)
        head = [
            f"define i64 @{self._syntax.name}({parameters}) null_pointer_is_valid nounwind {{",
            "entry:",
            *(f"  %v.{variable} = alloca i64" for variable in self._variables),
            *(f"  store i64 %a.{argument}, ptr %v.{argument}" for argument in self._arguments),
        ]
        return "\n".join([*head, *self._lines, "}"])

    # text
    def _emit(self, line: str) -> None:
        self._lines.append("  " + line)

    def _let(self, expression: str) -> str:
        self._count += 1
        self._emit(f"%t{self._count} = {expression}")
        return f"%t{self._count}"

    def _label(self, name: str) -> None:
        self._lines.append(f"{name}:")

    def _labels(self, *names: str) -> list[str]:
        self._count += 1
        return [f"{name}{self._count}" for name in names]

    def _leave(self, instruction: str) -> None:
        """End the basic block; what follows in the source cannot be reached, but needs a label."""
        self._emit(instruction)
        self._label(self._labels("dead")[0])

    # statements
    def _statements(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self._statement(statement)

    def _statement(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Pass() | ast.Expr(value=ast.Constant()):
                pass
            case ast.Expr(value=value):
                self._evaluate(value)
            case ast.Assign(targets=[target], value=value):
                self._assign(target, self._evaluate(value))
            case ast.AugAssign(target=target, op=operator, value=value):
                old = self._number(target)
                self._assign(
                    target, _Value(self._let(f"{_ARITHMETIC[type(operator)]} i64 {old}, {self._number(value)}"))
                )
            case ast.Return(value=value):
                self._leave(f"ret i64 {0 if value is None else self._number(value)}")
            case ast.If():
                self._if(statement)
            case ast.While():
                self._while(statement)
            case ast.For():
                self._for(statement)
            case ast.Continue():
                self._leave(f"br label %{self._loops[-1][0]}")
            case ast.Break():
                self._leave(f"br label %{self._loops[-1][1]}")
            case _:
                raise SyntaxError(f"not in the language: {ast.unparse(statement)}")

    def _assign(self, target: ast.expr, value: _Value) -> None:
        if isinstance(target, ast.Name):
            self._variables[target.id] = value.record
            self._emit(f"store i64 {value.text}, ptr %v.{target.id}")
            return
        place = self._place(target)
        size = _size(place.hint) if _integer(place.hint) else 8
        narrow = value.text if size == 8 else self._let(f"trunc i64 {value.text} to i{8 * size}")
        self._emit(f"store i{8 * size} {narrow}, ptr {self._pointer(place.address)}, align {size}")

    def _if(self, statement: ast.If) -> None:
        then, otherwise, end = self._labels("then", "else", "end")
        self._branch(statement.test, then, otherwise)
        for label, body in ((then, statement.body), (otherwise, statement.orelse)):
            self._label(label)
            self._statements(body)
            self._emit(f"br label %{end}")
        self._label(end)

    def _while(self, statement: ast.While) -> None:
        head, body, end = self._labels("head", "body", "done")
        self._emit(f"br label %{head}")
        self._label(head)
        self._branch(statement.test, body, end)
        self._loop_body(statement.body, body, head, end)
        self._emit(f"br label %{head}")
        self._label(end)

    def _for(self, statement: ast.For) -> None:
        head, body, step, end = self._labels("head", "body", "step", "done")
        match statement.target, statement.iter:
            case ast.Name(id=name), ast.Call(func=ast.Name(id="range"), args=[*lower, upper]):
                first, last = self._number(lower[0]) if lower else "0", self._number(upper)
            case _:
                raise SyntaxError(f"not in the language: {ast.unparse(statement.iter)}")
        self._emit(f"store i64 {first}, ptr %v.{name}")
        self._emit(f"br label %{head}")
        self._label(head)
        running = self._let(f"icmp slt i64 {self._let(f'load i64, ptr %v.{name}')}, {last}")
        self._emit(f"br i1 {running}, label %{body}, label %{end}")
        self._loop_body(statement.body, body, step, end)
        self._emit(f"br label %{step}")
        self._label(step)
        following = self._let(f"add i64 {self._let(f'load i64, ptr %v.{name}')}, 1")
        self._emit(f"store i64 {following}, ptr %v.{name}")
        self._emit(f"br label %{head}")
        self._label(end)

    def _loop_body(self, statements: list[ast.stmt], body: str, again: str, end: str) -> None:
        self._loops.append((again, end))
        self._label(body)
        self._statements(statements)
        self._loops.pop()

    # conditions
    def _branch(self, test: ast.expr, then: str, otherwise: str) -> None:
        match test:
            case ast.BoolOp(op=operator, values=[*first, last]):
                for value in first:
                    (following,) = self._labels("next")
                    if isinstance(operator, ast.And):
                        self._branch(value, following, otherwise)
                    else:
                        self._branch(value, then, following)
                    self._label(following)
                self._branch(last, then, otherwise)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self._branch(operand, otherwise, then)
            case ast.Compare(left=left, ops=[ast.NotIn()], comparators=[choices]):
                self._branch(ast.Compare(left, [ast.In()], [choices]), otherwise, then)
            case ast.Compare(left=left, ops=[ast.In()], comparators=[ast.Tuple(elts=choices)]):
                tests: list[ast.expr] = [ast.Compare(left, [ast.Eq()], [choice]) for choice in choices]
                self._branch(ast.BoolOp(ast.Or(), tests), then, otherwise)
            case _:
                self._emit(f"br i1 {self._bit(test)}, label %{then}, label %{otherwise}")

    def _bit(self, test: ast.expr) -> str:
        match test:
            case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in _COMPARISONS:
                return self._let(f"icmp {_COMPARISONS[type(operator)]} i64 {self._number(left)}, {self._number(right)}")
            case ast.Constant(value=value):
                return "true" if value else "false"
            case _:
                return self._let(f"icmp ne i64 {self._number(test)}, 0")

    def _truth(self, test: ast.expr) -> str:
        """1 or 0, where an operand may not be computed if the ones before have decided."""
        yes, no, end = self._labels("yes", "no", "end")
        self._branch(test, yes, no)
        for label in (yes, no):
            self._label(label)
            self._emit(f"br label %{end}")
        self._label(end)
        return self._let(f"phi i64 [1, %{yes}], [0, %{no}]")

    # places
    def _place(self, target: ast.expr) -> _Place:
        """The field or the item of an array that an expression names."""
        match target:
            case ast.Attribute(value=value, attr=name):
                owner = self._evaluate(value)
                if owner.record is None:
                    raise SyntaxError(f"not a record: {ast.unparse(value)}")
                hints = get_type_hints(owner.record, include_extras=True)
                return _Place(self._let(f"add i64 {owner.text}, {owner.record.offsets[name]}"), hints[name])
            case ast.Subscript(value=value, slice=index):
                array = self._place(value)
                (item,) = get_args(array.hint)
                distance = self._let(f"mul i64 {self._number(index)}, {_size(item)}")
                return _Place(self._let(f"add i64 {self._read(array).text}, {distance}"), item)
        raise SyntaxError(f"not a place: {ast.unparse(target)}")

    def _read(self, place: _Place, volatile: str = "") -> _Value:
        """The value at a place. Arrays and records inside an array are their address."""
        integer, record = _integer(place.hint), _record(place.hint)
        if get_origin(place.hint) is Array:
            return _Value(place.address)
        if integer is None or integer == "i64":
            return _Value(self._let(f"load {volatile}i64, ptr {self._pointer(place.address)}, align 8"), record)
        bits, extension = int(integer[1:]), "sext" if integer[0] == "i" else "zext"
        loaded = self._let(f"load {volatile}i{bits}, ptr {self._pointer(place.address)}, align {bits // 8}")
        return _Value(self._let(f"{extension} i{bits} {loaded} to i64"))

    def _pointer(self, address: str) -> str:
        return self._let(f"getelementptr i8, ptr null, i64 {address}")

    # expressions
    def _number(self, expression: ast.expr) -> str:
        return self._evaluate(expression).text

    def _evaluate(self, expression: ast.expr) -> _Value:
        match expression:
            case ast.Constant(value=int(value)):
                return _Value(str(int(value)))
            case ast.Name(id=name):
                return self._name(name)
            case ast.Attribute():
                return self._read(self._place(expression))
            case ast.Subscript():
                place = self._place(expression)
                record = _record(place.hint)
                return _Value(place.address, record) if record is not None else self._read(place)
            case ast.BinOp(left=left, op=operator, right=right):
                return _Value(
                    self._let(f"{_ARITHMETIC[type(operator)]} i64 {self._number(left)}, {self._number(right)}")
                )
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return _Value(self._let(f"sub i64 0, {self._number(operand)}"))
            case ast.UnaryOp(op=ast.Invert(), operand=operand):
                return _Value(self._let(f"xor i64 {self._number(operand)}, -1"))
            case ast.Compare(ops=[operator]) if type(operator) in _COMPARISONS:
                return _Value(self._let(f"zext i1 {self._bit(expression)} to i64"))
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                return _Value(self._truth(expression))
            case ast.IfExp(test=test, body=body, orelse=orelse):
                then, otherwise = self._number(body), self._number(orelse)
                return _Value(self._let(f"select i1 {self._bit(test)}, i64 {then}, i64 {otherwise}"))
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return self._call(name, arguments)
        raise SyntaxError(f"not in the language: {ast.unparse(expression)}")

    def _name(self, name: str) -> _Value:
        if name in self._variables:
            return _Value(self._let(f"load i64, ptr %v.{name}"), self._variables[name])
        value = self._globals[name]
        assert isinstance(value, int)
        return _Value(str(value))

    def _call(self, name: str, arguments: list[ast.expr]) -> _Value:
        function = self._globals[name]
        if function is cast:
            return _Value(self._number(arguments[1]), _record(self._globals[ast.unparse(arguments[0])]))
        if getattr(restricted, name, None) is function:
            return _Value(self._intrinsic(name, arguments))
        self.called.append(function)
        operands = ", ".join(f"i64 {self._number(argument)}" for argument in arguments)
        return _Value(
            self._let(f"call i64 @{function.__name__}({operands})"), _record(get_type_hints(function)["return"])
        )

    def _intrinsic(self, name: str, arguments: list[ast.expr]) -> str:
        match name, arguments:
            case "volatile", [target]:
                return self._read(self._place(target), "volatile ").text
            case "fetch_add", [target, value]:
                pointer = self._pointer(self._place(target).address)
                return self._let(f"atomicrmw add ptr {pointer}, i64 {self._number(value)} seq_cst")
            case "swap", [target, expected, value]:
                return self._swap(self._pointer(self._place(target).address), expected, value)
            case "fill", [array, first, value, count]:
                start = self._let(f"add i64 {self._number(array)}, {self._number(first)}")
                byte = self._let(f"trunc i64 {self._number(value)} to i8")
                operands = f"ptr {self._pointer(start)}, i8 {byte}, i64 {self._number(count)}, i1 false"
                self._emit(f"call void @llvm.memset.p0.i64({operands})")
                return "0"
            case "resume", [region, block, *numbers]:
                pointers = [self._let(f"inttoptr i64 {self._number(address)} to ptr") for address in (region, block)]
                narrow = ", ".join(f"i32 {self._let(f'trunc i64 {self._number(number)} to i32')}" for number in numbers)
                self._emit(f"call void {pointers[0]}(ptr {pointers[1]}, {narrow})")
                return "0"
            case "semaphore_post" | "semaphore_wait", [semaphore]:
                pointer = self._pointer(self._number(semaphore))
                result = self._let(f"call i32 @sem_{name.removeprefix('semaphore_')}(ptr {pointer})")
                return self._let(f"sext i32 {result} to i64")
        raise SyntaxError(f"not in the language: {name}()")

    def _swap(self, pointer: str, expected: ast.expr, value: ast.expr) -> str:
        old, new = (self._let(f"trunc i64 {self._number(operand)} to i32") for operand in (expected, value))
        pair = self._let(f"cmpxchg ptr {pointer}, i32 {old}, i32 {new} seq_cst seq_cst")
        return self._let(f"zext i1 {self._let(f'extractvalue {{i32, i1}} {pair}, 1')} to i64")
