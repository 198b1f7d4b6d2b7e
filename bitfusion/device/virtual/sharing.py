"""Whether one worker or several run a grid whose blocks update the same memory.

Cores that take turns at a cache line are slower together than one by itself that needs no lock prefix (a histogram in global
memory: nine times). It depends on the data, so it is measured: a few blocks each way, and the rest the way that was faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from bitfusion.device.virtual.launch_record import LaunchRecord

TRIAL_SHARE: Final = 256
"""Each way is tried with one block of so many: where the slower way takes nine times as long, that is a few percent of the grid's time."""

BLOCKS_MIN: Final = 2
"""Blocks of each worker in a trial: fewer would measure how long the others take to wake up."""

Run = Callable[[int], object]
"""Runs the blocks up to the record's ``total`` with so many helpers."""


def run_contended(record: LaunchRecord, helpers: int, run: Run) -> None:
    """Run the grid of ``record`` to its end, or to the moment it is aborted."""
    total = record.total
    trial = max(total // TRIAL_SHARE, BLOCKS_MIN * (helpers + 1))
    if not helpers or total < 4 * trial:
        run(helpers)
        return
    alone = _timed(record, trial, 0, run)
    together = _timed(record, 2 * trial, helpers, run)
    _timed(record, total, 0 if alone < together else helpers, run)


def _timed(record: LaunchRecord, end: int, helpers: int, run: Run) -> int:
    """Nanoseconds for the blocks from where the last run ended up to ``end``."""
    record.next = min(record.next, record.total)  # workers that found no block have counted too
    record.total = end
    record.workers = helpers + 1
    started = time.perf_counter_ns()
    run(helpers)
    return time.perf_counter_ns() - started
