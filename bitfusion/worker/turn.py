"""A session's turns on its GPU: sessions of several leases have it one after the other, by the weights of their leases.

Start-time fair queueing (Goyal, Vin, Cheng, 1996) over the ledger's rows. A lease's turn starts at a virtual time, the later of the GPU's
clock and the end of its last turn, and ends later by the time it took divided by its weight; of those who wait, the earliest start is next.
A lease that was idle starts at the clock, so idleness earns nothing. Between two launches a program needs a moment of its own: below
WINDOW_NS that is no idleness, and a lease that is due before us is waited for so long. A turn is not taken away: it lasts as long as the
kernel that runs, and the GPU is given on after SLICE_NS where others wait.

A cap holds a lease back even when nobody waits. One session alone on its GPU, without a cap, only notes its time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bitfusion.pool.ledger import LEASE, SESSION, WEIGHT_DEFAULT, Ledger, header_word, lease_word, session_word

HOLDER, CLOCK, OPEN, WAITING, LEASE_TOP, SESSION_TOP = map(
    header_word, ("holder", "clock", "open", "waiting", "lease_top", "session_top")
)
NOBODY: Final = np.empty(0, np.int64)

SLICE_NS: Final = 2_000_000
"""As long as a time slice of NVIDIA's (about 2 ms): shorter ones would cost a change of turns for every small kernel."""

WINDOW_NS: Final = 2_000_000
"""A round trip with some work of the program's own. Longer, and a lease that has gone idle would hold the GPU idle."""

LAG_NS: Final = 100_000_000
"""How far a lease may be behind the clock without having been idle: its moments between launches are not to cost it its due."""

BURST_NS: Final = 100_000_000
"""Time of a cap that can be saved up: a tenth of the second over which caps are kept."""

HOLDER_LOOK_NS: Final = 100_000_000
"""How often a waiter looks whether the holder's process is still there, should nobody clear its row."""


class Turn:
    """The turns of the session in ``row``. ``drain`` waits for launched work: until it has ended, the GPU is ours."""

    def __init__(self, ledger: Ledger, row: int, drain: Callable[[], None]) -> None:
        self._ledger = ledger
        self._row = row
        self._drain = drain
        self._words = ledger.words
        lease = self._lease_row = self._words[session_word(row, "lease")] - 1
        self._capped = self._words[lease_word(lease, "cap")]
        self._weight = self._words[lease_word(lease, "weight")] or WEIGHT_DEFAULT
        self._session_at = {name: session_word(row, name) for name in SESSION.names or ()}
        self._lease_at = {name: lease_word(lease, name) for name in LEASE.names or ()}
        self._last_at = self._session_at["last_ns"]
        self._held = False
        self._since = self._slice_end = self._start = self._launches = 0
        self._aborted = False

    def take(self) -> None:
        """Before a launch: wait for our turn, unless we have it."""
        now = time.monotonic_ns()
        self._launches += 1
        if self._held:
            if now < self._slice_end:
                return
            self.give()
            now = time.monotonic_ns()
        words = self._words
        if words[OPEN] == 1 and not self._capped:
            words[CLOCK] = start = max(words[CLOCK], words[self._lease_at["finish"]])
            self._begin(now, start)
        else:
            self._acquire(now)

    def give(self) -> None:
        """The next, please. Does nothing if it is not our turn."""
        if not self._held:
            return
        self._held = False
        words = self._words
        if words[OPEN] == 1 and not self._capped:
            self._note(time.monotonic_ns())
            return
        if words[WAITING]:
            self._drain()
        with self._ledger.lock:
            self._note(time.monotonic_ns())
            if words[HOLDER] == self._row + 1:
                words[HOLDER] = 0
            waiting = words[WAITING]
            self._ledger.news.add()
        if waiting:
            self._ledger.news.wake()

    def touch(self) -> None:
        """Work was done that needs no turn: a copy, an allocation."""
        self._words[self._last_at] = time.monotonic_ns()

    def abort(self) -> None:
        """From any thread: wait no more; the launch that follows is aborted by the device."""
        self._aborted = True
        self._ledger.tell()

    def _begin(self, now: int, start: int) -> None:
        self._held, self._since, self._slice_end, self._start = True, now, now + SLICE_NS, start
        self._words[self._session_at["busy_since"]] = now

    def _note(self, now: int) -> None:
        """The turn's end, in the ledger."""
        elapsed, words, session, lease = now - self._since, self._words, self._session_at, self._lease_at
        words[session["device_ns"]] += elapsed
        words[session["launches"]] += self._launches
        words[session["last_ns"]] = words[lease["last_ns"]] = now
        words[session["busy_since"]] = 0
        words[lease["device_ns"]] += elapsed
        words[lease["finish"]] = self._start + elapsed * WEIGHT_DEFAULT // self._weight
        if self._capped:
            saved = max(words[lease["allowed_ns"]], self._since - BURST_NS)
            words[lease["allowed_ns"]] = saved + elapsed * 100 // self._capped
        self._launches = 0

    def _acquire(self, now: int) -> None:
        """Wait until we are the next."""
        ledger, words = self._ledger, self._words
        waiting = False
        while not self._aborted:
            with ledger.lock:
                seen, look_ns = ledger.news.value, self._look(now)
                if look_ns == 0:
                    start = self._mine(now)
                    words[HOLDER] = self._row + 1
                    words[CLOCK] = max(words[CLOCK], start)
                elif not waiting:
                    words[self._session_at["waits_since"]] = now
                    words[WAITING] += 1
                    waiting = True
                    continue  # so that those who are behind us know of it before we sleep
                if look_ns == 0 and waiting:
                    words[self._session_at["waits_since"]] = 0
                    words[WAITING] -= 1
            if look_ns == 0:
                self._begin(time.monotonic_ns(), start)
                return
            ledger.news.wait(seen, look_ns)
            now = time.monotonic_ns()
        self._leave(waiting)

    def _leave(self, waiting: bool) -> None:
        if waiting:
            with self._ledger.lock:
                self._words[self._session_at["waits_since"]] = 0
                self._words[WAITING] -= 1

    def _look(self, now: int) -> int:
        """0 if it is our turn, else the nanoseconds after which to look again at the latest. Under the lock."""
        words = self._words
        allowed = words[self._lease_at["allowed_ns"]]
        if self._capped and allowed > now:
            return allowed - now
        if self._held_by_another():
            return HOLDER_LOOK_NS
        if words[WAITING] == (words[self._session_at["waits_since"]] != 0):  # nobody else
            return self._anticipate(now, NOBODY)
        sessions, leases = self._ledger.sessions[: words[SESSION_TOP]], self._ledger.leases
        waiting = np.flatnonzero(sessions["waits_since"])
        rows = sessions["lease"][waiting] - 1
        mine, starts = self._mine(now), self._starts(rows, sessions["waits_since"][waiting])
        able = (leases["allowed_ns"][rows] <= now) & (waiting != self._row)
        before = (starts < mine) | ((starts == mine) & (sessions["waits_since"][waiting] < self._waits_since(now)))
        if (able & before).any():
            return HOLDER_LOOK_NS
        return self._anticipate(now, rows)

    def _mine(self, now: int) -> int:
        """The virtual time at which our turn would start."""
        words, lease = self._words, self._lease_at
        clock = words[CLOCK]
        if self._waits_since(now) - words[lease["last_ns"]] < WINDOW_NS:
            clock -= LAG_NS
        return max(words[lease["finish"]], clock)

    def _starts(self, leases: NDArray[np.int64], since_ns: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """The same of leases that came for their turns at ``since_ns``: not before the clock, unless they had one just before."""
        rows, clock = self._ledger.leases, self._words[CLOCK]
        earliest = np.where(since_ns - rows["last_ns"][leases] < WINDOW_NS, clock - LAG_NS, clock)
        starts: NDArray[np.int64] = np.maximum(rows["finish"][leases], earliest)
        return starts

    def _anticipate(self, now: int, waiting: NDArray[np.int64]) -> int:
        """How long to keep the GPU idle for a lease that has just had a turn and is due before us."""
        rows = self._ledger.leases[: self._words[LEASE_TOP]]
        recent = np.flatnonzero(rows["last_ns"] > now - WINDOW_NS)
        if not len(recent) or (len(recent) == 1 and recent[0] == self._lease_row):
            return 0
        recent = recent[(recent != self._lease_row) & ~np.isin(recent, waiting)]
        starts = self._starts(recent, now) + SLICE_NS * WEIGHT_DEFAULT // rows["weight"][recent]
        due = recent[(starts < self._mine(now)) & (rows["allowed_ns"][recent] <= now)]
        return int(rows["last_ns"][due].max()) + WINDOW_NS - now if len(due) else 0

    def _waits_since(self, now: int) -> int:
        return self._words[self._session_at["waits_since"]] or now

    def _held_by_another(self) -> bool:
        holder = self._words[HOLDER]
        if holder in (0, self._row + 1):
            return False
        try:
            os.kill(int(self._ledger.sessions["pid"][holder - 1]), 0)
        except ProcessLookupError:
            return False  # it died, and the daemon has not cleared its row yet
        except PermissionError:
            pass
        return True
