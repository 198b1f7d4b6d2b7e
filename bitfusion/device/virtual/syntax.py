"""The abstract syntax of a PTX module (PTX ISA, chapters 4 and 5); owns data, no behaviour beyond access to modifiers.

Scopes are flattened: the parser makes the names of registers, labels and variables unique within a function.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from bitfusion.device.virtual.datatypes import TYPES, Type
from bitfusion.device.virtual.tokens import syntax_error

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Register:
    name: str


@dataclass(frozen=True, slots=True)
class Negated:
    """``!%p``: the complement of a predicate register."""

    name: str


@dataclass(frozen=True, slots=True)
class SpecialRegister:
    """``%tid.x`` is ``tid.x``."""

    name: str


@dataclass(frozen=True, slots=True)
class Immediate:
    """A constant. ``kind`` i: ``value`` is the integer; f, d: the bit pattern of an f32 or f64."""

    value: int
    kind: str = "i"


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable, function, parameter or label, plus a constant.

    In initial values of bytes: the byte of that address from bit ``shift`` on.
    """

    name: str
    offset: int = 0
    shift: int = 0


@dataclass(frozen=True, slots=True)
class Vector:
    """``{a, b}``"""

    items: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """``a|b``: two destinations."""

    first: Operand
    second: Operand


@dataclass(frozen=True, slots=True)
class Address:
    """``[base + offset]``"""

    base: Operand
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Discard:
    """``_``: a result nobody wants."""


Operand: TypeAlias = Register | Negated | SpecialRegister | Immediate | Symbol | Vector | Pair | Address | Discard


@dataclass(frozen=True, slots=True)
class Call:
    """The operands of ``call``: results and arguments are registers, constants or .param variables (as Symbol)."""

    results: tuple[Operand, ...]
    target: Operand
    arguments: tuple[Operand, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Instruction:
    """One instruction; compared and hashed by identity, as one text can stand in many places."""

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    predicate: Register | Negated | None = None
    line: int = 0
    call: Call | None = None

    def __str__(self) -> str:
        return ".".join((self.opcode, *self.modifiers))

    @property
    def types(self) -> list[Type]:
        """The types among the modifiers, in order."""
        return [TYPES[name] for name in self.modifiers if name in TYPES]

    @property
    def type(self) -> Type:
        """The last type: of the operands, where destination and operands differ."""
        for name in reversed(self.modifiers):
            if name in TYPES:
                return TYPES[name]
        raise syntax_error(self.line, f"{self} needs a type")

    @property
    def vector_size(self) -> int:
        """2, 4 or 8 for .v2, .v4, .v8, else 1."""
        return self.choose({"v2": 2, "v4": 4, "v8": 8}, 1)

    def has(self, *modifiers: str) -> bool:
        """Whether any of the modifiers is there."""
        return any(modifier in self.modifiers for modifier in modifiers)

    def choose(self, choices: Mapping[str, _T], default: _T) -> _T:
        """The value of the first modifier that is a key of ``choices``."""
        for modifier in self.modifiers:
            if modifier in choices:
                return choices[modifier]
        return default

    def require(self, choices: Mapping[str, _T]) -> _T:
        """As ``choose``, where PTX demands one of them."""
        for modifier in self.modifiers:
            if modifier in choices:
                return choices[modifier]
        raise syntax_error(self.line, f"{self} needs one of .{', .'.join(choices)}")


@dataclass(frozen=True, slots=True)
class Label:
    name: str


Statement: TypeAlias = Instruction | Label


@dataclass(frozen=True, slots=True)
class Declaration:
    """A variable, parameter or (``space`` reg) register parameter.

    ``count`` is the number of elements, 0 for ``extern`` arrays without a size; ``initial`` its flat initialiser.
    """

    space: str
    type: Type
    name: str
    alignment: int
    count: int = 1
    vector_size: int = 1
    linkage: str = ""
    initial: tuple[Immediate | Symbol, ...] = ()

    @property
    def size(self) -> int:
        """Bytes."""
        return self.type.size * self.count * self.vector_size


@dataclass(slots=True)
class Function:
    """An .entry or .func. ``body`` is None for a declaration."""

    name: str
    entry: bool
    results: list[Declaration]
    parameters: list[Declaration]
    body: list[Statement] | None = None
    registers: dict[str, Type] = field(default_factory=dict)
    variables: dict[str, Declaration] = field(default_factory=dict)
    """.local variables and the .param variables of call sequences; .shared and .global ones are the module's."""
    branch_targets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    directives: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Performance-tuning directives, e.g. ``reqntid`` -> (x, y, z)."""

    def instructions(self) -> Iterable[Instruction]:
        return (statement for statement in self.body or () if isinstance(statement, Instruction))


@dataclass(slots=True)
class Module:
    variables: dict[str, Declaration] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    register_count: int = 0
    """Registers declared in all functions."""
