"""A plain table: a heading and rows, without lines, for listings that other programs may cut into columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

WIDTH_MIN = 8
"""Columns that are left of a text that has to give way."""


def table_of(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """``headings`` that begin with ">" are of numbers, set to the right; texts give way where the width is too small."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", border_style="dim", pad_edge=False)
    for heading in headings:
        numbers = heading.startswith(">")
        table.add_column(
            heading.removeprefix(">"),
            justify="right" if numbers else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=len(heading) - 1 if numbers else min(WIDTH_MIN, len(heading)),
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table
