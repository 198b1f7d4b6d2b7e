"""The ledger: its layout, its rows, and what is left when a process goes."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from bitfusion.errors import CapacityError
from bitfusion.pool import ledger as layout
from bitfusion.pool.ledger import HEADER, LEASE, NEWS_OFFSET, ROW_COUNT, SESSION, Ledger


@pytest.fixture
def ledger():
    ledger = Ledger.create()
    yield ledger
    ledger.close()


def test_rows_keep_out_of_each_others_cache_lines():
    assert {HEADER.itemsize, LEASE.itemsize, SESSION.itemsize} == {128}
    assert HEADER.fields["news"][1] == NEWS_OFFSET and NEWS_OFFSET % 4 == 0


def test_rows_are_found_again_and_used_again(ledger):
    first, second = ledger.open_lease(7, 100), ledger.open_lease(8, 200, weight=50, cap=30)
    sessions = [ledger.open_session(second), ledger.open_session(first), ledger.open_session(second)]
    assert ledger.sessions_of(second) == [sessions[0], sessions[2]] and ledger.header["open"][0] == 3
    ledger.sessions["used"][sessions[0]] = 60
    ledger.leases["used"][second] = 60
    ledger.close_session(sessions[0])
    assert ledger.leases["used"][second] == 0, "a dead session's memory goes back to its lease"
    assert ledger.sessions_of(second) == [sessions[2]]
    ledger.close_session(sessions[2])
    ledger.close_lease(second)
    assert ledger.open_lease(9, 1) == second


def test_it_has_an_end(ledger):
    lease = ledger.open_lease(1, 1)
    for _ in range(ROW_COUNT):
        ledger.open_session(lease)
    with pytest.raises(CapacityError, match="1024 sessions"):
        ledger.open_session(lease)
    for number in range(2, ROW_COUNT + 1):
        ledger.open_lease(number, 1)
    with pytest.raises(CapacityError, match="1024 leases"):
        ledger.open_lease(1, 1)


def test_a_late_lease_starts_where_the_others_are(ledger):
    ledger.header["clock"] = 12345
    assert ledger.leases["finish"][ledger.open_lease(1, 1)] == 12345


DIES_LOCKED = """
import os, signal, sys
from bitfusion.pool.ledger import Ledger
ledger = Ledger(int(sys.argv[1]))
with ledger.lock:
    ledger.leases["used"][0] = 5
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_is_shared_and_a_death_leaves_no_lock(ledger):
    command = [sys.executable, "-c", DIES_LOCKED, str(ledger.descriptor)]
    assert subprocess.run(command, pass_fds=[ledger.descriptor]).returncode == -9
    with ledger.lock:
        assert ledger.leases["used"][0] == 5


def test_nothing_stays_open():
    before = len(os.listdir("/proc/self/fd"))
    ledger = Ledger.create()
    assert np.shares_memory(ledger.leases, ledger.leases[:1]) and len(ledger.leases) == layout.ROW_COUNT
    ledger.close()
    assert len(os.listdir("/proc/self/fd")) == before
