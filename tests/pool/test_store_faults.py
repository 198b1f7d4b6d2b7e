"""The store when its disk is full or read-only, and when its process is killed in the middle of a write. Real disks, real ends."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bitfusion.pool import store_pending
from bitfusion.pool.quota import Quota
from bitfusion.pool.store import Store
from bitfusion.pool.store_file import backup_of
from tests.pool.test_store import NOON, a_lease, a_waiter

ROOT = Path(__file__).resolve().parents[2]


UNBOUND = resource.getrlimit(resource.RLIMIT_FSIZE)


def file_size_max(size: int | None) -> None:
    """Bound the size of every file that this process writes, as a full disk would; None: no bound."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (UNBOUND[0] if size is None else size, UNBOUND[1]))


def unbound_afterwards(test):
    """Before pytest itself writes how the test went, perhaps into a file: the end of a fixture would be too late."""

    @functools.wraps(test)
    def bounded(*args, **kwargs):
        try:
            test(*args, **kwargs)
        finally:
            file_size_max(None)

    return bounded


@unbound_afterwards
def test_a_full_disk_costs_nothing_but_is_told_once_and_caught_up_with(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    path = tmp_path / "pool.db"
    with Store(path) as store:
        store.lease_granted(a_lease(1))
        store.waiter_added(a_waiter(2))
        assert store.flush()
        store._backing_up.join()
        file_size_max(1024)
        for number in range(10, 40):
            store.lease_granted(a_lease(number))
            assert not store.flush(30)
        for number in range(10, 30):
            store.lease_ended(a_lease(number), "released", 0, NOON + number)
        store.lease_ended(a_lease(1), "dealloc", 0, NOON + 100)
        store.lease_granted(a_lease(2))
        store.set_quota("user:alice", Quota(gpus=1))
        for room in (False, True):
            if room:
                file_size_max(None)
            assert store.flush(30) == room
            assert {int(lease.id, 16) for lease in store.leases()} == {2, *range(30, 40)}
            assert store.waiters() == () and set(store.quotas()) == {"user:alice"}
            assert [int(ended.id, 16) for ended in store.history()] == [1, *range(29, 9, -1)]
            assert (store.problem is None) == room
    messages = [record.message for record in caplog.records]
    assert ["memory only" in message for message in messages] == [True, False], messages
    assert "on the disk again; 0 entries of the history were lost" in messages[1]
    with Store(path) as store:
        assert len(store.leases()) == 11 and len(store.history()) == 21


@unbound_afterwards
def test_a_disk_that_stays_full_takes_a_bounded_memory(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(store_pending, "ENDED_COUNT_MAX", 50)
    with Store(tmp_path / "pool.db") as store:
        store.flush()
        store._backing_up.join()
        file_size_max(1024)
        for number in range(400):
            store.lease_granted(a_lease(number))
            store.lease_ended(a_lease(number), "released", 0, NOON + number)
        assert not store.flush(30)
        pending = store._writer.pending()
        assert len(pending.ended) == 50 and not pending.kept["lease"], (
            "what came and went leaves nothing but its history"
        )
        assert [int(ended.id, 16) for ended in store.history(limit=2)] == [399, 398]
        file_size_max(None)
        assert store.flush(30) and len(store.history()) == 50
    assert "350 entries of the history were lost" in caplog.text


def test_a_burst_on_a_sound_disk_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(store_pending, "ENDED_COUNT_MAX", 5)
    with Store(tmp_path / "pool.db") as store:
        for number in range(500):
            store.lease_ended(a_lease(number), "released", 0, NOON + number)
        assert store.flush(30) and len(store.history()) == 500


@unbound_afterwards
def test_room_that_comes_free_is_found_without_being_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("bitfusion.pool.store_writer.RETRY_S", 0.01)
    with Store(tmp_path / "pool.db") as store:
        store._backing_up.join()
        file_size_max(1024)
        store.lease_granted(a_lease(1))
        assert not store.flush(30)
        file_size_max(None)
        reader = sqlite3.connect(tmp_path / "pool.db", timeout=30)
        while reader.execute("SELECT count(*) FROM lease").fetchone() == (0,):
            pass
        reader.close()


@unbound_afterwards
def test_who_closes_with_a_full_disk_is_told_what_is_lost(tmp_path, caplog):
    store = Store(tmp_path / "pool.db")
    store._backing_up.join()
    file_size_max(1024)
    store.lease_granted(a_lease(1))
    store.close()
    assert "changes are lost that could not be written" in caplog.text


def test_somebody_who_holds_the_file_is_a_problem_that_passes(tmp_path, monkeypatch):
    monkeypatch.setattr("bitfusion.pool.store_file.BUSY_TIMEOUT_S", 0.01)
    with Store(tmp_path / "pool.db") as store:
        store.flush()
        holder = sqlite3.connect(tmp_path / "pool.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        store.lease_granted(a_lease(1))
        assert not store.flush(30) and "another program holds it" in store.problem
        holder.execute("ROLLBACK")
        holder.close()
        assert store.flush(30) and store.problem is None


def test_a_loop_waits_for_what_is_written_without_standing_still(tmp_path):
    async def grants():
        for number in range(50):
            store.lease_granted(a_lease(number))
        return await asyncio.gather(*(asyncio.wrap_future(store.written()) for _ in range(50)))

    with Store(tmp_path / "pool.db") as store:
        assert all(asyncio.run(grants()))


# on disks of their own


def on_a_disk(script, tmp_path, prepare):
    """Run ``script`` in namespaces where ``DISK`` is a mount of its own; skips where that is not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("there is no unshare here")
    if subprocess.run([unshare, "-rm", "mount", "-t", "tmpfs", "none", disk], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a disk of their own")
    code = f"from pathlib import Path\nfrom bitfusion.pool.store import Store\nfrom tests.pool.test_store import a_lease, NOON\n{script}"
    command = f'mount -t tmpfs -o size=1m none "$1" && {prepare} exec "$2" -c "$3" "$1"'
    return subprocess.run(
        [unshare, "-rm", "sh", "-ec", command, "sh", disk, sys.executable, code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


FULL_DISK = """
import os, sys
disk = Path(sys.argv[1])
with Store(disk / "pool.db") as store:
    store.lease_granted(a_lease(1))
    assert store.flush()
    store._backing_up.join()
    ballast = open(disk / "ballast", "wb", buffering=0)
    try:
        while True:
            ballast.write(bytes(4096))
    except OSError:
        pass
    for number in range(2, 2000):
        store.lease_granted(a_lease(number))
    assert not store.flush()
    assert "disk is full; make room on its disk" in store.problem, store.problem
    assert len(store.leases()) == 1999
    try:
        store.backup(disk / "copy.db")
        raise SystemExit("copied onto a full disk")
    except Exception as error:
        assert "make room" in str(error) or "some MB free" in str(error), error
    assert not (disk / "copy.db.new").exists()
    for number in range(2, 1990):
        if number % 8:  # the history of all of them would not fit on the whole disk
            store._change(lease={a_lease(number).id: None})
        else:
            store.lease_ended(a_lease(number), "released", 0, NOON)
    assert not store.flush()
    os.truncate(disk / "ballast", 0)
    store.flush()
    print(store.problem, len(store.leases()))
with Store(disk / "pool.db") as store:
    print(len(store.leases()), store.recovered, store.check())
with open(disk / "ballast", "wb", buffering=0) as ballast:
    try:
        while True:
            ballast.write(bytes(4096))
    except OSError:
        pass
try:
    Store(disk / "pool.db").close()
except Exception as error:
    print(type(error).__name__, "damaged" in str(error))
os.truncate(disk / "ballast", 0)
with Store(disk / "pool.db") as store:
    print(len(store.leases()), store.recovered)
"""


def test_a_disk_that_is_really_full(tmp_path):
    result = on_a_disk(FULL_DISK, tmp_path, "")
    assert (result.returncode, result.stdout) == (0, "None 11\n11 None []\nConfigError False\n11 None\n"), result.stderr


READ_ONLY = """
import sys
try:
    Store(Path(sys.argv[1]) / "pool.db")
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("before", ["nothing", "a database"])
def test_a_read_only_directory_is_refused_with_advice(tmp_path, before):
    with Store(tmp_path / "pool.db") as store:
        store.lease_granted(a_lease(1))
    put = f'cp "{tmp_path}"/pool.db "$1" &&' if before == "a database" else ""
    result = on_a_disk(READ_ONLY, tmp_path, f'{put} mount -o remount,ro "$1" &&')
    assert result.stdout.startswith("ConfigError") and "pool.db cannot be used" in result.stdout, result.stderr
    assert "writable" in result.stdout and "damaged" not in result.stdout


# killed


WRITES = """
import sys
from pathlib import Path
from bitfusion.pool.store import Store
from bitfusion.pool.quota import Quota
from tests.pool.test_store import a_lease, NOON
store, start = Store(Path(sys.argv[1])), int(sys.argv[2])
print(store.recovered, flush=True)
for number in range(start, start + 1_000_000):
    store.lease_granted(a_lease(number))
    if number % 2:
        store.lease_ended(a_lease(number), "released", 0, NOON + number)
    if number % 50 == 0:
        store.set_quota(f"user:{number}", Quota(gpus=1))
    if number % 7 == 0 and store.flush():
        print(number, flush=True)
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    """Each child goes on from what the one before left, and is killed at any moment, in a backup and a checkpoint too."""
    path, chance, acknowledged = tmp_path / "pool.db", random.Random(4), set()
    for round_ in range(8):
        start = round_ * 1_000_000
        child = subprocess.Popen(
            [sys.executable, "-c", WRITES, path, str(start)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        with child:
            assert child.stdout.readline() == "None\n", "nothing was damaged by the end of the one before"
            for _ in range(chance.randrange(1, 150)):
                last = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
            rest = [int(line) for line in child.stdout.read().splitlines() if line]
            last = max([last, *rest])
        assert child.returncode == -signal.SIGKILL
        acknowledged |= set(range(start, last + 1))
    with Store(path) as store:
        assert store.recovered is None and store.check() == []
        leases = {int(lease.id, 16) for lease in store.leases()}
        ended = {int(item.id, 16) for item in store.history(limit=1_000_000)}
        quotas = {int(subject.removeprefix("user:")) for subject in store.quotas()}
    assert leases >= {number for number in acknowledged if number % 2 == 0}
    assert ended >= {number for number in acknowledged if number % 2}
    assert quotas >= {number for number in acknowledged if number % 50 == 0}
    assert not leases & ended, "a lease is never both there and in the history"
    assert os.path.exists(backup_of(path))
