"""The ledger of one GPU: a table in shared memory of its leases and sessions, which the daemon and the GPU's workers read and write.

The daemon makes it, opens and closes its rows. A worker notes in its session's row what it uses and does, and reads the others' to take
turns (``worker/turn.py``) and to share its lease's memory (``worker/memory.py``). What several processes change is changed under
``lock``; a row's own counters are words that only their worker writes. Owns the layout; no policy.

A worker that a client has taken over can write nonsense here and so disturb the turns of others on its GPU; not their memory, and not the
daemon, which believes none of it (docs/design/security.md).
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bitfusion.errors import CapacityError
from bitfusion.pool.futex import Futex

ROW_COUNT: Final = 1024
"""Leases, and sessions, on one GPU at most: 80 MiB each of the largest of today."""

WEIGHT_DEFAULT: Final = 100

REFUSED: Final = -1
"""In ``wants``: the daemon has seen that nobody will make room."""

HEADER = np.dtype(
    [
        ("holder", "<i8"),  # the session whose turn it is, 0 for none
        ("holder_since", "<i8"),
        ("clock", "<i8"),  # virtual time: the start tag of who last got a turn
        ("open", "<i8"),  # sessions
        ("waiting", "<i8"),  # sessions that wait for a turn
        ("news", "<u4"),  # futex: changes whenever a waiter should look again
        ("pad", "<u4"),
        ("capacity", "<i8"),  # bytes that may be mapped at a time; 0: as much as is leased
        ("mapped", "<i8"),  # bytes, of all sessions
        ("lease_top", "<i8"),  # rows of leases from here on are free; only ever rises
        ("session_top", "<i8"),
        ("rest", "<i8", 6),
    ]
)
LEASE = np.dtype(
    [
        ("number", "<i8"),  # 0: the row is free
        ("weight", "<i8"),
        ("cap", "<i8"),  # per cent of the GPU's time, 0 for none
        ("limit", "<i8"),  # bytes
        ("used", "<i8"),  # bytes, of all its sessions
        ("device_ns", "<i8"),  # time its sessions had the GPU
        ("finish", "<i8"),  # virtual time: where its last turn ended
        ("last_ns", "<i8"),  # CLOCK_MONOTONIC: when its last turn ended
        ("allowed_ns", "<i8"),  # CLOCK_MONOTONIC: from when on its cap allows a turn
        ("rest", "<i8", 7),
    ]
)
SESSION = np.dtype(
    [
        ("lease", "<i8"),  # its lease's row from 1 on; 0: the row is free
        ("pid", "<i8"),
        ("used", "<i8"),  # bytes, mapped or saved
        ("idle", "<i8"),  # of those, bytes in no live allocation
        ("saved", "<i8"),  # of those, bytes on the host
        ("wants", "<i8"),  # bytes it waits for until others are moved to the host
        ("wants_since", "<i8"),  # CLOCK_MONOTONIC
        ("mapped_since", "<i8"),  # CLOCK_MONOTONIC: when it last got memory
        ("device_ns", "<i8"),
        ("last_ns", "<i8"),  # CLOCK_MONOTONIC: when it last did something
        ("launches", "<i8"),
        ("waits_since", "<i8"),  # CLOCK_MONOTONIC: it waits for a turn; 0: it does not
        ("busy_since", "<i8"),  # CLOCK_MONOTONIC: when its turn began; 0: it has none
        ("rest", "<i8", 3),
    ]
)
"""Rows have 128 bytes, two cache lines: neighbours' counters must not slow each other down."""

NEWS_OFFSET: Final = 40
SIZE: Final = HEADER.itemsize + ROW_COUNT * (LEASE.itemsize + SESSION.itemsize)


WORD: Final = 8


class Lock:
    """What several processes change, one of them changes at a time. A process that dies with it lets it go (fcntl(2), record locks)."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


class Ledger:
    """One GPU's ledger. ``descriptor`` is a memfd, which a worker gets from the daemon and which this closes."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, SIZE)
        self.header: NDArray[np.void] = np.frombuffer(self._memory, HEADER, 1)
        self.leases: NDArray[np.void] = np.frombuffer(self._memory, LEASE, ROW_COUNT, HEADER.itemsize)
        self.sessions: NDArray[np.void] = np.frombuffer(
            self._memory, SESSION, ROW_COUNT, HEADER.itemsize + ROW_COUNT * LEASE.itemsize
        )
        self.words = memoryview(self._memory).cast("q")
        """The same by 64-bit words: what is read at every launch is read faster so, five times as fast as a field of NumPy's."""
        self.lock = Lock(descriptor)
        self.news = Futex(self._memory, NEWS_OFFSET)

    @classmethod
    def create(cls, capacity: int = 0) -> Ledger:
        """An empty one, of a GPU on which ``capacity`` bytes may be mapped at a time (0: all that is leased). OSError."""
        descriptor = os.memfd_create("bitfusion-ledger", os.MFD_CLOEXEC)
        os.truncate(descriptor, SIZE)
        ledger = cls(descriptor)
        ledger.header["capacity"] = capacity
        return ledger

    # the daemon's

    def open_lease(self, number: int, limit: int, weight: int = WEIGHT_DEFAULT, cap: int = 0) -> int:
        """The row of a new lease of ``limit`` bytes. CapacityError if there are too many."""
        with self.lock:
            row = _free(self.leases["number"], "leases")
            self.header["lease_top"] = max(int(self.header["lease_top"][0]), row + 1)
            self.leases[row] = (number, weight, cap, limit, 0, 0, self.header["clock"][0], 0, 0, 0)
        return row

    def close_lease(self, row: int) -> None:
        """The lease is over, and its sessions are closed."""
        with self.lock:
            self.leases[row] = np.zeros((), LEASE)

    def open_session(self, lease: int, pid: int = 0) -> int:
        """The row of a new session of a lease. CapacityError if there are too many."""
        with self.lock:
            row = _free(self.sessions["lease"], "sessions")
            self.header["session_top"] = max(int(self.header["session_top"][0]), row + 1)
            self.sessions[row] = np.zeros((), SESSION)
            self.sessions["lease"][row], self.sessions["pid"][row] = lease + 1, pid
            self.header["open"] += 1
        return row

    def close_session(self, row: int) -> None:
        """Its worker is gone, however it ended: its memory goes back to the lease, its turn to the others."""
        with self.lock:
            session = self.sessions[row]
            self.leases["used"][int(session["lease"]) - 1] -= session["used"]
            self.header["mapped"] -= session["used"] - session["saved"]
            self.sessions[row] = np.zeros((), SESSION)
            self.header["open"] -= 1
            if self.header["holder"][0] == row + 1:
                self.header["holder"] = 0
            self.header["waiting"] = np.count_nonzero(self.sessions["waits_since"])
            self.news.add()
        self.news.wake()

    # anybody's

    def tell(self) -> None:
        """Have all who wait look again."""
        with self.lock:
            self.news.add()
        self.news.wake()

    def sessions_of(self, lease: int) -> list[int]:
        """The rows of a lease's sessions."""
        top = int(self.header["session_top"][0])
        return [int(row) for row in np.flatnonzero(self.sessions["lease"][:top] == lease + 1)]

    def close(self) -> None:
        """Of this process, once nobody has a view of its rows any more; the others' stays."""
        self.news.close()
        self.words.release()
        del self.header, self.leases, self.sessions, self._memory
        os.close(self.descriptor)


def header_word(name: str) -> int:
    """The index in ``words`` of a field of the header."""
    return _offset(HEADER, name) // WORD


def lease_word(row: int, name: str) -> int:
    """Of a lease's row."""
    return (HEADER.itemsize + row * LEASE.itemsize + _offset(LEASE, name)) // WORD


def session_word(row: int, name: str) -> int:
    """Of a session's row."""
    start = HEADER.itemsize + ROW_COUNT * LEASE.itemsize
    return (start + row * SESSION.itemsize + _offset(SESSION, name)) // WORD


def _offset(layout: np.dtype[np.void], name: str) -> int:
    assert layout.fields is not None
    return int(layout.fields[name][1])


def _free(column: NDArray[np.int64], what: str) -> int:
    rows = np.flatnonzero(column == 0)
    if not len(rows):
        raise CapacityError(f"this GPU has {ROW_COUNT} {what} already; end one, or ask for another GPU")
    return int(rows[0])
