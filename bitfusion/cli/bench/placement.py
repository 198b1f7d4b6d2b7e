"""Which cores the two ends of a comparison run on.

Waking a process on a core that sleeps costs more than all the rest of a short exchange (on a virtual machine some 40 us
against 10 us), and the scheduler now wakes a peer here, now there. So both ends of ours and of the floor are put in the
same places: ``apart`` on two cores, as they would be on two machines, or ``together`` on one, where only the work counts.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path


class Placement(StrEnum):
    """Where client and server run."""

    APART = "apart"
    TOGETHER = "together"
    FREE = "free"
    """Where the scheduler likes."""


@contextlib.contextmanager
def placed(placement: Placement, servers: Iterable[int]) -> Iterator[None]:
    """Put this thread on one core and the threads ``servers`` on the same or another; as before when the block ends."""
    if placement is Placement.FREE:
        yield
        return
    cores = sorted(os.sched_getaffinity(0))
    threads = {0: cores[0], **dict.fromkeys(servers, cores[-1 if placement is Placement.APART else 0])}
    before = {thread: os.sched_getaffinity(thread) for thread in threads}
    try:
        for thread, core in threads.items():
            os.sched_setaffinity(thread, {core})
        yield
    finally:
        for thread, allowed in before.items():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, allowed)


def placements_possible() -> tuple[Placement, ...]:
    """What this machine allows us, the first to be preferred."""
    if not hasattr(os, "sched_setaffinity"):
        return (Placement.FREE,)
    several = len(os.sched_getaffinity(0)) > 1
    return (Placement.APART, Placement.TOGETHER, Placement.FREE) if several else (Placement.TOGETHER,)


def threads(pid: int) -> list[int]:
    """Every thread of a process; the first has the process's number."""
    return sorted(int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir())


def children(pid: int) -> list[int]:
    """The processes a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
