"""The text of ``python -c``: kernels travel as source, and Python before 3.13 does not keep that of its command line."""

from __future__ import annotations

import linecache
import sys

FILE = "<string>"
"""What Python calls the file of code that was given with ``-c``."""


def keep() -> None:
    """Put the code of ``python -c`` where the sources of functions are looked for; nothing for any other program."""
    if sys.argv[:1] != ["-c"] or FILE in linecache.cache:
        return
    code = sys.orig_argv[-len(sys.argv)]
    lines = [line + "\n" for line in code.splitlines()]
    linecache.cache[FILE] = (len(code), None, lines, FILE)
