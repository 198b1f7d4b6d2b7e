"""The texts that a program compiles itself, by ``exec`` or ``compile`` under a name such as ``<string>``: Python keeps none of them.

Owns remembering them, by the audit event that Python raises for each (PEP 578), and finding the one that a function was made of. Texts of
files, of notebook cells and of doctests are ``linecache``'s.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from types import CodeType

TEXTS_SIZE_MAX = 4 * 1024 * 1024
"""Characters of all texts that are kept, the newest of them: a thousand kernels, and what dataclasses and named tuples execute."""

_texts: OrderedDict[tuple[str, str], None] = OrderedDict()
"""File name and text, the newest last."""

_size = 0
_watching = False
_lock = threading.RLock()


def _unlock() -> None:
    """In a forked child, whose parent's other thread may have been in the midst of it."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_unlock)


def watch() -> None:
    """From now on, keep the texts. Once for the process: Python takes no audit hook back."""
    global _watching
    if not _watching:
        _watching = True
        sys.addaudithook(_heard)


def _heard(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: called for every event of the process, so it must be quick, and must not raise."""
    if event == "compile":
        match arguments:
            case [str() | bytes() as source, str() as file] if file.startswith("<") and len(source) <= TEXTS_SIZE_MAX:
                text = source if isinstance(source, str) else source.decode(errors="replace")
                if "def " in text or "lambda" in text:
                    _keep(file, text)


def _keep(file: str, text: str) -> None:
    """May be entered by all threads, and again by a signal's handler in its midst: each step leaves what the next can do with."""
    global _size
    with _lock:
        if _texts.pop((file, text), text) is not text:
            _size -= len(text)
        _texts[file, text] = None
        _size += len(text)
        while _size > TEXTS_SIZE_MAX and _texts:
            _size -= len(_texts.popitem(last=False)[0][1])


def _kept() -> list[tuple[str, str]]:
    with _lock:
        return list(_texts)


def lines_of(code: CodeType) -> list[str]:
    """The lines of the text that ``code`` was compiled from, as ``linecache`` would give them; none if it is not known.

    It is compiled again and compared, so that among many texts of one name it is the right one. The newest is tried first.
    """
    if not code.co_filename.startswith("<"):
        return []
    for file, text in reversed(_kept()):
        if file == code.co_filename and code.co_name.strip("<>") in text and _holds(text, code):
            return text.splitlines(keepends=True)
    return []


def _holds(text: str, code: CodeType) -> bool:
    if text.count("\n") + 1 < code.co_firstlineno:
        return False
    try:
        module = compile(text, code.co_filename, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):  # compiled in another mode
        return False
    return any(_same(inner, code) for inner in _inside(module))


def _inside(code: CodeType) -> Iterator[CodeType]:
    """All code objects in one."""
    waiting = [code]
    while waiting:
        for constant in waiting.pop().co_consts:
            if isinstance(constant, CodeType):
                waiting.append(constant)
                yield constant


def _same(one: CodeType, other: CodeType) -> bool:
    """Whether they do the same at the same lines. Flags may differ: a ``__future__`` of the text around ``exec`` is in them."""
    return all(
        getattr(one, name) == getattr(other, name)
        for name in ("co_name", "co_firstlineno", "co_code", "co_names", "co_varnames", "co_freevars", "co_argcount")
    ) and [constant for constant in one.co_consts if not isinstance(constant, CodeType)] == [
        constant for constant in other.co_consts if not isinstance(constant, CodeType)
    ]
