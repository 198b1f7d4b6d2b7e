"""Ends what runs too long: one thread that sleeps until the deadline of the grid that runs, and without an end while none does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Watchdog:
    """Calls ``expire`` if a block under ``watch`` takes longer than ``timeout_s``; the thread starts with the first one."""

    def __init__(self, timeout_s: float, expire: Callable[[], None]) -> None:
        self._timeout_s = timeout_s
        self._expire = expire
        self._deadline: float | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._asleep = False
        self._thread: threading.Thread | None = None

    @contextmanager
    def watch(self) -> Iterator[None]:
        """One block at a time."""
        with self._changed:
            self._deadline = time.monotonic() + self._timeout_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bitfusion-watchdog", daemon=True)
                self._thread.start()
            elif self._asleep:  # else it wakes in time: no deadline is earlier than the last one's
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._deadline = None

    def _run(self) -> None:
        with self._changed:
            while not self._closing:
                if self._deadline is None:
                    self._asleep = True
                    self._changed.wait()
                    self._asleep = False
                elif (left := self._deadline - time.monotonic()) > 0:
                    self._changed.wait(left)
                else:
                    self._deadline = None
                    self._expire()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
