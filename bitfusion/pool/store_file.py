"""The file of the store: opened whole or not at all. Makes it, checks it, copies it, and puts its backup in the place of a damaged one.

Nothing is ever written in place that a crash could leave half done: a new file is made beside and moved. A damaged file is moved aside
and kept, with its write-ahead log, which must not be played back into another file. Owns no table.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bitfusion.errors import ConfigError
from bitfusion.pool.store_schema import MIGRATIONS, migrate, version_of

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 5.0
"""Somebody who looks into the file with a tool may hold it; only the store's own thread waits for that."""

BACKUP = ".backup"
NEW = ".new"

DAMAGED = frozenset({"SQLITE_CORRUPT", "SQLITE_NOTADB"})
"""What SQLite says of the file itself (sqlite.org/rescode.html); everything else is said of its surroundings."""


class _DamagedError(Exception):
    """The file is not, or no longer, a sound database."""


def backup_of(path: Path) -> Path:
    """Where the store keeps its own backup."""
    return path.with_name(path.name + BACKUP)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is to blame."""
    name: str = getattr(error, "sqlite_errorname", "")  # none where the module itself raises
    return any(name.startswith(damage) for damage in DAMAGED)


def open_file(path: Path) -> tuple[sqlite3.Connection, str | None]:
    """A connection to the sound database at ``path``, of the newest schema, and what had to be recovered, if so.

    ConfigError says what stands in the way and what to do: nothing of a state that may still be there is ever replaced by nothing.
    """
    with explained(path):
        recovered = None
        if not path.exists():
            if backup_of(path).exists():
                recovered = _recover(path, "is missing")
            else:
                _make(path, migrate)
        try:
            return _open_sound(path), recovered
        except _DamagedError as error:
            recovered = _recover(path, f"is damaged ({error})")
        return _open_sound(path), recovered


def open_readonly(path: Path) -> sqlite3.Connection:
    """Another connection, for a thread that reads for long beside the writer."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S
    )


def configure(database: sqlite3.Connection) -> None:
    """How the store's own connection works.

    synchronous=NORMAL: with a write-ahead log a commit waits for no disk, and a killed daemon loses nothing, because the kernel has it.
    When the power fails the last moments may be lost, the file stays sound: leases are over then in any case, the memory and the
    processes they stood for are gone. What an owner has set must not be lost: ``durable`` writes wait for the disk.
    """
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("PRAGMA foreign_keys = ON")
    database.execute(
        "SELECT 1 FROM lease LIMIT 1"
    ).fetchall()  # the log's index takes its room now; from here on a full disk stops no reading


@contextlib.contextmanager
def transaction(database: sqlite3.Connection, *, durable: bool = False) -> Iterator[None]:
    """All of the block or nothing of it. ``durable``: on the disk itself when it ends."""
    database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # after a full disk SQLite has rolled back by itself
            database.execute("ROLLBACK")
        raise


def problems(database: sqlite3.Connection) -> list[str]:
    """What is wrong inside the file, as SQLite finds it; nothing for a sound one."""
    try:
        found = [str(row[0]) for row in database.execute("PRAGMA integrity_check(5)")]
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return [str(error)]
        raise
    return [] if found == ["ok"] else found


def copy(source: sqlite3.Connection, target: Path, change: Callable[[sqlite3.Connection], None] | None = None) -> None:
    """Copy what ``source`` sees, and ``change`` it, to a file of its own at ``target``, whole or not at all.

    ConfigError if it cannot be written, or what was read is damaged: an older file at ``target`` is still there then.
    """

    def fill(database: sqlite3.Connection) -> None:
        source.backup(database)
        database.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
        if change is not None:
            change(database)
        if found := problems(database):
            raise _DamagedError("; ".join(found))

    try:
        _make(target, fill)
    except _DamagedError as error:
        raise ConfigError(
            f"not written, because the database is damaged ({error}): stop the appliance, and the next start will go on from "
            "the last sound backup"
        ) from None


def _open_sound(path: Path) -> sqlite3.Connection:
    if not path.stat().st_size:
        raise _DamagedError("it is empty")
    database = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    try:
        version = version_of(database)
        if found := problems(database):
            raise _DamagedError("; ".join(found))
        if not version:
            raise _DamagedError("it has no tables")
        configure(database)
        if version < len(MIGRATIONS):
            copy(database, path.with_name(f"{path.name}.schema-{version}"))
            migrate(database)
        return database
    except BaseException as error:
        database.close()
        if isinstance(error, sqlite3.DatabaseError) and is_damage(error):
            raise _DamagedError(str(error)) from None
        raise


def _recover(path: Path, what: str) -> str:
    """Put the backup in the place of the file; says what was done. ConfigError if there is no sound one."""
    backup = backup_of(path)
    if not backup.exists():
        raise ConfigError(
            f"it {what}, and there is no {backup.name} beside it. Put a copy of yours in its place; "
            "or move it away, to begin without leases, quotas and history"
        )
    _make(path.with_name(path.name + ".recovered"), lambda database: _fill_from(backup, database))
    aside = f"{path.name}.damaged-{time.time_ns() // 1_000_000_000}"
    for suffix in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).replace(path.with_name(aside + suffix))
    made = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(backup.stat().st_mtime))
    path.with_name(path.name + ".recovered").replace(path)
    _sync_directory(path.parent)
    kept = "" if what == "is missing" else f"; the damaged one is kept as {aside}"
    told = f"{path} {what}: went on from the backup of {made}{kept}. What changed after that is lost"
    log.error("! %s", told)
    return told


def _fill_from(backup: Path, database: sqlite3.Connection) -> None:
    try:
        with contextlib.closing(open_readonly(backup)) as source:
            version_of(source)
            source.backup(database)
        found = problems(database)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        found = [str(error)]
    if found or not version_of(database):
        raise ConfigError(
            f"it is damaged or missing, and so is {backup.name} ({'; '.join(found) or 'it is empty'}). Put a copy of yours in its place; "
            "or move both away, to begin without leases, quotas and history"
        )


def _make(path: Path, fill: Callable[[sqlite3.Connection], None]) -> None:
    """A file of the owner's alone, filled beside its place and moved there."""
    new = path.with_name(path.name + NEW)
    new.unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    try:
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as database:
            fill(database)
        new.replace(path)
        _sync_directory(path.parent)
    except BaseException:
        for suffix in ("", "-journal"):
            with contextlib.suppress(OSError):
                new.with_name(new.name + suffix).unlink(missing_ok=True)
        raise


def _sync_directory(directory: Path) -> None:
    """The file's new name survives a power failure as well."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Errors with the file's name, and with what to do."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except sqlite3.Error as error:
        raise ConfigError(f"{path} cannot be used: {error}; {advice(error)}") from None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be used: {error.strerror or error}; the directory must be yours and writable, with some MB free"
        ) from None


def advice(error: sqlite3.Error) -> str:
    """What to do about an error of the database's surroundings."""
    name: str = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_FULL"):
        return "make room on its disk"
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return "the directory and the file must be writable, and the disk not full"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return "another program holds it: end that"
    if is_damage(error):
        return "the file is damaged: stop the appliance, and the next start will go on from the last backup"
    return "see to the disk: it may be full, or failing"
