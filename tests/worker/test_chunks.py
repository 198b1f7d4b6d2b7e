"""Memory that moves to the host and back: nothing is lost, wherever it fails."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfusion import limits
from bitfusion.device.discovery import discover
from bitfusion.device.open import open_device
from bitfusion.errors import DeviceMemoryError
from bitfusion.pool.ledger import REFUSED, Ledger
from bitfusion.worker import chunks
from bitfusion.worker.account import LedgerAccount
from bitfusion.worker.chunks import runs
from bitfusion.worker.memory import SessionMemory

CHUNK = limits.MEMORY_CHUNK_SIZE
CAPACITY = 8 * CHUNK
SIZE = 64 * CHUNK


class Holder:
    """A session with a lease of a whole GPU; ``asked`` is set when it asks for room."""

    def __init__(self, ledger):
        self.ledger = ledger
        self.row = ledger.open_session(ledger.open_lease(1 + int(ledger.header["open"][0]), CAPACITY))
        self.device = open_device(discover("virtual:1x64MiB")[0], cache_dir=None)
        self.asked = threading.Event()
        account = LedgerAccount(ledger, self.row, self.asked.set)
        self.memory = SessionMemory(self.device, self.device.reserve(SIZE), SIZE, CAPACITY, account)

    def fill(self, chunk, count, seed=0):
        """An allocation with random bytes; the bytes."""
        address, size = self.memory.base + chunk * CHUNK, count * CHUNK - 256
        self.memory.allocate(address, size)
        data = np.random.default_rng(seed + chunk).integers(0, 256, size, np.uint8)
        self.device.write(self.device.default_stream, address, data.data)
        return address, data

    def read(self, address, size):
        pieces = self.device.read(self.device.default_stream, address, size)
        return np.frombuffer(b"".join(map(bytes, pieces)), np.uint8)

    @property
    def mapped(self):
        sessions = self.ledger.sessions
        return int(sessions["used"][self.row] - sessions["saved"][self.row])


@pytest.fixture
def ledger():
    ledger = Ledger.create(CAPACITY)
    yield ledger
    ledger.close()


@pytest.fixture
def holders(ledger):
    holders = Holder(ledger), Holder(ledger)
    yield holders
    for holder in holders:
        holder.device.close()


def test_memory_comes_back_as_it_was(holders, ledger, monkeypatch):
    monkeypatch.setattr(chunks, "MOVED_COUNT_MAX", 2)
    first, second = holders
    kept = [first.fill(0, 5), first.fill(9, 2)]
    assert first.memory.evict() == 7 * CHUNK and first.memory.is_away and first.mapped == 0
    assert first.memory.used == 7 * CHUNK, "it is the lease's all the same"
    second.fill(0, 8)
    assert second.memory.evict() == 8 * CHUNK
    first.memory.restore()
    assert not first.memory.is_away and first.mapped == 7 * CHUNK == ledger.header["mapped"][0]
    for address, data in kept:
        assert (first.read(address, data.size) == data).all()


def test_who_finds_no_room_waits_until_there_is_some(holders, ledger):
    first, second = holders
    first.fill(0, 6)
    waiting = threading.Thread(target=second.fill, args=(0, 4))
    waiting.start()
    assert second.asked.wait(30) and ledger.sessions["wants"][second.row] == 4 * CHUNK
    first.memory.evict()
    waiting.join(30)
    assert not waiting.is_alive() and second.mapped == 4 * CHUNK and ledger.sessions["wants"][second.row] == 0


@pytest.mark.parametrize("end", ["refused", "aborted", "late"])
def test_who_waits_in_vain_loses_nothing(holders, ledger, end, monkeypatch):
    first, second = holders
    address, data = second.fill(0, 4)
    second.memory.evict()
    first.fill(0, 8)
    if end == "late":
        monkeypatch.setattr("bitfusion.worker.account.ROOM_TIMEOUT_S", 0.05)
    failures = []

    def restore():
        with pytest.raises(DeviceMemoryError, match="nothing is lost") as caught:
            second.memory.restore()
        failures.append(caught.value)

    waiting = threading.Thread(target=restore)
    waiting.start()
    assert second.asked.wait(30)
    if end == "refused":
        ledger.sessions["wants"][second.row] = REFUSED
        ledger.tell()
    elif end == "aborted":
        second.memory.abort()
    waiting.join(30)
    assert failures and second.memory.is_away and ledger.header["mapped"][0] == 8 * CHUNK
    first.memory.release(first.memory.base)
    first.memory.evict()
    if end != "aborted":
        second.memory.restore()
        assert (second.read(address, data.size) == data).all()


def test_a_host_without_room_leaves_everything_where_it_is(holders, monkeypatch):
    first, _ = holders
    address, data = first.fill(0, 6)

    def refuse(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("bitfusion.worker.chunks.mmap.mmap", refuse)
    with pytest.raises(OSError, match="allocate"):
        first.memory.evict()
    assert first.mapped == 6 * CHUNK and (first.read(address, data.size) == data).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["evict", "restore"]) | st.integers(0, 7), max_size=30))
def test_work_between_moves(steps):
    """An integer allocates a place of 1 or 2 chunks, or releases it: both also while the memory is away."""
    ledger = Ledger.create(CAPACITY)
    holder = Holder(ledger)
    memory = holder.memory
    live: dict[int, tuple[int, np.ndarray]] = {}
    for count, step in enumerate(steps):
        if step == "evict":
            memory.evict()
        elif step == "restore":
            memory.restore()
        elif step in live:
            memory.release(live.pop(step)[0])
        else:
            try:
                live[step] = holder.fill(step * 2, 1 + step % 2, seed=100 * count)
            except DeviceMemoryError:
                memory.release(memory.base + step * 2 * CHUNK)
        assert ledger.leases["used"][0] == ledger.sessions["used"][holder.row]
        assert ledger.header["mapped"][0] == holder.mapped >= 0
    memory.restore()
    for address, data in live.values():
        assert (holder.read(address, data.size) == data).all()
    holder.device.close()
    ledger.close()


def test_runs():
    assert runs([5, 1, 2, 3, 9]) == [(1, 3), (5, 1), (9, 1)]
    assert runs(range(5), 2) == [(0, 2), (2, 2), (4, 1)]
    assert runs([]) == []
