"""Writes LLVM IR as text, line by line. Knows LLVM's types and instructions, nothing of PTX.

Text instead of ``llvmlite.ir`` because it is as short, several times faster to make, and can express ``distinct``
metadata.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bitfusion.device.virtual.datatypes import BITS_OF_LLVM

_SUFFIX = {"float": "f32", "double": "f64", "half": "f16", "<2 x half>": "v2f16", "<2 x i16>": "v2i16"}


@dataclass(frozen=True, slots=True)
class Value:
    """An LLVM value; as text "type name", as most instructions want it."""

    type: str
    name: str

    def __str__(self) -> str:
        return f"{self.type} {self.name}"

    @property
    def bits(self) -> int:
        return BITS_OF_LLVM[self.type]


TRUE = Value("i1", "true")
FALSE = Value("i1", "false")


def constant(type_: str, value: int | str) -> Value:
    return Value(type_, str(value))


def suffix(type_: str) -> str:
    """The name of a type inside the name of an overloaded intrinsic."""
    return _SUFFIX.get(type_, type_)


class Builder:
    """The lines of one function under construction. ``declare`` is told about every intrinsic that is called."""

    def __init__(self, declare: Callable[[str], None]) -> None:
        self.lines: list[str] = []
        self.allocas: list[str] = []
        self.declare = declare
        self._values = 0
        self._labels = 0
        self.here = "top"
        """The block being written, as it stands in a phi."""

    # lines
    def emit(self, text: str) -> None:
        """An instruction without a result."""
        self.lines.append(f"  {text}")

    def let(self, type_: str, text: str) -> Value:
        """An instruction with a result."""
        self._values += 1
        value = Value(type_, f"%t{self._values}")
        self.lines.append(f"  {value.name} = {text}")
        return value

    def define(self, name: str, type_: str, text: str) -> Value:
        """An instruction whose result has a name of its own."""
        self.lines.append(f"  %{name} = {text}")
        return Value(type_, f"%{name}")

    def new_label(self, stem: str) -> str:
        self._labels += 1
        return f"{stem}.{self._labels}"

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")
        self.here = name

    def jump(self, target: str) -> None:
        self.emit(f"br label %{target}")

    def branch(self, condition: Value, taken: str, other: str, metadata: str = "") -> None:
        self.emit(f"br {condition}, label %{taken}, label %{other}{metadata}")

    def phi(self, *incoming: tuple[Value, str]) -> Value:
        pairs = ", ".join(f"[{value.name}, %{label}]" for value, label in incoming)
        return self.let(incoming[0][0].type, f"phi {incoming[0][0].type} {pairs}")

    # arithmetic
    def op(self, name: str, left: Value, right: Value | int) -> Value:
        """A binary instruction on two values of one type."""
        return self.let(left.type, f"{name} {left}, {_name(right)}")

    def icmp(self, condition: str, left: Value, right: Value | int) -> Value:
        return self.let("i1", f"icmp {condition} {left}, {_name(right)}")

    def fcmp(self, condition: str, left: Value, right: Value | str) -> Value:
        return self.let("i1", f"fcmp {condition} {left}, {_name(right)}")

    def fneg(self, value: Value) -> Value:
        return self.let(value.type, f"fneg {value}")

    def invert(self, value: Value) -> Value:
        """All bits flipped; the complement of an i1."""
        return self.op("xor", value, -1)

    def select(self, condition: Value, yes: Value | int, no: Value | int) -> Value:
        """``yes`` if the i1 is set, else ``no``; one of the two must be a Value."""
        type_ = yes.type if isinstance(yes, Value) else no.type if isinstance(no, Value) else "i64"
        return self.let(type_, f"select {condition}, {type_} {_name(yes)}, {type_} {_name(no)}")

    def cast(self, name: str, value: Value, type_: str) -> Value:
        return self.let(type_, f"{name} {value} to {type_}")

    def zext(self, value: Value, type_: str) -> Value:
        """Zero-extend, or leave as it is."""
        return value if value.type == type_ else self.cast("zext", value, type_)

    def extend(self, value: Value, type_: str, signed: bool) -> Value:
        return value if value.type == type_ else self.cast("sext" if signed else "zext", value, type_)

    def trunc(self, value: Value, type_: str) -> Value:
        return value if value.type == type_ else self.cast("trunc", value, type_)

    def bitcast(self, value: Value, type_: str) -> Value:
        return value if value.type == type_ else self.cast("bitcast", value, type_)

    def bits(self, value: Value, type_: str) -> Value:
        """The bits of a value as another type: the same bits, the low ones, or with zeros above."""
        width = BITS_OF_LLVM[type_]
        if value.bits == width:
            return self.bitcast(value, type_)
        integer = self.bitcast(value, f"i{value.bits}")
        resized = self.cast("trunc" if width < value.bits else "zext", integer, f"i{width}")
        return self.bitcast(resized, type_)

    def pack(self, parts: list[Value]) -> Value:
        """Integers of one type side by side in a wider one, the first in the low bits."""
        width = parts[0].bits
        wide = f"i{width * len(parts)}"
        result = self.cast("zext", parts[0], wide)
        for index, part in enumerate(parts[1:], 1):
            result = self.op("or", result, self.op("shl", self.cast("zext", part, wide), index * width))
        return result

    def field(self, value: Value, shift: int, type_: str) -> Value:
        """The bits of an integer from ``shift`` on, as a narrower type."""
        return self.trunc(self.op("lshr", value, shift) if shift else value, type_)

    # calls
    def intrinsic(self, name: str, first: Value, *rest: Value | int) -> Value:
        """An overloaded intrinsic whose operands and result have one type."""
        count = 1 + len(rest)
        self.declare(f"declare {first.type} @llvm.{name}.{suffix(first.type)}({', '.join([first.type] * count)})")
        operands = ", ".join([str(first), *(f"{first.type} {_name(value)}" for value in rest)])
        return self.let(first.type, f"call {first.type} @llvm.{name}.{suffix(first.type)}({operands})")

    def clamp(self, value: Value, low: int, high: int) -> Value:
        """A signed integer between two bounds."""
        return self.intrinsic("smax", self.intrinsic("smin", value, high), low)

    def call_external(self, declaration: str, *operands: Value | int, attributes: str = "") -> Value:
        """A function of the run-time; all operands and the result are i64."""
        self.declare(declaration)
        name = declaration[declaration.index("@") : declaration.index("(")]
        return self.let("i64", f"call i64 {name}({', '.join(f'i64 {_name(value)}' for value in operands)}){attributes}")

    def call_foreign(self, declaration: str, type_: str, operands: str = "") -> Value:
        """An intrinsic that ``intrinsic`` does not cover; ``operands`` as LLVM text."""
        self.declare(declaration)
        name = declaration[declaration.index("@") : declaration.index("(")]
        return self.let(type_, f"call {type_} {name}({operands})")

    # memory
    def offset(self, pointer: Value, distance: Value | int) -> Value:
        """The pointer ``distance`` bytes on.

        As getelementptr: arithmetic on integers would hide the recurrence from the vectoriser.
        """
        if distance == 0:
            return pointer
        amount = f"i64 {distance}" if isinstance(distance, int) else str(distance)
        return self.let("ptr", f"getelementptr i8, {pointer}, {amount}")

    def pointer(self, address: Value) -> Value:
        """An i64 address as a pointer (see ``offset``)."""
        return self.offset(Value("ptr", "null"), address)

    def address(self, pointer: Value) -> Value:
        return self.cast("ptrtoint", pointer, "i64")

    def load(self, type_: str, pointer: Value, attributes: str = "") -> Value:
        return self.let(type_, f"load {type_}, {pointer}{attributes}")

    def store(self, value: Value, pointer: Value, attributes: str = "") -> None:
        self.emit(f"store {value}, {pointer}{attributes}")

    def alloca(self, type_: str, alignment: int = 8) -> Value:
        """Stack memory of the function, allocated at its top."""
        self._values += 1
        value = Value("ptr", f"%a{self._values}")
        self.allocas.append(f"  {value.name} = alloca {type_}, align {alignment}")
        return value

    def cleared(self, size: int, alignment: int) -> Value:
        """Stack memory that is zeros at the function's start: undefined bytes have no one value that a check could look at."""
        memory = self.alloca(f"[{size} x i8]", alignment)
        self.declare("declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
        self.allocas.append(f"  call void @llvm.memset.p0.i64({memory}, i8 0, i64 {size}, i1 false)")
        return memory


def _name(value: Value | int | str) -> str:
    return value.name if isinstance(value, Value) else str(value)
