"""PTX text -> syntax: variables, parameters, initialisers and constants (PTX ISA, sections 4.5, 5.1.6 and 5.4)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from bitfusion.device.virtual.datatypes import TYPES, Type
from bitfusion.device.virtual.syntax import Declaration, Immediate, Symbol
from bitfusion.device.virtual.tokens import Tokens, parse_integer

VARIABLE_SIZE_MAX = 1 << 30
"""Bytes of one variable: far more than any kernel's tables, and no arithmetic on sizes can run away."""

_POINTER_HINTS = {"ptr", "global", "const", "shared", "local", "managed", "unified"}
_HANDLES = {"texref", "surfref", "samplerref"}


def parse_variables(tokens: Tokens, linkage: str = "") -> Iterator[Declaration]:
    """A variable declaration (PTX ISA, 5.4): ``.shared .align 16 .b8 name[64], other<4>;``"""
    space = tokens.next()[1:]
    alignment, datatype, vector_size = _attributes(tokens)
    while True:
        name = tokens.name()
        line_alignment = alignment or datatype.size * vector_size
        if tokens.accept("<"):
            count = _bounded(tokens, 4096)
            tokens.expect(">")
            for index in range(count):
                yield Declaration(space, datatype, f"{name}{index}", line_alignment, 1, vector_size, linkage)
        else:
            count, initial = _dimensions(tokens), _initializer(tokens)
            yield Declaration(
                space, datatype, name, line_alignment, count or len(initial), vector_size, linkage, tuple(initial)
            )
        if not tokens.accept(","):
            break
    tokens.expect(";")


def parse_parameter(tokens: Tokens) -> Declaration:
    """A formal parameter (PTX ISA, 5.1.6): ``.param .u64 .ptr .global .align 4 name``"""
    space = tokens.next()[1:]
    if space not in ("param", "reg"):
        tokens.fail(f"expected .param or .reg, found {space!r}")
    alignment, datatype, vector_size = _attributes(tokens)
    name = tokens.name()
    return Declaration(space, datatype, name, alignment or datatype.size, _dimensions(tokens), vector_size)


def _attributes(tokens: Tokens) -> tuple[int, Type, int]:
    """Alignment (0 = natural), type and vector size in front of a name."""
    alignment, vector_size, pointer = 0, 1, False
    datatype: Type | None = None
    while tokens.peek().startswith("."):
        token = tokens.next()[1:]
        if token == "align":
            value = tokens.integer()
            if value < 1 or value > 4096 or value & (value - 1):
                tokens.fail(f"an alignment of {value} is not a power of two up to 4096")
            alignment = 0 if pointer else value  # behind .ptr it is what the pointer points to
        elif token in ("v2", "v4", "v8"):
            vector_size = int(token[1:])
        elif token in TYPES:
            datatype = TYPES[token]
        elif token in _HANDLES:
            datatype = TYPES["b64"]
        elif token == "attribute":
            tokens.skip_past(")")
        elif token in _POINTER_HINTS:
            pointer = pointer or token == "ptr"
        else:
            tokens.fail(f"unknown attribute .{token}")
    if datatype is None:
        tokens.fail("a declaration needs a type")
    return alignment, datatype, vector_size


def _dimensions(tokens: Tokens) -> int:
    """Elements of ``[n][m]``; 1 without brackets, 0 for ``[]``."""
    count = 1
    while tokens.accept("["):
        if tokens.accept("]"):
            count = 0
            continue
        count *= _bounded(tokens, VARIABLE_SIZE_MAX)
        if count > VARIABLE_SIZE_MAX // 16:
            tokens.fail(f"a variable of {count} elements is too large")
        tokens.expect("]")
    return count


def _bounded(tokens: Tokens, limit: int) -> int:
    value = tokens.integer()
    if not 0 <= value <= limit:
        tokens.fail(f"{value} is not between 0 and {limit}")
    return value


def _initializer(tokens: Tokens) -> list[Immediate | Symbol]:
    """``= 1`` or ``= {{1, 2}, {3, generic(name)+8}}`` (PTX ISA, 5.4.4); nesting does not matter for the bytes."""
    values: list[Immediate | Symbol] = []
    if not tokens.accept("="):
        return values
    depth = 0
    while True:
        if tokens.accept("{"):
            depth += 1
            continue
        if tokens.peek() not in ("}", ","):
            values.append(_initial_value(tokens))
        while depth and tokens.accept("}"):
            depth -= 1
        if not depth:
            return values
        tokens.expect(",")


def _initial_value(tokens: Tokens) -> Immediate | Symbol:
    token = tokens.peek()
    if token and (token[0].isdigit() or token == "-"):
        return parse_number(tokens)
    name = tokens.name()
    if name == "generic" and tokens.accept("("):
        name = tokens.name()
        tokens.expect(")")
    return Symbol(name, parse_offset(tokens))


def parse_offset(tokens: Tokens) -> int:
    """``+ 8 - 4`` behind a name: 4."""
    offset = 0
    while tokens.peek() in ("+", "-"):
        sign = -1 if tokens.next() == "-" else 1
        offset += sign * tokens.integer()
    return offset


def parse_number(tokens: Tokens) -> Immediate:
    """An integer or floating-point constant (PTX ISA, 4.5): ``-1``, ``0f3F800000``, ``0d3FF0000000000000``, ``1.5``."""
    negative = tokens.accept("-")
    token = tokens.peek()
    if token[:2] in ("0f", "0F") and len(token) == 10:
        return Immediate(int(tokens.next()[2:], 16) ^ (negative << 31), "f")
    if token[:2] in ("0d", "0D") and len(token) == 18:
        return Immediate(int(tokens.next()[2:], 16) ^ (negative << 63), "d")
    if "." in token and token[:1].isdigit():
        decimal = float(tokens.next())
        return Immediate(int.from_bytes(struct.pack("<d", -decimal if negative else decimal), "little"), "d")
    value = parse_integer(token)
    if value is None:
        tokens.fail(f"expected a number, found {token!r}")
    tokens.next()
    return Immediate(-value if negative else value)
