"""PTX text -> constants: numbers and constant expressions (PTX ISA, 4.5)."""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable
from typing import Final

from bitfusion.device.virtual.syntax import Immediate
from bitfusion.device.virtual.tokens import Tokens, parse_integer

EXPRESSION_DEPTH_MAX: Final = 32
"""Parentheses and signs within one another."""

_BITS: Final = 64
_MASK: Final = (1 << _BITS) - 1
_BEGIN: Final = frozenset("-+~!(")
_OPERATORS: Final = frozenset("+-*/%<>=!&^|?")

Number = tuple[int, bool]
"""A value and whether it is unsigned; constant expressions are computed in .s64 and .u64 (PTX ISA, 4.5.5)."""


def begins_constant(token: str) -> bool:
    """Whether a constant begins with the token."""
    return token[:1].isdigit() or token in _BEGIN


def parse_constant(tokens: Tokens) -> Immediate:
    """A number or an expression of integers: ``-1``, ``0f3F800000``, ``1.5``, ``(4 * 8) | 1``."""
    token = tokens.peek()
    if token[:1].isdigit() and tokens.peek(1)[:1] not in _OPERATORS:  # nearly all constants are plain numbers
        return _number(tokens, negative=False)
    if token == "-" and _is_float(tokens.peek(1)):
        tokens.next()
        return _number(tokens, negative=True)
    if token == "-" and tokens.peek(1)[:1].isdigit() and tokens.peek(2)[:1] not in _OPERATORS:
        tokens.next()
        return _number(tokens, negative=True)
    return Immediate(_Expression(tokens).value()[0])


def parse_size(tokens: Tokens, limit: int) -> int:
    """A count between 0 and ``limit``."""
    constant = parse_constant(tokens)
    if constant.kind != "i" or not 0 <= constant.value <= limit:
        tokens.fail(f"{constant.value} is not between 0 and {limit}")
    return constant.value


def parse_offset(tokens: Tokens) -> int:
    """``+ 8 - 4 * 2`` behind a name: 0."""
    offset = 0
    while tokens.peek() in ("+", "-"):
        sign = -1 if tokens.next() == "-" else 1
        token = tokens.peek()
        if token[:1].isdigit() and tokens.peek(1) not in ("*", "/", "%"):
            offset += sign * tokens.integer()
        else:
            offset += sign * _Expression(tokens).factor()
    return offset


def _is_float(token: str) -> bool:
    return token[:2] in ("0f", "0F", "0d", "0D") or (token[:1].isdigit() and "." in token)


def _number(tokens: Tokens, negative: bool) -> Immediate:
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


class _Expression:
    """Operators as in C, by precedence (PTX ISA, 4.5.4, table of operators)."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.depth = 0

    def value(self) -> Number:
        """condition ? yes : no"""
        self._enter()
        condition = self._binary(0)
        if self.tokens.accept("?"):
            yes = self.value()
            self.tokens.expect(":")
            no = self.value()
            condition = yes if condition[0] else no
        self.depth -= 1
        return condition

    def factor(self) -> int:
        """A product, without sums: what a sign in front of it applies to."""
        return self._binary(_PRECEDENCE["*"])[0]

    def _enter(self) -> None:
        self.depth += 1
        if self.depth > EXPRESSION_DEPTH_MAX:
            self.tokens.fail("the expression is nested too deeply")

    def _binary(self, least: int) -> Number:
        left = self._unary()
        while (symbol := self._operator()) and _PRECEDENCE[symbol] >= least:
            for _ in symbol:
                self.tokens.next()
            left = self._combine(symbol, left, self._binary(_PRECEDENCE[symbol] + 1))
        return left

    def _operator(self) -> str:
        """The operator that comes next: tokens are single characters."""
        first, second = self.tokens.peek(), self.tokens.peek(1)
        if first + second in _PRECEDENCE and len(second) == 1:
            return first + second
        return first if first in _PRECEDENCE else ""

    def _combine(self, symbol: str, left: Number, right: Number) -> Number:
        unsigned = left[1] or right[1]
        if symbol in ("/", "%") and not right[0]:
            self.tokens.fail("division by zero")
        if symbol in ("<<", ">>"):
            unsigned = left[1]
            right = min(right[0] & _MASK, _BITS), True
        x, y = (value & _MASK if unsigned else value for value in (left[0], right[0]))
        return _wrap(_ACTIONS[symbol](x, y), unsigned and symbol not in _LOGICAL)

    def _unary(self) -> Number:
        token = self.tokens.peek()
        if token in ("-", "+", "~", "!"):
            self._enter()
            self.tokens.next()
            value, unsigned = self._unary()
            self.depth -= 1
            return _wrap({"-": -value, "+": value, "~": ~value, "!": int(not value)}[token], unsigned)
        if token == "(":
            return self._parenthesis()
        value_or_none = parse_integer(token)
        if value_or_none is None:
            self.tokens.fail(f"expected a number, found {token or 'the end of the text'!r}")
        self.tokens.next()
        return value_or_none, token.endswith("U") or value_or_none >= 1 << _BITS - 1

    def _parenthesis(self) -> Number:
        """``(expression)``, or ``(.u64) operand``."""
        self.tokens.expect("(")
        cast = self.tokens.peek()
        if cast in (".s64", ".u64"):
            self.tokens.next()
            self.tokens.expect(")")
            self._enter()
            value = self._unary()[0]
            self.depth -= 1
            return _wrap(value, cast == ".u64")
        inner = self.value()
        self.tokens.expect(")")
        return inner


def _wrap(value: int, unsigned: bool) -> Number:
    value = int(value) & _MASK
    return (value if unsigned or not value >> _BITS - 1 else value - (1 << _BITS)), unsigned


def _quotient(left: int, right: int) -> int:
    """Towards zero, as in C."""
    return abs(left) // abs(right) * (-1 if (left < 0) != (right < 0) else 1)


_LEVELS: Final = ("||", "&&", "|", "^", "&", "== !=", "< <= > >=", "<< >>", "+ -", "* / %")
_PRECEDENCE: Final = {symbol: level for level, symbols in enumerate(_LEVELS) for symbol in symbols.split()}
_LOGICAL: Final = frozenset({"||", "&&", "==", "!=", "<", "<=", ">", ">="})
_ACTIONS: Final[dict[str, Callable[[int, int], int]]] = {
    "||": lambda x, y: int(bool(x or y)),
    "&&": lambda x, y: int(bool(x and y)),
    "|": operator.or_,
    "^": operator.xor,
    "&": operator.and_,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "<<": lambda x, y: x << y,
    ">>": lambda x, y: x >> y,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _quotient,
    "%": lambda x, y: x - y * _quotient(x, y),
}
