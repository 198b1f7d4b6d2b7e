"""PTX text -> syntax: initial values of variables (PTX ISA, 5.4.4 "Initializers")."""

from __future__ import annotations

import math
from typing import Final

from bitfusion.device.virtual.datatypes import Type
from bitfusion.device.virtual.float_bits import f32_bits, f64_bits
from bitfusion.device.virtual.parse_constant import begins_constant, parse_constant, parse_offset
from bitfusion.device.virtual.syntax import Immediate, Symbol
from bitfusion.device.virtual.tokens import Tokens

INITIAL_COUNT_MAX: Final = 1 << 22
"""Elements up to the last that is given: nested braces leave gaps, so a short text can mean many."""

_ZERO: Final = Immediate(0)
_BYTE_MASKS: Final = {0xFF << shift: shift for shift in range(0, 64, 8)}

Initial = Immediate | Symbol


def parse_initial(tokens: Tokens, datatype: Type, shape: list[int]) -> list[Initial]:
    """What follows the name of a variable of ``shape`` (0: open): ``= 1``, ``= {{1, 2}, {3, generic(name)+8}}``,
    ``= "text"``. Flat, up to the last element that is given; integers are bit patterns.
    """
    if not tokens.accept("="):
        return []
    if tokens.peek().startswith('"'):
        return _text(tokens, datatype)
    if not shape:
        return [_value(tokens, datatype)]
    values = _Aggregate(tokens, datatype).parse(shape)
    size = math.prod(shape)
    if size and len(values) > size:
        tokens.fail(f"{len(values)} initial values for {size} elements")
    return values


def _text(tokens: Tokens, datatype: Type) -> list[Initial]:
    """A string and its zero, in an array of bytes."""
    if datatype.size != 1:
        tokens.fail("only bytes can be initialised with a string")
    return [Immediate(byte) for byte in tokens.next()[1:-1].encode() + b"\0"]


class _Aggregate:
    """Braces as in C: inner ones fill one row each, and what they leave out is zero."""

    def __init__(self, tokens: Tokens, datatype: Type) -> None:
        self.tokens = tokens
        self.datatype = datatype

    def parse(self, shape: list[int]) -> list[Initial]:
        self.tokens.expect("{")
        row = math.prod(shape[1:])
        values: list[Initial] = []
        while not self.tokens.accept("}"):
            if self.tokens.peek() == "{" and len(shape) > 1:
                self._pad(values, -(-len(values) // row) * row if row else 0)
                inner = self.parse(shape[1:])
                if len(inner) > row:
                    self.tokens.fail(f"{len(inner)} initial values for a row of {row}")
                start = len(values)
                values += inner
                if self.tokens.peek(1) != "}":
                    self._pad(values, start + row)
            else:
                values.append(_value(self.tokens, self.datatype))
            if self.tokens.peek() != "}":
                self.tokens.expect(",")
        return values

    def _pad(self, values: list[Initial], count: int) -> None:
        if count > INITIAL_COUNT_MAX:
            self.tokens.fail(f"over {INITIAL_COUNT_MAX} initial values")
        values += [_ZERO] * (count - len(values))


def _value(tokens: Tokens, datatype: Type) -> Initial:
    token = tokens.peek()
    if token[:1].isdigit() and tokens.peek(1) == "(":
        return _masked(tokens)
    if begins_constant(token):
        return _constant(tokens, datatype)
    return _symbol(tokens, 0)


def _symbol(tokens: Tokens, shift: int) -> Symbol:
    """``name + 8`` or ``generic(name) + 8``"""
    name = tokens.name()
    if name == "generic" and tokens.accept("("):
        name = tokens.name()
        tokens.expect(")")
    return Symbol(name, parse_offset(tokens), shift)


def _masked(tokens: Tokens) -> Symbol:
    """``0xFF00(name)``: one byte of an address."""
    mask = tokens.integer()
    if mask not in _BYTE_MASKS:
        tokens.fail(f"the mask {mask:#x} is not one byte")
    tokens.expect("(")
    symbol = _symbol(tokens, _BYTE_MASKS[mask])
    tokens.expect(")")
    return symbol


def _constant(tokens: Tokens, datatype: Type) -> Immediate:
    """A number as the bits of the variable's type."""
    constant = parse_constant(tokens)
    if not datatype.float:
        if constant.kind != "i":
            tokens.fail(f"a floating-point number does not fit .{datatype.name}")
        return constant
    if constant.kind == "i" and datatype.name in ("f32", "f64") and constant.value:
        tokens.fail(f".{datatype.name} needs a floating-point number")
    return Immediate(f64_bits(constant) if datatype.name == "f64" else f32_bits(constant))
