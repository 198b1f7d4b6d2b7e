"""The ledgers of an appliance's GPUs: a row for every lease and session, for as long as it lives. Owns no policy."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bitfusion.limits import MEMORY_CHUNK_SIZE
from bitfusion.pool.lease import Lease
from bitfusion.pool.ledger import Ledger
from bitfusion.server.residence import Residence
from bitfusion.types import DeviceSpec


@dataclass(frozen=True, slots=True)
class Usage:
    """What a session, or a lease on one GPU, has used: bytes, and seconds of the GPU's time; ``idle_s`` since it last did something."""

    memory_used: int
    device_s: float
    idle_s: float


class Ledgers:
    """One ledger per GPU of ``devices``. ``oversubscribe`` above 1: more is leased than there is, and memory moves to the host and back."""

    def __init__(self, devices: Sequence[DeviceSpec], oversubscribe: float = 1.0) -> None:
        self._ledgers = {
            device.uuid: Ledger.create(_leasable(device) if oversubscribe > 1 else 0) for device in devices
        }
        self._residences = {uuid: Residence(ledger) for uuid, ledger in self._ledgers.items()}
        self._rows: dict[str, tuple[tuple[Ledger, int], ...]] = {}

    def open(self, lease: Lease, *, weight: int = 100, cap: int | None = None) -> None:
        """Rows for a lease on each of its GPUs. CapacityError if a GPU has too many."""
        rows: list[tuple[Ledger, int]] = []
        try:
            for share in lease.shares:
                ledger = self._ledgers[share.device.uuid]
                number = int(lease.id, 16) >> 1 | 1
                rows.append((ledger, ledger.open_lease(number, share.memory, weight, cap or 0)))
        except BaseException:
            for ledger, row in rows:
                ledger.close_lease(row)
            raise
        self._rows[lease.id] = tuple(rows)

    def close(self, lease_id: str) -> float:
        """The lease is over, and so are its sessions; the seconds of GPUs' time that it had. Safe to call again."""
        rows = self._rows.pop(lease_id, ())
        device_s = sum(int(ledger.leases["device_ns"][row]) for ledger, row in rows) / 1e9
        for ledger, row in rows:
            ledger.close_lease(row)
        return device_s

    @contextlib.contextmanager
    def session(self, lease_id: str, gpu: int = 0) -> Iterator[tuple[Ledger, int]]:
        """A session's row, on GPU number ``gpu`` of its lease, for the block. CapacityError if the GPU has too many."""
        ledger, lease = self._rows[lease_id][gpu]
        row = ledger.open_session(lease)
        ledger.sessions["last_ns"][row] = time.monotonic_ns()
        try:
            yield ledger, row
        finally:
            ledger.close_session(row)

    def residence(self, lease: Lease, gpu: int = 0) -> Residence:
        """Who has its memory on GPU number ``gpu`` of a lease."""
        return self._residences[lease.shares[gpu].device.uuid]

    def lease_usage(self, lease_id: str, gpu: int = 0) -> Usage:
        """Of all sessions of a lease on one of its GPUs; ``idle_s`` is infinite where none has done anything."""
        ledger, lease = self._rows[lease_id][gpu]
        sessions = [session_usage(ledger, row) for row in ledger.sessions_of(lease)]
        return Usage(
            sum(usage.memory_used for usage in sessions),
            int(ledger.leases["device_ns"][lease]) / 1e9,
            min((usage.idle_s for usage in sessions), default=float("inf")),
        )

    def session_usage(self, lease_id: str, gpu: int, row: int) -> Usage:
        """Of the session in ``row`` of the ledger of a lease's GPU."""
        return session_usage(self._rows[lease_id][gpu][0], row)

    def stop(self) -> None:
        """Close the tables; workers that still run keep theirs."""
        for ledger in self._ledgers.values():
            ledger.close()
        self._ledgers.clear()


def _leasable(device: DeviceSpec) -> int:
    """Bytes in whole chunks."""
    return device.memory_size // MEMORY_CHUNK_SIZE * MEMORY_CHUNK_SIZE


def session_usage(ledger: Ledger, row: int) -> Usage:
    """Of the session in ``row``. While a kernel of its runs it is not idle, however long that takes."""
    session, now = ledger.sessions[row], time.monotonic_ns()
    busy_since, last = int(session["busy_since"]), int(session["last_ns"])
    device_ns = int(session["device_ns"]) + (now - busy_since if busy_since else 0)
    waits = busy_since or int(session["waits_since"])
    return Usage(int(session["used"] - session["idle"]), device_ns / 1e9, 0.0 if waits else max(now - last, 0) / 1e9)
