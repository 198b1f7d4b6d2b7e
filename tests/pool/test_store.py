"""The store: what was changed is there, in memory and in a file, before and after it was opened again."""

from __future__ import annotations

import math
import sqlite3
import stat
from dataclasses import replace

import pytest

from bitfusion.errors import ConfigError
from bitfusion.limits import GIB
from bitfusion.pool.filters import parse_filter
from bitfusion.pool.lease import Lease, Share
from bitfusion.pool.pool import Pool
from bitfusion.pool.queue import Waiter
from bitfusion.pool.quota import Quota
from bitfusion.pool.request import Holder, LeaseRequest
from bitfusion.pool.store import Store
from bitfusion.pool.store_file import backup_of
from bitfusion.pool.usage import DAY_S
from bitfusion.types import DeviceSpec

NOON = 20_000 * DAY_S + DAY_S / 2
DEVICES = [DeviceSpec("virtual", index, "Virtual GPU", f"GPU-{index}", 4 * GIB, (8, 0)) for index in range(2)]


def a_lease(number: int = 1, user: str = "alice", group: str = "staff", at: float = NOON, half: bool = False) -> Lease:
    request = LeaseRequest(
        gpus=2, fraction=0.5 if half else None, filters=(parse_filter("device.memory>=1GiB"),), priority=3
    )
    shares = tuple(Share(device, 2 * GIB if half else 4 * GIB) for device in DEVICES)
    holder = Holder(user, group, "host", "train.py", 4711)
    return Lease(f"{number:016x}", f"key-{number}", holder, request, shares, asked_at=at - 5, granted_at=at)


def a_waiter(number: int, priority: int = 0) -> Waiter:
    return Waiter(
        f"{number:016x}", f"key-{number}", Holder("bob"), LeaseRequest(priority=priority), NOON, number=number
    )


@pytest.fixture(params=["memory", "file"])
def path(request, tmp_path):
    return None if request.param == "memory" else tmp_path / "pool.db"


@pytest.fixture
def store(path):
    with Store(path) as store:
        yield store


def test_leases_waiters_and_quotas_are_what_was_given(store):
    first, second = a_lease(1), replace(a_lease(2, half=True), expires_at=NOON + 9, held=False)
    store.lease_granted(first)
    store.lease_granted(second)
    late, early = a_waiter(4), a_waiter(3)
    urgent = a_waiter(5, priority=9)
    for waiter in (late, early, urgent):
        store.waiter_added(waiter)
    store.set_quota("user:alice", Quota(gpus=1.5, priority_max=-3))
    store.set_quota("group:*", Quota(memory=GIB))
    for _ in range(2):  # perhaps before it is written, and after
        assert store.leases() == (first, second)
        assert store.waiters() == (urgent, early, late), "in the order of the queue"
        assert store.quotas() == {"user:alice": Quota(gpus=1.5, priority_max=-3), "group:*": Quota(memory=GIB)}
        assert store.flush()
    store.waiter_removed(early.id)
    store.remove_quota("group:*")
    store.lease_ended(first, "released", 1.0, NOON + 10)
    for _ in range(2):
        assert (
            store.leases() == (second,) and store.waiters() == (urgent, late) and set(store.quotas()) == {"user:alice"}
        )
        assert store.flush()
    assert store.problem is None and store.check() == []
    with pytest.raises(ConfigError, match="write user:NAME"):
        store.set_quota("alice", Quota())


def test_a_waiter_that_gets_its_lease_waits_no_more(store):
    store.waiter_added(a_waiter(1))
    store.flush()
    store.lease_granted(a_lease(1))
    assert store.waiters() == () and [lease.id for lease in store.leases()] == [a_lease(1).id]


def test_all_is_there_again(tmp_path):
    path = tmp_path / "pool.db"
    with Store(path) as store:
        store.lease_granted(a_lease(1))
        store.lease_granted(a_lease(2))
        store.waiter_added(a_waiter(3))
        store.set_quota("user:*", Quota(gpus=1))
        store.lease_ended(a_lease(2), "dealloc", 2.5, NOON + 60)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(backup_of(path).stat().st_mode) == 0o600, "keys are in it"
    assert {item.name for item in tmp_path.iterdir()} == {"pool.db", "pool.db.backup"}
    with Store(path) as store:
        assert store.recovered is None
        assert store.leases() == (a_lease(1),) and store.waiters() == (a_waiter(3),)
        (ended,) = store.history()
        assert (ended.id, ended.reason, ended.device_s, ended.gpu_seconds) == (a_lease(2).id, "dealloc", 2.5, 120.0)
        pool = Pool(DEVICES, quotas=store.quotas())
        assert pool.restore(store.leases(), store.waiters(), store.spent(NOON + 60), NOON + 60) == []
        assert list(pool.leases) == [a_lease(1).id] and len(pool.waiters) == 1


def test_history_is_asked_by_time_user_and_group(store):
    for number in range(20):
        user, group = ("alice", "staff") if number % 2 else ("bob", "guests")
        store.lease_ended(a_lease(number, user, group), "released", 1.0, NOON + number)
        if number == 10:
            store.flush()

    def numbers(found):
        return [int(ended.id, 16) for ended in found]

    for _ in range(2):
        assert numbers(store.history()) == list(range(19, -1, -1)), "the latest first"
        assert numbers(store.history(limit=3)) == [19, 18, 17]
        assert numbers(store.history(since=NOON + 17)) == [19, 18, 17]
        assert numbers(store.history(user="bob", limit=2)) == [18, 16]
        assert numbers(store.history(user="bob", group="staff")) == []
        assert numbers(store.history(group="guests", since=NOON + 9)) == [18, 16, 14, 12, 10]
        assert store.history(limit=0) == store.history(limit=-1) == []
        store.flush()


def test_an_entry_of_the_history_says_who_what_when_and_how(store):
    store.lease_ended(a_lease(7, half=True), "its time was over", 12.5, NOON + 3600)
    store.flush()
    (ended,) = store.history()
    assert [(part.uuid, part.name, part.memory) for part in ended.gpus] == [
        (device.uuid, "Virtual GPU", 2 * GIB) for device in DEVICES
    ]
    assert ended.device_s == 12.5
    assert ended.plain() == {
        "id": f"{7:016x}",
        "user": "alice",
        "group": "staff",
        "hostname": "host",
        "program": "train.py",
        "pid": 4711,
        "gpus": ["GPU-0", "GPU-1"],
        "memory_size": 4 * GIB,
        "asked_at": NOON - 5,
        "granted_at": NOON,
        "ended_at": NOON + 3600,
        "gpu_seconds": 3600.0,
        "reason": "its time was over",
    }


def test_usage_of_a_day_is_what_fell_into_it(store):
    store.lease_ended(a_lease(1), "released", 0, NOON + 100)
    store.lease_ended(a_lease(2, half=True), "released", 0, NOON + 100)
    store.flush()
    store.lease_ended(a_lease(3, "bob"), "released", 0, NOON + DAY_S)  # through midnight
    store.lease_ended(a_lease(4, "bob", "", at=NOON - DAY_S), "released", 0, NOON - DAY_S / 2 + 1)
    for _ in range(2):
        assert store.spent(NOON) == {
            "user:alice": 300.0,
            "group:staff": 300.0 + DAY_S,
            "user:bob": DAY_S + 2,
            "group:": 2.0,
        }
        assert store.usage("user:bob", NOON + DAY_S) == DAY_S
        assert store.usage("user:carol", NOON) == store.usage("user:bob", NOON + 2 * DAY_S) == 0
        assert store.flush()


@pytest.mark.parametrize(
    ("granted_at", "ended_at", "device_s"),
    [
        (NOON, NOON - 1e6, 1.0),
        (NOON, -5.0, 1.0),
        (NOON, math.nan, 1.0),
        (math.nan, NOON, -3.0),
        (NOON, math.inf, math.nan),
    ],
)
def test_clocks_that_jump_give_no_negative_times(store, granted_at, ended_at, device_s):
    lease = replace(a_lease(1), granted_at=granted_at, asked_at=NOON + 77)
    store.lease_ended(lease, "released", device_s, ended_at)
    for _ in range(2):
        (ended,) = store.history()
        assert 0 <= ended.asked_at <= ended.granted_at <= ended.ended_at < math.inf
        assert ended.gpu_seconds >= 0 and ended.device_s >= 0
        assert all(seconds >= 0 for seconds in store.spent(NOON).values())
        assert store.flush()


def test_texts_that_have_no_utf8_stop_nothing(store):
    store.lease_granted(replace(a_lease(1), holder=Holder("al\ud800ice", "\0", "h\n")))
    store.lease_ended(a_lease(2, user="al\ud800ice"), "re\udcffleased", 0, NOON)
    assert store.flush() and store.problem is None
    assert store.history()[0].holder.user == "al?ice" and store.leases()[0].holder.user == "al\ud800ice"


def test_history_is_bounded_by_count(path):
    with Store(path, history_count_max=100) as store:
        for number in range(1000):
            store.lease_ended(a_lease(number), "released", 0, NOON + number)
        store.flush()
        for number in range(1000, 1020):  # a thread that took all at once is through after some more
            store.lease_ended(a_lease(number), "released", 0, NOON + number)
            store.flush()
        assert [int(ended.id, 16) for ended in store.history(limit=2000)] == list(range(1019, 919, -1))


def test_history_is_bounded_by_age_but_not_by_one_jump_of_a_clock(path):
    with Store(path, history_age_max_s=500) as store:
        for number in range(600):
            store.lease_ended(a_lease(number), "released", 0, NOON + number)
            store.flush()
        assert len(store.history(limit=2000)) == 501
        store.lease_ended(a_lease(600), "released", 0, NOON + 1e9)
        store.flush()
        assert len(store.history(limit=2000)) > 400


def test_a_backup_has_everything_of_its_moment(store, tmp_path):
    for number in range(50):
        store.lease_granted(a_lease(number))
    store.lease_ended(a_lease(0), "released", 0, NOON + 1)
    store.set_quota("user:alice", Quota(gpus=1))
    target = tmp_path / "copy.db"
    store.backup(target)
    store.lease_ended(a_lease(1), "released", 0, NOON + 2)
    with Store(target) as copy:
        assert copy.leases() == tuple(a_lease(number) for number in range(1, 50))
        assert len(copy.history()) == 1 and copy.quotas() == {"user:alice": Quota(gpus=1)}
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert not target.with_name("copy.db.new").exists()


def test_a_backup_that_cannot_be_written_says_so_and_leaves_the_old_one(tmp_path):
    with Store(tmp_path / "pool.db") as store:
        with pytest.raises(ConfigError, match=r"missing/copy\.db cannot be used"):
            store.backup(tmp_path / "missing" / "copy.db")
        with pytest.raises(ConfigError, match="another name"):
            store.backup(tmp_path / "pool.db")
        (tmp_path / "directory").mkdir()
        with pytest.raises(ConfigError, match="directory cannot be used"):
            store.backup(tmp_path / "directory")


def test_a_row_that_cannot_be_read_is_left_out_told_and_kept(tmp_path, caplog):
    path = tmp_path / "pool.db"
    with Store(path) as store:
        for number in range(4):
            store.lease_granted(a_lease(number))
    database = sqlite3.connect(path)
    for number, body in enumerate(["{", "[]", '{"id": "1"}']):
        database.execute("UPDATE lease SET body = ? WHERE id = ?", (body, a_lease(number).id))
    database.commit()
    database.close()
    with Store(path) as store:
        assert store.leases() == (a_lease(3),)
        assert sum("cannot be read and is left out" in record.message for record in caplog.records) == 3
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT count(*) FROM lease").fetchone() == (4,)
    database.close()


def test_a_reader_with_a_tool_of_its_own_stops_nobody(tmp_path):
    with Store(tmp_path / "pool.db") as store:
        store.lease_granted(a_lease(1))
        store.flush()
        reader = sqlite3.connect(tmp_path / "pool.db", isolation_level=None)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM lease").fetchone() == (1,)
        store.lease_granted(a_lease(2))
        assert store.flush()
        reader.close()
