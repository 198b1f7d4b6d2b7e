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

from bitfusion.pool.ledger import WEIGHT_DEFAULT, Ledger

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
        self._session = ledger.sessions[row : row + 1]
        self._lease_row = int(self._session["lease"][0]) - 1
        self._lease = ledger.leases[self._lease_row : self._lease_row + 1]
        self._capped = int(self._lease["cap"][0])
        self._weight = int(self._lease["weight"][0]) or WEIGHT_DEFAULT
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
        if self._ledger.header["open"][0] == 1 and not self._capped:
            header = self._ledger.header
            header["clock"] = start = max(int(header["clock"][0]), int(self._lease["finish"][0]))
            self._begin(now, start)
        else:
            self._acquire(now)

    def give(self) -> None:
        """The next, please. Does nothing if it is not our turn."""
        if not self._held:
            return
        self._held = False
        ledger = self._ledger
        if ledger.header["open"][0] == 1 and not self._capped:
            self._note(time.monotonic_ns())
            return
        if ledger.header["waiting"][0]:
            self._drain()
        with ledger.locked():
            self._note(time.monotonic_ns())
            if ledger.header["holder"][0] == self._row + 1:
                ledger.header["holder"] = 0
            waiting = ledger.header["waiting"][0]
            ledger.news.add()
        if waiting:
            ledger.news.wake()

    def touch(self) -> None:
        """Work was done that needs no turn: a copy, an allocation."""
        self._session["last_ns"] = time.monotonic_ns()

    def abort(self) -> None:
        """From any thread: wait no more; the launch that follows is aborted by the device."""
        self._aborted = True
        self._ledger.tell()

    def _begin(self, now: int, start: int) -> None:
        self._held, self._since, self._slice_end, self._start = True, now, now + SLICE_NS, start
        self._session["busy_since"] = now

    def _note(self, now: int) -> None:
        """The turn's end, in the ledger."""
        elapsed, session, lease = now - self._since, self._session, self._lease
        session["device_ns"] += elapsed
        session["launches"] += self._launches
        session["last_ns"] = lease["last_ns"] = now
        session["busy_since"] = 0
        lease["device_ns"] += elapsed
        lease["finish"] = self._start + elapsed * WEIGHT_DEFAULT // self._weight
        if self._capped:
            lease["allowed_ns"] = (
                max(int(lease["allowed_ns"][0]), self._since - BURST_NS) + elapsed * 100 // self._capped
            )
        self._launches = 0

    def _acquire(self, now: int) -> None:
        """Wait until we are the next."""
        ledger, session = self._ledger, self._session
        waiting = False
        while not self._aborted:
            with ledger.locked():
                seen, look_ns = ledger.news.value, self._look(now)
                if look_ns == 0:
                    start = self._mine(now)
                    ledger.header["holder"] = self._row + 1
                    ledger.header["clock"] = max(int(ledger.header["clock"][0]), start)
                elif not waiting:
                    session["waits_since"] = now
                    ledger.header["waiting"] += 1
                    waiting = True
                    continue  # so that those who are behind us know of it before we sleep
                if look_ns == 0 and waiting:
                    session["waits_since"] = 0
                    ledger.header["waiting"] -= 1
            if look_ns == 0:
                self._begin(time.monotonic_ns(), start)
                return
            ledger.news.wait(seen, look_ns)
            now = time.monotonic_ns()
        self._leave(waiting)

    def _leave(self, waiting: bool) -> None:
        if waiting:
            with self._ledger.locked():
                self._session["waits_since"] = 0
                self._ledger.header["waiting"] -= 1

    def _look(self, now: int) -> int:
        """0 if it is our turn, else the nanoseconds after which to look again at the latest. Under the lock."""
        ledger, lease = self._ledger, self._lease
        allowed = int(lease["allowed_ns"][0])
        if self._capped and allowed > now:
            return allowed - now
        if self._held_by_another():
            return HOLDER_LOOK_NS
        mine, sessions = self._mine(now), ledger.sessions
        waiting = np.flatnonzero(sessions["waits_since"])
        leases = sessions["lease"][waiting] - 1
        starts = self._starts(leases, sessions["waits_since"][waiting])
        able = (ledger.leases["allowed_ns"][leases] <= now) & (waiting != self._row)
        before = (starts < mine) | ((starts == mine) & (sessions["waits_since"][waiting] < self._waits_since(now)))
        if (able & before).any():
            return HOLDER_LOOK_NS
        return self._anticipate(now, mine, leases)

    def _mine(self, now: int) -> int:
        """The virtual time at which our turn would start."""
        return int(self._starts(np.array([self._lease_row]), np.array([self._waits_since(now)]))[0])

    def _starts(self, leases: NDArray[np.int64], since_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same of leases that came for their turns at ``since_ns``: not before the clock, unless they had one just before."""
        rows, clock = self._ledger.leases, int(self._ledger.header["clock"][0])
        earliest = np.where(since_ns - rows["last_ns"][leases] < WINDOW_NS, clock - LAG_NS, clock)
        starts: NDArray[np.int64] = np.maximum(rows["finish"][leases], earliest)
        return starts

    def _anticipate(self, now: int, mine: int, waiting: NDArray[np.int64]) -> int:
        """How long to keep the GPU idle for a lease that has just had a turn and is due before us."""
        rows = self._ledger.leases
        recent = np.flatnonzero(rows["last_ns"] > now - WINDOW_NS)
        recent = recent[(recent != self._lease_row) & ~np.isin(recent, waiting)]
        if not len(recent):
            return 0
        starts = self._starts(recent, np.full(len(recent), now)) + SLICE_NS * WEIGHT_DEFAULT // rows["weight"][recent]
        due = recent[(starts < mine) & (rows["allowed_ns"][recent] <= now)]
        return int(rows["last_ns"][due].max()) + WINDOW_NS - now if len(due) else 0

    def _waits_since(self, now: int) -> int:
        return int(self._session["waits_since"][0]) or now

    def _held_by_another(self) -> bool:
        holder = int(self._ledger.header["holder"][0])
        if holder in (0, self._row + 1):
            return False
        try:
            os.kill(int(self._ledger.sessions["pid"][holder - 1]), 0)
        except ProcessLookupError:
            return False  # it died, and the daemon has not cleared its row yet
        except PermissionError:
            pass
        return True
