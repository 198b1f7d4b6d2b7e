"""The history: leases that have ended, with who, what, when, how much and why. Owns its rows and what is asked of them, no connection.

Times are the callers' and clocks jump: an end before the grant counts as the moment of the grant, so nothing ever took less than no time.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

from bitfusion.pool.lease import Lease
from bitfusion.pool.quota import subjects
from bitfusion.pool.request import Holder
from bitfusion.pool.usage import DAY_S, midnight

COUNT_MAX = 200_000
"""Rows: some 80 MB, with the backup twice that."""

AGE_MAX_S = 400 * DAY_S
"""A year and what it takes to write its report."""

PRUNE_COUNT = 64
"""Old rows that go with every write, at most, and twice as many as come: so no write is long, and a clock that
jumps ahead for a moment does not cost the history of a year.
"""

COLUMNS = (
    "id, user_name, group_name, hostname, program, pid, gpus, worth, asked_at, granted_at, ended_at, device_s, reason"
)


@dataclass(frozen=True, slots=True)
class Part:
    """What a lease had of one GPU: ``memory`` bytes."""

    uuid: str
    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A lease that has ended. ``worth``: what it withheld from others, in GPUs; ``device_s``: seconds of GPUs' time that it used."""

    id: str
    holder: Holder
    gpus: tuple[Part, ...]
    worth: float
    asked_at: float
    granted_at: float
    ended_at: float
    device_s: float
    reason: str

    @classmethod
    def of(cls, lease: Lease, reason: str, device_s: float, now: float) -> Ended:
        """What is kept of a lease that ends at ``now``."""
        granted_at = _seconds(lease.granted_at)
        who = lease.holder
        return cls(
            lease.id,
            Holder(_text(who.user), _text(who.group), _text(who.hostname), _text(who.program), who.pid),
            tuple(Part(share.device.uuid, share.device.name, share.memory) for share in lease.shares),
            float(lease.worth),
            min(_seconds(lease.asked_at), granted_at),
            granted_at,
            max(_seconds(now), granted_at),
            _seconds(device_s),
            _text(reason),
        )

    @property
    def gpu_seconds(self) -> float:
        """An hour of half a GPU is 1800."""
        return self.gpu_seconds_between(self.granted_at, self.ended_at)

    def gpu_seconds_between(self, start: float, end: float) -> float:
        """Of those, what fell between two moments."""
        return self.worth * max(0.0, min(self.ended_at, end) - max(self.granted_at, start))

    def row(self) -> tuple[str | int | float, ...]:
        """Its COLUMNS."""
        who = self.holder
        gpus = json.dumps([astuple(part) for part in self.gpus])
        times = (self.asked_at, self.granted_at, self.ended_at, self.device_s)
        return (self.id, who.user, who.group, who.hostname, who.program, who.pid, gpus, self.worth, *times, self.reason)

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> Ended:
        """Of its COLUMNS."""
        lease_id, user, group, hostname, program, pid, gpus, *rest = row
        parts = tuple(Part(*part) for part in json.loads(gpus))
        return cls(lease_id, Holder(user, group, hostname, program, pid), parts, *rest)

    def plain(self) -> dict[str, Any]:
        """As a listing shows it (docs/reference/wire.md, HISTORY)."""
        who = self.holder
        return {
            "id": self.id,
            "user": who.user,
            "group": who.group,
            "hostname": who.hostname,
            "program": who.program,
            "pid": who.pid,
            "gpus": [part.uuid for part in self.gpus],
            "memory_size": sum(part.memory for part in self.gpus),
            "asked_at": self.asked_at,
            "granted_at": self.granted_at,
            "ended_at": self.ended_at,
            "gpu_seconds": self.gpu_seconds,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Asked:
    """Which part of the history: ended at ``since`` (Unix seconds) or later, of that user and group; the latest ``limit``."""

    since: float = 0.0
    user: str | None = None
    group: str | None = None
    limit: int = 1000

    def admits(self, ended: Ended) -> bool:
        """Whether it is asked for, apart from the limit."""
        holder = ended.holder
        return ended.ended_at >= self.since and self.user in (None, holder.user) and self.group in (None, holder.group)


def select(database: sqlite3.Connection, asked: Asked) -> list[Ended]:
    """The latest first."""
    wanted = {"ended_at >= ?": asked.since, "user_name = ?": asked.user, "group_name = ?": asked.group}
    wanted = {condition: value for condition, value in wanted.items() if value is not None}
    rows = database.execute(
        f"SELECT {COLUMNS} FROM history WHERE {' AND '.join(wanted)} ORDER BY ended_at DESC, number DESC LIMIT ?",
        (*wanted.values(), max(asked.limit, 0)),
    )
    return [Ended.from_row(row) for row in rows]


def spent(database: sqlite3.Connection, pending: Iterable[Ended], now: float) -> dict[str, float]:
    """GPU-seconds of the day (UTC) of ``now``, by subject (``user:alice``, ``group:staff``), of leases that have ended."""
    start = midnight(now)
    end = start + DAY_S
    found: dict[str, float] = {}
    rows = database.execute(
        "SELECT user_name, group_name, sum(worth * (min(ended_at, ?2) - max(granted_at, ?1))) FROM history "
        "WHERE ended_at > ?1 AND granted_at < ?2 GROUP BY user_name, group_name",
        (start, end),
    )
    parts = [(Holder(user, group), seconds) for user, group, seconds in rows]
    parts += [(ended.holder, ended.gpu_seconds_between(start, end)) for ended in pending]
    for holder, seconds in parts:
        for subject in subjects(holder):
            found[subject] = found.get(subject, 0.0) + seconds
    return found


def insert(database: sqlite3.Connection, ended: Iterable[Ended], count_max: int, age_max_s: float) -> None:
    """More of the history; the oldest goes. One that is there already stays as it is."""
    rows = [item.row() for item in ended]
    if not rows:
        return
    marks = ", ".join("?" * len(rows[0]))
    database.executemany(f"INSERT OR IGNORE INTO history ({COLUMNS}) VALUES ({marks})", rows)
    database.execute(
        "DELETE FROM history WHERE number IN (SELECT number FROM history ORDER BY number LIMIT ?) AND "
        "(number <= (SELECT max(number) FROM history) - ? OR ended_at < (SELECT max(ended_at) FROM history) - ?)",
        (PRUNE_COUNT + 2 * len(rows), count_max, age_max_s),
    )


def _seconds(value: float) -> float:
    """A time as the database takes it: finite and not negative."""
    return max(value, 0.0) if math.isfinite(value) else 0.0


def _text(value: str) -> str:
    """Without halves of surrogates, which have no UTF-8."""
    return value.encode("utf-8", "replace").decode()
