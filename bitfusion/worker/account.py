"""A session's account of its lease's memory: what it has mapped, and what the lease's other sessions have. Owns no memory."""

from __future__ import annotations

from typing import Protocol

from bitfusion.pool.ledger import Ledger


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
        """Note ``size`` more as mapped, unless the lease would have more than ``limit``; whether that was so."""
        ...

    def give(self, size: int) -> None:
        """Note ``size`` less as mapped."""
        ...

    def note_idle(self, size: int) -> None:
        """Of what is mapped, this much is in no live allocation."""
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

    def give(self, size: int) -> None:
        pass

    def note_idle(self, size: int) -> None:
        pass


class LedgerAccount:
    """The account of a session whose lease may have others, each in a worker of its own: a row of the GPU's ledger."""

    def __init__(self, ledger: Ledger, row: int) -> None:
        self._ledger = ledger
        self._row = row
        self._session = ledger.sessions[row : row + 1]
        self._lease_row = int(self._session["lease"][0]) - 1
        self._lease = ledger.leases[self._lease_row : self._lease_row + 1]

    def others_used(self) -> int:
        others = [row for row in self._ledger.sessions_of(self._lease_row) if row != self._row]
        sessions = self._ledger.sessions
        return sum(int(sessions["used"][row] - sessions["idle"][row]) for row in others)

    def others_mapped(self) -> int:
        return int(self._lease["used"][0] - self._session["used"][0])

    def is_shared(self) -> bool:
        return len(self._ledger.sessions_of(self._lease_row)) > 1

    def take(self, size: int, limit: int) -> bool:
        with self._ledger.locked():
            if int(self._lease["used"][0]) + size > limit:
                return False
            self._lease["used"] += size
            self._session["used"] += size
            return True

    def give(self, size: int) -> None:
        with self._ledger.locked():
            self._lease["used"] -= size
            self._session["used"] -= size

    def note_idle(self, size: int) -> None:
        self._session["idle"] = size
