"""A canary: notices that something of a client's was executed, by the interpreter's own audit events (PEP 578)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

ACTS = ("exec", "import", "open", "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "code.__new__", "cpython.")
"""Events of code that acts. 'compile' is not one: the gate parses."""

_watching: list[list[str]] = []


def _hook(event: str, arguments: object) -> None:
    if _watching and event.startswith(ACTS):
        _watching[-1].append(f"{event} {arguments!r:.200}")


sys.addaudithook(_hook)


@contextmanager
def canary() -> Iterator[None]:
    """Fails if anything is executed, imported or opened within."""
    events: list[str] = []
    _watching.append(events)
    try:
        yield
    finally:
        _watching.pop()
    assert not events, events[:5]
