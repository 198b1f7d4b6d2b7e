"""The store's one writer: a thread that brings changes to the disk, in their order, as many at once as there are. Owns when, not what.

A commit takes tens of microseconds, but every thousand pages the log is carried into the file, and that, or a disk that stalls, takes
milliseconds: nothing a daemon's loop should wait for. When the disk is full or fails, changes stay in memory, which is said once, and the
thread tries again, now and then and whenever somebody asks whether all is written.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future

from bitfusion.pool.store_pending import Pending

log = logging.getLogger(__name__)

RETRY_S = 5.0
"""Between two attempts at a disk that is full; there is no event for room that comes free."""

TEND_S = 3600.0
"""How often somebody looks whether a backup is due, when nothing else happens."""


class Writer:
    """Calls ``write`` with what is pending; that returns what stands in the way, or None. ``tend`` is called between, hourly at least."""

    def __init__(self, write: Callable[[Pending], str | None], tend: Callable[[], None]) -> None:
        self.problem: str | None = None
        """Why changes are kept in memory only."""
        self._write = write
        self._tend = tend
        self._pending = Pending()
        self._writing = Pending()
        self._asked: list[Future[bool]] = []
        self._closing = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="bitfusion-store", daemon=True)
        self._thread.start()

    def change(self, changes: Pending) -> None:
        """Have it written soon. Never waits for a disk."""
        with self._news:
            self._pending.add(changes)
            self._news.notify()

    def pending(self) -> Pending:
        """All that is not on the disk. Whoever needs it to be exact keeps ``write`` from running meanwhile."""
        with self._news:
            return self._writing.merged(self._pending)

    def written(self) -> Future[bool]:
        """Done when all that came before was tried: whether it is on the disk."""
        asked: Future[bool] = Future()
        asked.set_running_or_notify_cancel()
        with self._news:
            if self._closing:
                asked.set_result(not self._pending)
            else:
                self._asked.append(asked)
                self._news.notify()
        return asked

    def forget(self, written: Pending) -> None:
        """``write`` calls this when its commit is done, before it lets anybody read."""
        with self._news:
            assert written is self._writing
            self._writing = Pending()

    def close(self) -> None:
        """Write the rest, if it can be written, and end."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join()

    def _run(self) -> None:
        closing = False
        while not closing:
            with self._news:
                if not self._closing and not self._asked and (self.problem or not self._pending):
                    self._news.wait_for(self._is_wanted, RETRY_S if self.problem else TEND_S)
                closing, asked, self._asked = self._closing, self._asked, []
                self._writing, self._pending = self._pending, Pending()
            self._attempt()
            for future in asked:
                future.set_result(self.problem is None or not self.pending())
            if not closing:
                self._tend()

    def _is_wanted(self) -> bool:
        return bool(self._closing or self._asked or (self._pending and not self.problem))

    def _attempt(self) -> None:
        batch = self._writing
        if not batch:
            return
        try:
            problem = self._write(batch)
        except Exception as error:  # a fault of our own must not end what the daemon has promised
            log.exception("! the store could not write")
            problem = f"a fault of its own: {error}"
        with self._news:
            if problem is not None:
                self._pending, self._writing = self._writing.merged(self._pending), Pending()
                self._pending.bound()
        self._tell(problem, batch.lost)

    def _tell(self, problem: str | None, lost: int) -> None:
        if problem is not None and self.problem is None:
            log.error("! changes are kept in memory only, and would be lost with the appliance: %s", problem)
        elif problem is None and self.problem is not None:
            log.warning("! all changes are on the disk again; %d entries of the history were lost", lost)
        self.problem = problem
