"""Where a line of PTX comes from, as ``.loc`` and ``.file`` say (PTX ISA, Debugging Directives): compilers write them on request."""

from __future__ import annotations

import re
from typing import Final

_LOC: Final = re.compile(r"\s*\.loc\s+(\d+)\s+(\d+)")
_FILE: Final = re.compile(r'^\s*\.file\s+(\d+)\s+"([^"]*)"', re.MULTILINE)
_START: Final = re.compile(r"\s*(\.\w+\s+)*\.(entry|func)\b")


def source_line(text: str, line: int) -> tuple[str, int] | None:
    """(file, line) of the source behind line ``line`` (from 1) of a PTX text; None if the text does not say."""
    for above in reversed(text.split("\n")[:line]):
        if found := _LOC.match(above):
            files = dict(_FILE.findall(text))
            return (files[found[1]], int(found[2])) if found[1] in files else None
        if _START.match(above):
            return None
    return None
