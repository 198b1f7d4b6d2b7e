"""The user's source lines, where Numba looks for them when it writes a message, without a file being opened.

Numba reads lines through ``linecache`` by the file's name relative to the working directory (numba.cuda.core.ir.Loc). Were the name not
in there, it would open the file of that name on the server, so every name that can be asked for is put there, and taken away again.
"""

from __future__ import annotations

import linecache
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from bitfusion.kernels.program import Function

LINE_COUNT_MAX = 4_000_000
"""Lines of all files, 8 bytes each: as many as four files of the longest kind. Functions beyond are not quoted."""


@contextmanager
def listing(functions: Iterable[Function]) -> Iterator[Mapping[str, str]]:
    """Within it ``linecache`` has the functions' lines. The value: the names Numba may use for a file, and the user's own."""
    names = {}
    entries: dict[str, tuple[int, None, list[str], str]] = {}
    for file, lines in _lines(functions).items():
        for name in {file, _relative(file)}:
            names[name] = file
            entries[name] = (0, None, lines, name)  # no time: linecache.checkcache does not look for a file
    kept = {name: linecache.cache[name] for name in entries if name in linecache.cache}
    linecache.cache.update(entries)
    try:
        yield names
    finally:
        for name in entries:
            linecache.cache.pop(name, None)
        linecache.cache.update(kept)


def _lines(functions: Iterable[Function]) -> dict[str, list[str]]:
    """By file, its lines as far as they are known; the others are empty."""
    files: dict[str, list[str]] = {}
    count = 0
    for function in functions:
        text = function.text.splitlines(keepends=True)
        lines = files.setdefault(function.file, [])
        missing = max(function.line - 1 + len(text) - len(lines), 0)
        count += missing
        if count > LINE_COUNT_MAX:
            continue
        lines.extend(["\n"] * missing)
        lines[function.line - 1 : function.line - 1 + len(text)] = text
    return files


def _relative(file: str) -> str:
    try:
        return os.path.relpath(file)
    except (OSError, ValueError):  # no working directory any more: Numba then uses no name at all
        return file
