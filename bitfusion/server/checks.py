"""What the daemon finds of its own health: each check a map of name, ok, text and what to do."""

from __future__ import annotations

import contextlib
import os
import resource
from typing import Any

FULL = 0.8
"""The part of the descriptors from which on a burst of clients may find none left."""


def checks(zygote: bool, count: int, store: str | None) -> list[dict[str, Any]]:
    """``zygote``: whether workers can be started; ``count``: leases and requests together; ``store``: what is wrong with it."""
    return [_workers(zygote), _descriptors(count), _store(store)]


def _store(problem: str | None) -> dict[str, Any]:
    if problem is None:
        return _check("state", True, "leases, quotas and history are kept")
    return _check("state", False, problem, "until then a restart forgets what changes now")


def _workers(zygote: bool) -> dict[str, Any]:
    if zygote:
        return _check("workers", True, "can be started")
    return _check(
        "workers", False, "cannot be started now", "the next session tries again; the appliance's log says why"
    )


def _descriptors(count: int) -> dict[str, Any]:
    limit, used = resource.getrlimit(resource.RLIMIT_NOFILE)[0], count
    with contextlib.suppress(OSError):  # without /proc
        used = len(os.listdir("/proc/self/fd"))
    advice = (
        ""
        if used < FULL * limit
        else "raise the limit of open files (ulimit -n, LimitNOFILE=) before clients are refused"
    )
    return _check("descriptors", not advice, f"{used} of {limit} are in use", advice)


def _check(name: str, ok: bool, text: str, advice: str = "") -> dict[str, Any]:
    return {"name": name, "ok": ok, "text": text, "advice": advice}
