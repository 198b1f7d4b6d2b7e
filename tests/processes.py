"""Waiting for the ends of processes that are not our children."""

from __future__ import annotations

import os
import select

END_TIMEOUT_S = 30


def ends(pid: int, timeout: float = END_TIMEOUT_S) -> bool:
    """Whether the process ends within ``timeout`` seconds, or has. A killed process runs on until the kernel next looks at it."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return has_ended(descriptor, timeout)
    finally:
        os.close(descriptor)


def has_ended(descriptor: int, timeout: float = END_TIMEOUT_S) -> bool:
    """Whether the process of a pidfd ends within ``timeout`` seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
