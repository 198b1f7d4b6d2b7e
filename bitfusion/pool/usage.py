"""GPU-seconds: how much of the GPUs a lease took over a time, and what each user and group has used today. Times are arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bitfusion.pool.lease import Lease

DAY_S = 86400.0


def midnight(now: float) -> float:
    """Unix seconds at which the day of ``now`` began, in UTC: appliances and clients in all places agree on it."""
    return now // DAY_S * DAY_S


def gpu_seconds(lease: Lease, start: float, end: float) -> float:
    """What a lease took between two moments, by what it withholds from others: an hour of half a GPU is 1800."""
    return float(lease.worth) * max(0.0, end - max(start, lease.granted_at))


class Usage:
    """The GPU-seconds, of one day, of leases that have ended, by subject (``user:alice``, ``group:staff``)."""

    def __init__(self, spent: Mapping[str, float] | None = None, now: float = 0.0) -> None:
        self._day = midnight(now)
        self._spent = dict(spent or {})

    def spent(self, subject: str, now: float) -> float:
        """Of the day of ``now``; a clock that goes back to an earlier day is still in the latest."""
        self._turn(now)
        return self._spent.get(subject, 0.0)

    def add(self, lease: Lease, subjects: Iterable[str], now: float) -> None:
        """A lease has ended."""
        self._turn(now)
        seconds = gpu_seconds(lease, self._day, now)
        for subject in subjects:
            self._spent[subject] = self._spent.get(subject, 0.0) + seconds

    def _turn(self, now: float) -> None:
        if midnight(now) > self._day:
            self._day = midnight(now)
            self._spent.clear()
