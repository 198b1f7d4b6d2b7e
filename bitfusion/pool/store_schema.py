"""The tables of the store and their history: one function for each version, which makes it of the one before.

A lease, a waiter and a quota are each one JSON text, the plain form of their class (``asdict``, ``from_plain``): the pool reads them all
when it starts, and never by a part of them. The history has columns, because it is asked by them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from bitfusion.errors import ConfigError

APPLICATION_ID = 0x42465550
"""``BFUP``, in the file's header (sqlite.org/fileformat2.html, section 1.3.16): a database of something else is not taken for ours."""

Migration = Callable[[sqlite3.Connection], None]


def _begin(database: sqlite3.Connection) -> None:
    """Version 1. All times are Unix seconds, ``worth`` is GPUs, ``device_s`` seconds of GPUs' time."""
    for table in ("lease", "waiter", "quota"):
        database.execute(f"CREATE TABLE {table} (id TEXT PRIMARY KEY NOT NULL, body TEXT NOT NULL) WITHOUT ROWID")
    database.execute(
        "CREATE TABLE history (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, user_name TEXT NOT NULL, group_name TEXT NOT NULL, "
        "hostname TEXT NOT NULL, program TEXT NOT NULL, pid INTEGER NOT NULL, gpus TEXT NOT NULL, worth REAL NOT NULL, "
        "asked_at REAL NOT NULL, granted_at REAL NOT NULL, ended_at REAL NOT NULL, device_s REAL NOT NULL, reason TEXT NOT NULL)"
    )
    database.execute("CREATE INDEX history_by_end ON history (ended_at)")
    database.execute("CREATE INDEX history_by_user ON history (user_name, ended_at)")


MIGRATIONS: tuple[Migration, ...] = (_begin,)
"""The first makes version 1 of an empty file. A released one never changes."""


def version_of(database: sqlite3.Connection) -> int:
    """The file's; 0 for one without tables. ConfigError for a database that is not ours, or of a newer release."""
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and tables:
        raise ConfigError("it is a database of another program: move it away, or give another --state-dir")
    if version > len(MIGRATIONS):
        raise ConfigError(
            f"it was written by a newer release (schema {version}, this one knows {len(MIGRATIONS)}): install that release "
            "again, or give another --state-dir"
        )
    return int(version)


def migrate(database: sqlite3.Connection, migrations: Sequence[Migration] | None = None) -> None:
    """Bring the file to the newest version, one transaction for each; one that fails leaves the file as it was."""
    steps = MIGRATIONS if migrations is None else migrations
    for number in range(version_of(database), len(steps)):
        database.execute("BEGIN IMMEDIATE")
        try:
            steps[number](database)
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute(f"PRAGMA user_version = {number + 1}")
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise
