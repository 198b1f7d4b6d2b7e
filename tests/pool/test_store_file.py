"""The store's file: damaged, of another release, of another program, not ours to write; and its migrations."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bitfusion.errors import ConfigError
from bitfusion.pool import store_schema
from bitfusion.pool.quota import Quota
from bitfusion.pool.store import Store
from bitfusion.pool.store_file import backup_of
from bitfusion.pool.store_schema import MIGRATIONS, migrate, version_of
from tests.pool.test_store import NOON, a_lease

PAGE_SIZE = 4096
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path):
    """A database with a backup of all that is in it."""
    path = tmp_path / "pool.db"
    fill(path)
    with Store(path):
        pass
    return path


def fill(path):
    with Store(path) as store:
        for number in range(60):
            store.lease_granted(a_lease(number))
        for number in range(100, 300):
            store.lease_ended(a_lease(number), "released", 0, NOON + number)
        store.set_quota("user:alice", Quota(gpus=1))


def garble(path, offset, size=PAGE_SIZE):
    put(path, offset, random.Random(1).randbytes(size))


def put(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


DAMAGES = {
    "garbage at the start": lambda path: garble(path, 0, 100),
    "a page of garbage at the start": lambda path: garble(path, 0),
    "garbage in the middle": lambda path: garble(path, path.stat().st_size // PAGE_SIZE // 2 * PAGE_SIZE),
    "a page of zeros": lambda path: put(path, 3 * PAGE_SIZE, bytes(PAGE_SIZE)),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "truncated within a page": lambda path: os.truncate(path, path.stat().st_size - 100),
    "truncated to its header": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "text": lambda path: path.write_text("not a database " * 1000),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_recovered_from_the_backup_and_told(path, damage, caplog):
    DAMAGES[damage](path)
    broken = path.read_bytes() if path.exists() else None
    with Store(path) as store:
        assert (
            len(store.leases()) == 60
            and len(store.history()) == 200
            and store.quotas() == {"user:alice": Quota(gpus=1)}
        )
        assert ("is missing" if damage == "missing" else "is damaged") in store.recovered
        assert "went on from the backup of" in store.recovered and store.recovered in caplog.text
        store.lease_granted(a_lease(1000))
    aside = [item for item in path.parent.iterdir() if ".damaged-" in item.name]
    assert [item.read_bytes() for item in aside] == ([] if broken is None else [broken]), (
        "kept for who can make more of it"
    )
    with Store(path) as store:
        assert store.recovered is None and len(store.leases()) == 61


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("backup", ["none", "damaged", "empty"])
def test_without_a_sound_backup_it_never_begins_empty(path, damage, backup):
    if damage == "missing" and backup == "none":
        return  # a first start
    DAMAGES[damage](path)
    match backup:
        case "none":
            backup_of(path).unlink()
        case "damaged":
            garble(backup_of(path), 2 * PAGE_SIZE)
        case "empty":
            os.truncate(backup_of(path), 0)
    before = {item.name: item.read_bytes() for item in path.parent.iterdir()}
    for _ in range(2):
        with pytest.raises(ConfigError, match="to begin without leases, quotas and history") as error:
            Store(path)
        assert str(error.value).startswith(str(path)) and "Put a copy of yours" in str(error.value)
    assert {item.name: item.read_bytes() for item in path.parent.iterdir()} == before, "nothing was touched"


def test_the_log_of_a_damaged_file_is_not_played_back_into_its_backup(path):
    """A killed daemon leaves the log; its pages belong to the file that is not there any more."""
    code = (
        "import os, sys; from pathlib import Path; from bitfusion.pool.store import Store; "
        "from tests.pool.test_store import a_lease; store = Store(Path(sys.argv[1])); store._backing_up.join(); "
        "[store.lease_granted(a_lease(number)) for number in range(500, 900)]; store.flush(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, path], timeout=60, cwd=ROOT).returncode == 9
    assert path.with_name("pool.db-wal").stat().st_size
    for number in range(5, path.stat().st_size // PAGE_SIZE):
        garble(path, number * PAGE_SIZE)
    with Store(path) as store:
        assert "is damaged" in store.recovered
        assert len(store.leases()) == 60 and len(store.history()) == 200 and store.check() == []


def test_damage_that_comes_while_it_runs_spoils_no_backup(path):
    with Store(path) as store:
        store._backing_up.join()
        sound = backup_of(path).read_bytes()
        garble(path, path.stat().st_size // PAGE_SIZE // 2 * PAGE_SIZE)
        assert store.check()
        with pytest.raises(ConfigError, match="damaged"):
            store.backup(backup_of(path))
    assert backup_of(path).read_bytes() == sound


def test_a_file_of_a_newer_release_is_refused_and_left_alone(path):
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    database.close()
    before = path.read_bytes()
    with pytest.raises(
        ConfigError, match=r"newer release \(schema \d+, this one knows \d+\): install that release again"
    ):
        Store(path)
    assert path.read_bytes() == before


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "pool.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE bookmarks (url TEXT)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="database of another program"):
        Store(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("place", ["missing/pool.db", "file/pool.db", "directory"])
def test_a_place_that_cannot_be_says_what_to_do(tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    with pytest.raises(ConfigError, match=f"{place} cannot be used: .*writable"):
        Store(tmp_path / place)


def test_a_killed_first_start_is_no_damage(tmp_path):
    (tmp_path / "pool.db.new").write_bytes(b"half of a new file")
    with Store(tmp_path / "pool.db") as store:
        store.lease_granted(a_lease(1))
    with Store(tmp_path / "pool.db") as store:
        assert len(store.leases()) == 1 and store.recovered is None


# migrations


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS) + 1))
def test_files_of_every_earlier_version_are_brought_up_to_date(tmp_path, version):
    """Each row of the first version is still there in the newest."""
    path = tmp_path / "pool.db"
    database = sqlite3.connect(path, isolation_level=None)
    migrate(database, MIGRATIONS[:version])
    database.execute("INSERT INTO quota (id, body) VALUES ('user:alice', '{\"gpus\": 2}')")
    database.execute(
        "INSERT INTO history (id, user_name, group_name, hostname, program, pid, gpus, worth, asked_at, granted_at, ended_at, "
        "device_s, reason) VALUES ('a', 'alice', '', 'host', 'x.py', 1, "
        "'[[\"GPU-0\", \"Virtual GPU\", 2097152]]', 0.5, 1, 2, 12, 3, 'released')"
    )
    database.close()
    with Store(path) as store:
        assert store.quotas() == {"user:alice": Quota(gpus=2)}
        assert [(ended.id, ended.gpu_seconds) for ended in store.history()] == [("a", 5.0)]
        assert store.check() == []


def test_a_migration_keeps_a_copy_of_the_file_as_it_was(path, monkeypatch):
    def tokens(database):
        database.execute("CREATE TABLE token (id TEXT PRIMARY KEY, lease TEXT REFERENCES lease ON DELETE CASCADE)")

    monkeypatch.setattr(store_schema, "MIGRATIONS", (*MIGRATIONS, tokens))
    monkeypatch.setattr("bitfusion.pool.store_file.MIGRATIONS", (*MIGRATIONS, tokens))
    with Store(path) as store:
        assert len(store.leases()) == 60
        database = store._database
        assert version_of(database) == len(MIGRATIONS) + 1
        assert database.execute("PRAGMA foreign_keys").fetchone() == (1,)
    kept = path.with_name(f"pool.db.schema-{len(MIGRATIONS)}")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="newer release"):
        Store(path)
    with Store(kept) as store:
        assert len(store.leases()) == 60, "who goes back to the older release has this"


def test_a_migration_that_fails_leaves_the_file_as_it_was(path):
    def half(database):
        database.execute("CREATE TABLE token (id TEXT)")
        database.execute("INSERT INTO nowhere VALUES (1)")

    database = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        migrate(database, (*MIGRATIONS, half))
    assert version_of(database) == len(MIGRATIONS)
    assert not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'token'").fetchall()
    database.close()
