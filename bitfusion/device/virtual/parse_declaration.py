"""PTX text -> syntax: variables and parameters (PTX ISA, sections 5.1.6 and 5.4)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bitfusion.device.virtual.datatypes import TYPES, Type
from bitfusion.device.virtual.parse_constant import parse_size
from bitfusion.device.virtual.parse_initial import parse_initial
from bitfusion.device.virtual.syntax import Declaration
from bitfusion.device.virtual.tokens import Tokens

VARIABLE_SIZE_MAX = 1 << 30
"""Bytes of one variable: far more than any kernel's tables, and no arithmetic on sizes can run away."""

VARIABLE_COUNT_MAX = 1 << 16
"""Variables of a module, and of a function: ``name<4096>`` declares many in a few characters."""

DIMENSION_COUNT_MAX = 64

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
            count = tokens.integer()
            if not 0 <= count <= VARIABLE_COUNT_MAX:
                tokens.fail("too many variables")
            tokens.expect(">")
            for index in range(count):
                yield Declaration(space, datatype, f"{name}{index}", line_alignment, 1, vector_size, linkage)
        else:
            shape = _shape(tokens)
            inner = [vector_size] if vector_size > 1 else []
            initial = parse_initial(tokens, datatype, shape + inner)
            row = math.prod(shape[1:]) * vector_size
            count = math.prod(shape) or (-(-len(initial) // row) * row // vector_size if row else 0)
            if len(initial) > count * vector_size:
                tokens.fail(f"{len(initial)} initial values for {count * vector_size} elements")
            yield Declaration(space, datatype, name, line_alignment, count, vector_size, linkage, tuple(initial))
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
    natural = datatype.size * vector_size
    return Declaration(space, datatype, name, alignment or natural, math.prod(_shape(tokens)), vector_size)


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


def _shape(tokens: Tokens) -> list[int]:
    """``[n][m]``; an open dimension is 0."""
    shape: list[int] = []
    count = 1
    while tokens.accept("["):
        if len(shape) >= DIMENSION_COUNT_MAX:
            tokens.fail("too many dimensions")
        shape.append(0 if tokens.peek() == "]" else parse_size(tokens, VARIABLE_SIZE_MAX))
        count *= shape[-1] or 1
        if count > VARIABLE_SIZE_MAX // 16:
            tokens.fail(f"a variable of {count} elements is too large")
        tokens.expect("]")
    return shape
