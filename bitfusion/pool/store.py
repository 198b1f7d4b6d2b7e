"""The store: what an appliance must not forget. Leases, waiters, quotas and the history, in SQLite or, for a private one, in memory.

A change is a plain call that never waits for a disk: the writer's thread brings it there, and ``written`` says when. What was written
is there after the daemon was killed. What is read is always what was changed, written or not; reading takes a file's time, and belongs
into a thread once a loop runs. Owns no policy: the pool says what there is.

Whoever opens a file holds the lock of its directory (``daemon/state_lock.py``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from bitfusion.errors import BitfusionError, ConfigError
from bitfusion.pool import store_file, store_history
from bitfusion.pool.lease import Lease
from bitfusion.pool.queue import Waiter, order
from bitfusion.pool.quota import Quota, check_subject
from bitfusion.pool.store_history import Asked, Ended
from bitfusion.pool.store_pending import TABLES, Kept, Pending
from bitfusion.pool.store_schema import migrate
from bitfusion.pool.store_writer import Writer
from bitfusion.pool.usage import DAY_S

log = logging.getLogger(__name__)

T = TypeVar("T", Lease, Waiter, Quota)

FILE = "pool.db"
"""In the state directory."""

BACKUP_RETRY_S = 3600.0
"""After a backup that failed, for a full disk as a rule."""


class Store:
    """Opens, or makes, the database at ``path``; None: in memory, for as long as the process lives.

    ConfigError where it cannot be used; it says why and what to do. ``recovered`` says what was wrong with the file, if its backup
    had to take its place.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        history_count_max: int = store_history.COUNT_MAX,
        history_age_max_s: float = store_history.AGE_MAX_S,
    ) -> None:
        self.path = path
        self.recovered: str | None = None
        self._bounds = history_count_max, history_age_max_s
        self._reading = threading.RLock()
        """Held while the connection is used, and so while a batch becomes part of the file."""
        self._backing_up: threading.Thread | None = None
        self._backup_due = time.monotonic()
        self._backup_problem: str | None = None
        self._writer: Writer | None = None
        if path is None:
            self._database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            migrate(self._database)
        else:
            self._database, self.recovered = store_file.open_file(path)
            self._writer = Writer(self._write, self._tend)
            self._tend()

    # what changes

    def lease_granted(self, lease: Lease) -> None:
        """A lease is there, or is another now; a waiter of its id has got it, and waits no more."""
        self._change(lease={lease.id: lease}, waiter={lease.id: None})

    def lease_ended(self, lease: Lease, reason: str, device_s: float, now: float) -> None:
        """A lease is over: into the history. ``device_s``: seconds of GPUs' time that it used."""
        self._change(Ended.of(lease, reason, device_s, now), lease={lease.id: None})

    def waiter_added(self, waiter: Waiter) -> None:
        """A request waits."""
        self._change(waiter={waiter.id: waiter})

    def waiter_removed(self, waiter_id: str) -> None:
        """It gave up."""
        self._change(waiter={waiter_id: None})

    def set_quota(self, subject: str, quota: Quota | None) -> None:
        """None: no limit. It is on the disk itself when it is ``written``. ConfigError for a subject that nobody could be."""
        self._change(quota={check_subject(subject): quota})

    def remove_quota(self, subject: str) -> None:
        """As ``set_quota(subject, None)``."""
        self.set_quota(subject, None)

    def _change(self, *ended: Ended, **kept: dict[str, Kept | None]) -> None:
        changes = Pending({table: kept.get(table, {}) for table in TABLES}, {item.id: item for item in ended})
        if self._writer is not None:
            self._writer.change(changes)
        else:
            with self._reading, store_file.transaction(self._database):
                changes.write(self._database, *self._bounds)

    def written(self) -> Future[bool]:
        """Done when all changes so far were tried: whether they are in the file. ``asyncio.wrap_future`` makes it awaitable."""
        if self._writer is not None:
            return self._writer.written()
        done: Future[bool] = Future()
        done.set_result(True)
        return done

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait for that. TimeoutError if it takes longer than ``timeout_s``."""
        return self.written().result(timeout_s)

    # what there is

    def leases(self) -> tuple[Lease, ...]:
        """Those that have not ended, as they were granted."""
        return tuple(self._kept("lease", Lease.from_plain).values())

    def waiters(self) -> tuple[Waiter, ...]:
        """In the queue's order."""
        return tuple(sorted(self._kept("waiter", Waiter.from_plain).values(), key=order))

    def quotas(self) -> dict[str, Quota]:
        """By subject."""
        return self._kept("quota", Quota.from_plain)

    def history(
        self, since: float = 0.0, user: str | None = None, group: str | None = None, limit: int = 1000
    ) -> list[Ended]:
        """Leases that ended at ``since`` (Unix seconds) or later, the latest first."""
        asked = Asked(since, user, group, limit)
        with self._reading:
            pending = [ended for ended in self._pending().ended.values() if asked.admits(ended)]
            found = store_history.select(self._database, asked)
        found += reversed(pending)
        return sorted(found, key=lambda ended: ended.ended_at, reverse=True)[: max(limit, 0)] if pending else found

    def spent(self, now: float) -> dict[str, float]:
        """GPU-seconds of the day (UTC) of ``now`` by subject, of leases that have ended: what ``Pool.restore`` takes."""
        with self._reading:
            return store_history.spent(self._database, self._pending().ended.values(), now)

    def usage(self, subject: str, now: float) -> float:
        """Those of one user or group, ``user:alice`` or ``group:staff``."""
        return self.spent(now).get(check_subject(subject), 0.0)

    def _kept(self, table: str, read: Callable[[object], T]) -> dict[str, T]:
        """Rows of ``table`` that can be read. One that cannot stays where it is, and is told."""
        found: dict[str, T] = {}
        with self._reading:
            rows = self._database.execute(f"SELECT id, body FROM {table}").fetchall()
            for item, body in rows:
                try:
                    found[item] = read(json.loads(body))
                except (ValueError, ConfigError) as error:
                    log.error("! the %s %s in %s cannot be read and is left out: %s", table, item, self.path, error)
            changes: dict[str, Kept | None] = self._pending().kept[table]
        for item, value in changes.items():
            if value is None:
                found.pop(item, None)
            else:
                found[item] = value  # type: ignore[assignment]  # a table has one type
        return found

    def _pending(self) -> Pending:
        return Pending() if self._writer is None else self._writer.pending()

    # care

    @property
    def problem(self) -> str | None:
        """Why changes are kept in memory only, or there is no newer backup; None if all is well."""
        return (self._writer and self._writer.problem) or self._backup_problem

    def check(self) -> list[str]:
        """What is wrong inside the file, as SQLite finds it; nothing for a sound one. Takes time: for a thread."""
        if self.path is None:
            return []
        with contextlib.closing(store_file.open_readonly(self.path)) as database:
            return store_file.problems(database)

    def backup(self, target: Path) -> None:
        """Copy all that is known in this moment, also what waits for the disk, while it goes on. ConfigError if it cannot be written."""
        if self.path is not None and target.absolute() == self.path.absolute():
            raise ConfigError(f"{target} is the database itself: give the backup another name")
        with self._snapshot() as (source, pending), store_file.explained(target):
            store_file.copy(source, target, lambda database: self._catch_up(database, pending))

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[tuple[sqlite3.Connection, Pending]]:
        """A connection that sees this moment's file, and what is not in it."""
        if self.path is None:
            yield self._database, Pending()
            return
        with contextlib.closing(store_file.open_readonly(self.path)) as source:
            with self._reading, store_file.explained(self.path):
                pending = self._pending()
                source.execute("BEGIN")  # from its first look on it sees the same (sqlite.org/isolation.html)
                source.execute("SELECT count(*) FROM lease").fetchone()
            yield source, pending

    def close(self) -> None:
        """Write what is left, and close the file."""
        if self._writer is not None:
            self._writer.close()
            if self._writer.pending():
                log.error("! changes are lost that could not be written: %s", self._writer.problem)
        if self._backing_up is not None:
            self._backing_up.join()
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _catch_up(self, database: sqlite3.Connection, pending: Pending) -> None:
        with store_file.transaction(database):
            pending.write(database, *self._bounds)

    def _write(self, batch: Pending) -> str | None:
        """For the writer: what stands in the way, or None."""
        assert self._writer is not None
        with self._reading:
            try:
                with store_file.transaction(self._database, durable=bool(batch.kept["quota"])):
                    batch.write(self._database, *self._bounds)
            except sqlite3.Error as error:
                with contextlib.suppress(sqlite3.Error):
                    batch.forget_the_unwritten(self._database)
                return f"{self.path}: {error}; {store_file.advice(error)}"
            self._writer.forget(batch)
        return None

    def _tend(self) -> None:
        """A backup on opening and each day, beside all else."""
        if time.monotonic() < self._backup_due or (self._backing_up is not None and self._backing_up.is_alive()):
            return
        self._backup_due = time.monotonic() + DAY_S
        thread = threading.Thread(target=self._back_up, name="bitfusion-backup", daemon=True)
        thread.start()
        self._backing_up = thread

    def _back_up(self) -> None:
        assert self.path is not None
        try:
            self.backup(store_file.backup_of(self.path))
            self._backup_problem = None
        except (BitfusionError, sqlite3.Error, OSError) as error:
            self._backup_problem = f"there is no new backup: {error}"
            self._backup_due = time.monotonic() + BACKUP_RETRY_S
            log.error("! %s", self._backup_problem)
