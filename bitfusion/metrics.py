"""Counters that every layer adds to and nobody has to ask for. Owns the numbers, not their transport."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class SessionMetrics:
    """What one side of one session has done. Sizes in bytes, times in nanoseconds."""

    frames_sent: int = 0
    frames_rcvd: int = 0
    bytes_sent: int = 0
    bytes_rcvd: int = 0
    operations_posted: int = 0
    calls: int = 0
    copied_bytes: int = 0
    """Payload bytes that were copied in memory on purpose (every ``copy_...`` adds here)."""
    credit_waits: int = 0
    wait_ns: int = 0
    """Time a client spent waiting for answers, also for the first byte of a copy out, before which the device finishes its work."""
    transfer_ns: int = 0
    """Time a client spent moving payload: copies in, and copies out from the first byte (asyncio: the request) to the last."""
    launches: int = 0
    """Kernels started, on a worker."""
    busy_ns: int = 0
    """Time the device spent running kernels, on a worker."""

    def as_dict(self) -> dict[str, int]:
        """The counters as plain values."""
        return asdict(self)
