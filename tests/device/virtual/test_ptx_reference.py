"""docs/reference/ptx.md against the compiler: what it says is run is known, what it says is refused is not, and nothing is left out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bitfusion.device.virtual.datatypes import TYPES
from bitfusion.device.virtual.emit_warp import SUSPENDING
from bitfusion.device.virtual.instructions import TABLE

PAGE = (Path(__file__).parents[3] / "docs/reference/ptx.md").read_text()
CONTROL = {"bra", "brx", "ret", "exit"}
"""Ends of basic blocks: translated by ``body``, not from the table."""


def rows():
    """(instruction, answer) of the page's first table."""
    found = []
    for line in PAGE[PAGE.index("## Instructions") : PAGE.index("## Everything else")].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and (names := re.findall(r"`([\w.]+)`", cells[1])):
            found += [(name, cells[2]) for name in names]
    return found


def known(name):
    """Whether there is an entry that knows the opcode and all its modifiers."""
    opcode, *modifiers = name.split(".")
    if opcode in CONTROL:
        return True
    entries = [table[opcode] for table in (TABLE, SUSPENDING) if opcode in table]
    types = [word for word in modifiers if word in TYPES]
    return any(
        len(types) <= entry.type_count
        and all(word in (entry.types if word in TYPES else entry.modifiers) for word in modifiers)
        for entry in entries
    )


@pytest.mark.parametrize(("name", "answer"), rows())
def test_the_page_says_what_the_compiler_knows(name, answer):
    assert answer in ("yes", "limits", "refused")
    assert known(name) == (answer != "refused")


def test_no_instruction_is_left_out():
    told = {name.partition(".")[0] for name, _ in rows()}
    assert {opcode for opcode in (*TABLE, *SUSPENDING) if not opcode.startswith(".")} - told - {"cp"} == set()
