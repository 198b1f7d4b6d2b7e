"""A session's account of its lease's memory: what it has mapped, and what the lease's other sessions have. Owns no memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from bitfusion.errors import DeviceMemoryError
from bitfusion.pool.ledger import REFUSED, Ledger
from bitfusion.types import format_size

ROOM_TIMEOUT_S = 60.0
"""How long a session waits for room on an oversubscribed GPU: longer than a busy one may keep its place (``server/residence.py``)
and any memory of today takes to move.
"""


class Account(Protocol):
    """What a session's memory asks of its lease. Sizes are bytes."""

    def others_used(self) -> int:
        """In live allocations of other sessions."""
        ...

    def others_mapped(self) -> int:
        """Mapped by other sessions."""
        ...

    def is_shared(self) -> bool:
        """Whether the lease has other sessions now."""
        ...

    def take(self, size: int, limit: int) -> bool:
        """Note ``size`` more as mapped, unless the lease would have more than ``limit``; whether that was so.

        Waits for room on the GPU where more is leased than it has; DeviceMemoryError if there is none in time.
        """
        ...

    def give(self, size: int, *, saved: bool = False) -> None:
        """Note ``size`` less as mapped, or as saved on the host."""
        ...

    def move(self, size: int) -> None:
        """Note ``size`` bytes, saved until now, as mapped; if negative, the other way. DeviceMemoryError as ``take``."""
        ...

    def note_idle(self, size: int) -> None:
        """Of what is mapped, this much is in no live allocation."""
        ...

    def abort(self) -> None:
        """From any thread: wait for no room any more."""
        ...


class Sole:
    """The account of a lease's only session."""

    def others_used(self) -> int:
        return 0

    def others_mapped(self) -> int:
        return 0

    def is_shared(self) -> bool:
        return False

    def take(self, size: int, limit: int) -> bool:
        return True

    def give(self, size: int, *, saved: bool = False) -> None:
        pass

    def move(self, size: int) -> None:
        pass

    def note_idle(self, size: int) -> None:
        pass

    def abort(self) -> None:
        pass


class LedgerAccount:
    """The account of a session whose lease may have others, each in a worker of its own: a row of the GPU's ledger.

    ``ask`` tells the daemon that this session waits for room, which its row says how much of.
    """

    def __init__(self, ledger: Ledger, row: int, ask: Callable[[], None] | None = None) -> None:
        self._ledger = ledger
        self._row = row
        self._ask = ask
        self._session = ledger.sessions[row : row + 1]
        self._lease_row = int(self._session["lease"][0]) - 1
        self._lease = ledger.leases[self._lease_row : self._lease_row + 1]
        self._aborted = False

    def others_used(self) -> int:
        others = [row for row in self._ledger.sessions_of(self._lease_row) if row != self._row]
        sessions = self._ledger.sessions
        return sum(int(sessions["used"][row] - sessions["idle"][row]) for row in others)

    def others_mapped(self) -> int:
        return int(self._lease["used"][0] - self._session["used"][0])

    def is_shared(self) -> bool:
        return len(self._ledger.sessions_of(self._lease_row)) > 1

    def take(self, size: int, limit: int) -> bool:
        def charge() -> bool:
            if int(self._lease["used"][0]) + size > limit:
                return False
            self._lease["used"] += size
            self._session["used"] += size
            return True

        return self._wait_for_room(size, charge)

    def give(self, size: int, *, saved: bool = False) -> None:
        with self._ledger.lock:
            self._lease["used"] -= size
            self._session["used"] -= size
            if saved:
                self._session["saved"] -= size
            else:
                self._ledger.header["mapped"] -= size
            self._ledger.news.add()
        self._ledger.news.wake()

    def move(self, size: int) -> None:
        def charge() -> bool:
            self._session["saved"] -= size
            return True

        if size > 0:
            self._wait_for_room(size, charge)
        elif size < 0:
            with self._ledger.lock:
                self._session["saved"] -= size
                self._ledger.header["mapped"] += size
                self._ledger.news.add()
            self._ledger.news.wake()

    def note_idle(self, size: int) -> None:
        self._session["idle"] = size

    def abort(self) -> None:
        """From any thread: wait for no room any more."""
        self._aborted = True
        self._ledger.tell()

    def _wait_for_room(self, size: int, charge: Callable[[], bool]) -> bool:
        """Charge ``size`` mapped bytes once the GPU has them; whether ``charge`` agreed. DeviceMemoryError."""
        ledger, deadline = self._ledger, time.monotonic() + ROOM_TIMEOUT_S
        asked = False
        try:
            while True:
                with ledger.lock:
                    seen, header = ledger.news.value, ledger.header
                    if not header["capacity"][0] or int(header["mapped"][0]) + size <= int(header["capacity"][0]):
                        if not charge():
                            return False
                        header["mapped"] += size
                        self._session["mapped_since"] = time.monotonic_ns()
                        return True
                    if not asked:
                        self._session["wants"], self._session["wants_since"] = size, time.monotonic_ns()
                if not asked and self._ask is not None:
                    self._ask()
                asked = True
                left = deadline - time.monotonic()
                if self._aborted or self._ask is None or left <= 0 or self._session["wants"][0] == REFUSED:
                    raise self._no_room(size)
                ledger.news.wait(seen, int(left * 1e9))
        finally:
            if asked:
                self._session["wants"] = self._session["wants_since"] = 0

    def _no_room(self, size: int) -> DeviceMemoryError:
        header = self._ledger.header
        mapped, capacity = int(header["mapped"][0]), int(header["capacity"][0])
        return DeviceMemoryError(
            f"out of device memory: more is leased than this GPU has, {format_size(mapped)} of its {format_size(capacity)} are in use, "
            f"and no session could be moved to the host for {format_size(size)} more; nothing is lost, try again",
            requested=size,
            used=mapped,
            limit=capacity,
        )
