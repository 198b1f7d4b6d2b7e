"""Who keeps its memory on an oversubscribed GPU, and who has it moved to the host for others.

A worker that finds no room says so on its lifeline and waits. This looks at the GPU's ledger and asks workers to move: first those idle the
longest; where all are busy, those that have had their place the longest, a quantum each. Owns the choice; the moving is the workers' own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from bitfusion.pool.ledger import REFUSED, Ledger
from bitfusion.server.workers import Worker

IDLE_NS = 500_000_000
"""Idle for so long, a session is one whose user is thinking: a training loop's pauses are shorter."""

QUANTUM_NS = 2_000_000_000
"""How long a busy session keeps its place when others wait: moving 16 GiB takes as long at 8 GB/s; shorter would be thrashing."""

LOOK_S = 0.5
"""Who was asked to move may be within a kernel, or may have gone: look again."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Rows of sessions that are to move, of one that waits in vain, and when to look again."""

    evicted: tuple[int, ...] = ()
    refused: int | None = None
    look_s: float | None = None


def choose(ledger: Ledger, now_ns: int, leaving: frozenset[int] = frozenset()) -> Choice:
    """Make room for the session that has waited the longest; those in ``leaving`` have been asked already."""
    sessions, header = ledger.sessions, ledger.header[0]
    waiting = np.flatnonzero(sessions["wants"] > 0)
    if not len(waiting):
        return Choice()
    first = waiting[np.argmin(sessions["wants_since"][waiting])]
    mapped = sessions["used"] - sessions["saved"]
    missing = int(header["mapped"] + sessions["wants"][first] - header["capacity"])
    missing -= sum(int(mapped[row]) for row in leaving)
    holding = [row for row in np.flatnonzero(mapped) if row not in leaving and not sessions["wants"][row]]
    from_ns = {int(row): _movable_from(sessions[row], sessions[first]) for row in holding}
    evicted, look_ns = [], []
    for row in sorted(from_ns, key=lambda row: (from_ns[row], int(sessions["last_ns"][row]))):
        if missing <= 0:
            break
        missing -= int(mapped[row])
        if from_ns[row] <= now_ns:
            evicted.append(row)
        else:
            look_ns.append(from_ns[row] - now_ns)
    if missing > 0 and not evicted and not leaving and not look_ns:
        return Choice(refused=int(waiting[np.argmax(sessions["wants_since"][waiting])]))
    return Choice(tuple(evicted), None, min(look_ns) / 1e9 if look_ns else None)


def _movable_from(session: np.void, waiter: np.void) -> int:
    """From when on (CLOCK_MONOTONIC ns) a session may be asked to move for one that waits."""
    forced = max(int(session["mapped_since"]), int(waiter["wants_since"])) + QUANTUM_NS
    if session["busy_since"] or session["waits_since"]:
        return forced
    return min(int(session["last_ns"]) + IDLE_NS, forced)


@dataclass(slots=True)
class Place:
    """A session's worker, and the ``mapped_since`` of its row when it was asked to move, 0 if it was not."""

    worker: Worker
    asked: int = 0


@dataclass(slots=True)
class Residence:
    """The sessions of one GPU. ``look`` when a worker asks for room; it looks again by itself while somebody waits."""

    ledger: Ledger
    _places: dict[int, Place] = field(default_factory=dict)
    _timer: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def place(self, row: int, worker: Worker) -> Iterator[None]:
        """The session in ``row`` is the worker's, for the block."""
        self._places[row] = Place(worker)
        worker.asks_for_room = self.look
        try:
            yield
        finally:
            worker.asks_for_room = None
            del self._places[row]

    def look(self) -> None:
        """See who waits for room, and ask others to make some."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        choice = choose(self.ledger, time.monotonic_ns(), self._leaving())
        for row in choice.evicted:
            if row in self._places:
                self._places[row].asked = int(self.ledger.sessions["mapped_since"][row])
                self._places[row].worker.evict()
        if choice.refused is not None:
            with self.ledger.lock:
                self.ledger.sessions["wants"][choice.refused] = REFUSED
            self.ledger.tell()
        look_s = choice.look_s
        if look_s is None and (self.ledger.sessions["wants"] > 0).any():
            look_s = LOOK_S
        if look_s is not None:
            self._timer = asyncio.get_running_loop().call_later(look_s, self.look)

    def _leaving(self) -> frozenset[int]:
        """Rows that were asked to move and have not done so yet."""
        sessions, leaving = self.ledger.sessions, set()
        for row, place in self._places.items():
            if (
                place.asked
                and place.asked == sessions["mapped_since"][row]
                and sessions["used"][row] > sessions["saved"][row]
            ):
                leaving.add(row)
            else:
                place.asked = 0
        return frozenset(leaving)
