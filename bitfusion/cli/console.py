"""Where the verbs write: lines of our own on standard error, tables and JSON on standard output.

Colours, bars that move and the like are for terminals only. What peers wrote is never read as markup.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def say(text: str) -> None:
    """A line of our own on standard error."""
    print(f"bitfusion: {text}", file=sys.stderr, flush=True)


def console() -> Console:
    """Standard output. Without a terminal: no colours."""
    from rich.console import Console  # which takes longer to import than `run` may take to start

    class Ours(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # which rich would make an exit with code 1 of; cli/main.py has the code for it

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=PLAIN)
    return Ours(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else _width())


PLAIN = "bitfusion-plain"
"""How characters are written that the terminal's encoding does not have."""

_PLAIN_LETTERS = {"█": "#", "▓": "+", "░": ".", "…": "~", "╶": "-", "°": "", "·": "-"}

codecs.register_error(
    PLAIN,
    lambda error: (_PLAIN_LETTERS.get(error.object[error.start], "?"), error.start + 1),  # type: ignore[attr-defined]  # of UnicodeEncodeError
)


def _width() -> int:
    """Columns where the output is no terminal: what COLUMNS says, else those of one that another stream is (``bitfusion smi | less``)."""
    named = os.environ.get("COLUMNS", "")
    if named.isdecimal() and 0 < int(named) < 10_000:
        return int(named)
    for stream in (2, 0):
        with contextlib.suppress(OSError):
            if columns := os.get_terminal_size(stream).columns:
                return columns
    return WIDTH_DEFAULT


WIDTH_DEFAULT = 120
"""Columns where nothing says how many there are."""


def show(*parts: RenderableType) -> None:
    """Print on standard output."""
    target = console()
    for part in parts:
        target.print(part)


def show_whole(text: RenderableType) -> None:
    """Print on standard output a line that is only broken where a terminal's width ends: other programs read it by lines."""
    console().print(text, soft_wrap=not sys.stdout.isatty())


def show_json(value: object) -> None:
    """Print as JSON, for other programs."""
    print(json.dumps(value, indent=2))
