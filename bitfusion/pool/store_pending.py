"""Changes that are not on the disk yet: of everything only what it came to. Owns how they are written, not when.

So whatever happens while a disk is full, what has to be caught up with is no more than what there is, and the history of that time.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass, field

from bitfusion.pool import store_history
from bitfusion.pool.lease import Lease
from bitfusion.pool.queue import Waiter
from bitfusion.pool.quota import Quota
from bitfusion.pool.store_history import Ended

TABLES = ("lease", "waiter", "quota")

Kept = Lease | Waiter | Quota

ENDED_COUNT_MAX = 10_000
"""History that waits for a full disk: some MB of memory. Beyond it the oldest is lost, and that is said."""


def _tables() -> dict[str, dict[str, Kept | None]]:
    return {table: {} for table in TABLES}


@dataclass(slots=True)
class Pending:
    """For each table what an id is from now on; None: not there. ``lost``: entries of the history that nobody could keep."""

    kept: dict[str, dict[str, Kept | None]] = field(default_factory=_tables)
    ended: dict[str, Ended] = field(default_factory=dict)
    lost: int = 0

    def __bool__(self) -> bool:
        return bool(self.ended or any(self.kept.values()))

    def add(self, other: Pending) -> None:
        """What happened after this."""
        for table, changes in other.kept.items():
            self.kept[table].update(changes)
        self.ended.update(other.ended)
        self.lost += other.lost

    def bound(self) -> None:
        """Where it could not be written: no more of the history than ENDED_COUNT_MAX."""
        for item in list(self.ended)[:-ENDED_COUNT_MAX]:
            del self.ended[item]
            self.lost += 1

    def merged(self, other: Pending) -> Pending:
        """Another with both, this first."""
        both = Pending()
        both.add(self)
        both.add(other)
        return both

    def forget_the_unwritten(self, database: sqlite3.Connection) -> None:
        """What came and went without ever being on the disk need not be taken off it."""
        for table, changes in self.kept.items():
            there = {row[0] for row in database.execute(f"SELECT id FROM {table}")}
            for item in [item for item, value in changes.items() if value is None and item not in there]:
                del changes[item]

    def write(self, database: sqlite3.Connection, count_max: int, age_max_s: float) -> None:
        """All of it, within the caller's transaction."""
        for table, changes in self.kept.items():
            gone = [(item,) for item, value in changes.items() if value is None]
            here = [(item, json.dumps(asdict(value))) for item, value in changes.items() if value is not None]
            database.executemany(f"DELETE FROM {table} WHERE id = ?", gone)
            database.executemany(f"INSERT OR REPLACE INTO {table} (id, body) VALUES (?, ?)", here)
        store_history.insert(database, self.ended.values(), count_max, age_max_s)
