"""Splits PTX text into tokens (PTX ISA, chapter 4 "Syntax") and reports errors with the line they are on; knows no
grammar.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NoReturn

from bitfusion.errors import InvalidValueError

_TOKEN = re.compile(
    r"""
    [ \t\r\n\0]+ | //[^\n]* | /\*.*?\*/                                   # skipped
  | ( "[^"]*"                                                             # string
    | 0[fF][0-9a-fA-F]{8} | 0[dD][0-9a-fA-F]{16} | \d+\.\d*(?:[eE][+-]?\d+)?  # floating point
    | 0[xX][0-9a-fA-F]+U? | 0[bB][01]+U? | \d+U?                          # integer
    | \.[A-Za-z_]\w*                                                      # directive
    | %?[A-Za-z_$][\w$]*(?:(?:\.|::)[\w$]+)*                              # identifier, opcode with modifiers
    | [-+*/%{}()\[\];:,<>=@!|&~^?]
    )
  | (.)
    """,
    re.VERBOSE | re.DOTALL | re.ASCII,
)


class Tokens:
    """A cursor over the tokens of a text. The end reads as empty tokens."""

    def __init__(self, text: str) -> None:
        self._line_starts = [match.end() for match in re.finditer("\n", text)]
        self._tokens: list[str] = []
        self._offsets: list[int] = []
        self._position = 0
        for match in _TOKEN.finditer(text):
            if match.lastindex == 1:
                self._tokens.append(match[1])
                self._offsets.append(match.start())
            elif match.lastindex == 2:
                line = bisect_right(self._line_starts, match.start()) + 1
                raise syntax_error(line, f"unexpected character {match[2]!r}")
        self._offsets.append(len(text))

    @property
    def line(self) -> int:
        """Line of the next token, counted from 1."""
        offset = self._offsets[min(self._position, len(self._offsets) - 1)]
        return bisect_right(self._line_starts, offset) + 1

    def peek(self, ahead: int = 0) -> str:
        """The next token, or the one ``ahead`` of it; "" at the end."""
        position = self._position + ahead
        return self._tokens[position] if position < len(self._tokens) else ""

    def next(self) -> str:
        """Take a token; there must be one."""
        if self._position >= len(self._tokens):
            self.fail("the text ends in the middle of a statement")
        self._position += 1
        return self._tokens[self._position - 1]

    def accept(self, token: str) -> bool:
        """Take the next token if it is ``token``."""
        if self.peek() != token:
            return False
        self._position += 1
        return True

    def expect(self, token: str) -> None:
        """Take the next token, which must be ``token``."""
        if not self.accept(token):
            self.fail(f"expected {token!r}, found {self.peek() or 'the end of the text'!r}")

    def skip_past(self, token: str) -> None:
        """Take everything up to and including ``token``."""
        while self.next() != token:
            pass

    def name(self) -> str:
        """Take an identifier."""
        token = self.next()
        if not (token[0].isalpha() or token[0] in "%_$"):
            self._position -= 1
            self.fail(f"expected a name, found {token!r}")
        return token

    def integer(self) -> int:
        """Take an integer constant with an optional sign (PTX ISA, 4.5.1)."""
        negative = self.accept("-")
        value = parse_integer(self.next())
        if value is None:
            self._position -= 1
            self.fail(f"expected an integer, found {self.peek()!r}")
        return -value if negative else value

    def fail(self, message: str) -> NoReturn:
        """Raise InvalidValueError for the next token's line."""
        raise syntax_error(self.line, message)


def parse_integer(token: str) -> int | None:
    """Value of an integer constant, or None. Leading 0 means octal, a trailing U unsigned."""
    digits = token.removesuffix("U")
    if not digits[:1].isdigit() or len(digits) > 66:  # 64 binary digits and 0b
        return None
    octal = len(digits) > 1 and digits.isdigit() and digits[0] == "0"
    try:
        value = int(digits, 8 if octal else 0)
    except ValueError:
        return None
    return value if value < 1 << 64 else None


def syntax_error(line: int, message: str) -> InvalidValueError:
    """The error for PTX that breaks the rules of the language."""
    return InvalidValueError(f"PTX line {line}: {message}", line=line)
