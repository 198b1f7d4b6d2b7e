"""What is said while a request waits in the queue: on a terminal one line that changes, elsewhere a line for every change."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bitfusion.session.waiting import Waiting

COLUMNS_MIN = 20
"""Narrower terminals do not say how wide they are."""

ERASE = "\r\x1b[K"
"""To the start of the line, and erase it (ECMA-48 EL)."""


class Queueing:
    """Told of every change, it says so on standard error; the line on a terminal is gone when the block ends."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._said = ""

    def __enter__(self) -> Queueing:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live and self._said:
            sys.stderr.write(ERASE)
            sys.stderr.flush()

    def __call__(self, waiting: Waiting) -> None:
        """The place in the queue has changed."""
        text = place_text(waiting)
        if self._quiet or text == self._said:
            return
        self._said = text
        if self._live:
            sys.stderr.write(ERASE + f"bitfusion: {text}"[: _columns() - 1])
        else:
            sys.stderr.write(f"bitfusion: {text}\n")
        sys.stderr.flush()


def place_text(waiting: Waiting) -> str:
    """``waiting, 2 of 5 in the queue: NVIDIA H100 (cuda 0): 3 leases on it, ...``."""
    if not waiting.position:
        return "the lease is granted"
    reason = waiting.reason or "; ".join(f"{name}: {why}" for name, why in waiting.reasons)
    place = f"waiting, {waiting.position} of {waiting.count} in the queue"
    return f"{place}: {reason}" if reason else place


def _columns() -> int:
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except OSError:
        columns = 0
    return columns if columns >= COLUMNS_MIN else 80
