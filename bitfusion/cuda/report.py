"""Where a session's time went: one line of JSON, appended when the session ends to the file that BITFUSION_REPORT names.

``bitfusion run --report`` gathers the lines of all processes of its program (docs/guide/run.md explains the figures).
"""

from __future__ import annotations

import json
import os
import time

from bitfusion.client.client import Client
from bitfusion.errors import BitfusionError


class Report:
    """Counts from when it is made until ``write``."""

    def __init__(self, client: Client, place: str) -> None:
        self._client = client
        self._place = place
        self._started = time.perf_counter()

    def figures(self) -> dict[str, float | int | str]:
        """Seconds, bytes and counts. The worker's share is missing if the session has ended already.

        ``wait_s`` is the waiting that the device's own work does not explain: what is left of the time in calls after ``compute_s``.
        """
        wall = time.perf_counter() - self._started
        worker: dict[str, int] = {}
        try:
            worker = self._client.worker_metrics()
        except BitfusionError:
            pass
        mine = self._client.metrics
        compute, transfer = worker.get("busy_ns", 0) / 1e9, mine.transfer_ns / 1e9
        wait = max(mine.wait_ns / 1e9 - compute, 0.0)
        return {
            "session": self._client.session_id,
            "device": self._client.device.name,
            "pid": os.getpid(),
            "wall_s": wall,
            "compute_s": compute,
            "transfer_s": transfer,
            "wait_s": wait,
            "other_s": max(wall - compute - transfer - wait, 0.0),
            "bytes_sent": mine.bytes_sent,
            "bytes_rcvd": mine.bytes_rcvd,
            "operations": mine.operations_posted,
            "calls": mine.calls,
            "launches": worker.get("launches", 0),
        }

    def write(self) -> None:
        """Append the line; one write, so that lines of several processes do not mix (POSIX, O_APPEND)."""
        line = json.dumps(self.figures()) + "\n"
        try:
            descriptor = os.open(self._place, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError:
            return  # the file's directory has gone with whoever wanted it
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
