"""How far the bench is: bars on a terminal, otherwise a line per stage; on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bars


class Progress:
    """Shown as long as the block lasts."""

    def __init__(self) -> None:
        self._bars = _bars() if sys.stderr.isatty() else None
        self._stack = ExitStack()

    def __enter__(self) -> Progress:
        if self._bars is not None:
            self._stack.enter_context(self._bars)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @contextmanager
    def stage(self, title: str, total: int) -> Iterator[Callable[[], None]]:
        """A stage of ``total`` steps; yields what to call after each."""
        if self._bars is None:
            print(title, file=sys.stderr, flush=True)
            yield _nothing
            return
        task = self._bars.add_task(title, total=total)
        bars = self._bars
        yield lambda: bars.advance(task)
        bars.remove_task(task)


def _nothing() -> None:
    """Nobody looks."""


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import Progress as Bars

    return Bars(console=Console(stderr=True), transient=True)
