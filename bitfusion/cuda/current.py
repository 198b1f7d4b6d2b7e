"""The current session of this process: what every function of ``cuda`` works on. Opened on first use, one for all threads.

A lease of several GPUs has a session for each, and each thread its current one, as in CUDA: the first until it selects another.

Owns opening, choosing and closing it, and its report. Without ``use`` the environment says what is leased and where
(client/settings.py); ``bitfusion run`` sets it.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable

from bitfusion.client.client import Client, connect
from bitfusion.client.settings import from_environment
from bitfusion.cuda import leased
from bitfusion.cuda.report import Report
from bitfusion.errors import CapacityError, InvalidValueError

WHOLE_GPU = (
    "Each process of a program has a session and a lease of its own, and the first one leased the whole GPU: "
    "start the program with `bitfusion run -p FRACTION` or `-m SIZE`, so that there is room for the others."
)
"""What to do where a child process of a program under ``bitfusion run`` finds nothing left."""

client: Client | None = None
"""The current session, or None before the first use. Launches read it directly; everything else asks ``current``."""

_lock = threading.RLock()
_opened: list[tuple[Client, Report | None]] = []
"""The session opened here, and what will be reported of it; one for each GPU that is in use."""

_lease: leased.Leased | None = None
"""The lease of the session opened here, where it may have further GPUs."""

_many: dict[int, Client] = {}
"""The sessions by the number of their GPU, once another than the first was selected; then ``client`` is None but for one in use."""

_of_thread = threading.local()
"""``number``: the GPU that the thread has selected."""


def connect_environment() -> Client:
    """The lease that the environment asks for. Raises the ConnectError branch, ConfigError."""
    global _lease
    settings = from_environment()
    hooked = os.environ.get("BITFUSION_HOOK")  # it would wait for what its own parent has
    wait = 0 if hooked else None
    try:
        _lease = leased.of_environment()
        if _lease is None and settings.gpus > 1:
            _lease = leased.asked_for(settings, wait)
            return _lease.connect(0)
        return connect(memory=settings.memory, fraction=settings.fraction, wait=wait)
    except CapacityError as error:
        if hooked and settings.memory is None and settings.fraction is None:
            error.add_note(WHOLE_GPU)
        raise


opener: Callable[[], Client] = connect_environment
"""How a session is opened on first use; ``bitfusion run --in-process`` puts a device of this process here."""


def current() -> Client:
    """The current session, opened if there is none. Raises the ConnectError branch, ConfigError."""
    return client or _open()


def _open() -> Client:
    global client
    with _lock:
        if client is None and _many:
            return _session_on(selected())
        if client is None:
            client = _kept(opener())
        return client


def _kept(opened: Client) -> Client:
    place = os.environ.get("BITFUSION_REPORT")
    _opened.append((opened, Report(opened, place) if place else None))
    _close_at_end()
    return opened


def _session_on(number: int) -> Client:
    """The session on a GPU of the lease, opened if there is none."""
    with _lock:
        if number not in _many:
            assert _lease is not None, "several GPUs are a lease's"
            _many[number] = _kept(_lease.connect(number))
        return _many[number]


# several GPUs


def count() -> int:
    """GPUs that there are to select. Raises the ConnectError branch."""
    with _lock:
        some = current()
        return _lease.count if _lease is not None and _is_opened_here(some) else 1


def selected() -> int:
    """The number of the thread's current GPU."""
    return getattr(_of_thread, "number", 0) if _many else 0


def select(number: int) -> None:
    """Make GPU ``number`` the thread's current one. InvalidValueError if there is none."""
    global client
    with _lock:
        if number == selected():
            return
        if not 0 <= number < count():
            raise _no_device(number)
        if not _many:
            assert client is not None, "count has opened it"
            _many[0], client = client, None
        _of_thread.number = number


def _no_device(number: int) -> InvalidValueError:
    there = "one GPU, number 0" if count() == 1 else f"{count()} GPUs, numbers 0 to {count() - 1}"
    return InvalidValueError(f"there is no device {number}: this program has leased {there}", feature="device")


def push(number: int) -> None:
    """Select GPU ``number`` until ``pop``. InvalidValueError if there is none."""
    before = selected()
    select(number)
    _of_thread.__dict__.setdefault("before", []).append(before)


def pop() -> None:
    """Select the GPU that was the thread's before the last ``push``."""
    before = _of_thread.before.pop()
    if _many:
        _of_thread.number = before


def on(number: int) -> Client:
    """The session on GPU ``number``, whichever is current. InvalidValueError if there is none."""
    with _lock:
        if number == selected():
            return current()
        if not 0 <= number < count():
            raise _no_device(number)
        if not _many:
            select(number)
            _of_thread.number = 0
        return _session_on(number)


def _close_at_end() -> None:
    """At the end of the program; a forked child of multiprocessing runs its own exit functions, in older Pythons no others."""
    atexit.register(_close_opened)  # after the client's own, so it runs before it
    multiprocessing = sys.modules.get("multiprocessing.util")
    if multiprocessing is not None:
        multiprocessing.Finalize(None, _close_opened, exitpriority=0)


class use:  # noqa: N801 (a function to those who call it)
    """Make ``client`` the current session: for a ``with`` block, or from now on if the result is thrown away.

    The session stays its owner's: ``close`` of this module puts it aside and does not end it.
    """

    def __init__(self, chosen: Client | None) -> None:
        global client
        with _lock:
            self._before, client = client, chosen
            self._opened_here = _is_opened_here(self._before)

    def __enter__(self) -> Client | None:
        return client

    def __exit__(self, *exc_info: object) -> None:
        global client
        with _lock:
            ended = self._opened_here and not _is_opened_here(self._before)  # by ``close``, in the block
            client = None if ended else self._before


def _is_opened_here(some: Client | None) -> bool:
    return any(some is opened for opened, _ in _opened)


def close() -> None:
    """End the session that was opened on first use, and put aside one given by ``use``. The next use opens another."""
    global client
    with _lock:
        client = None
        _close_opened()


def _close_opened() -> None:
    global _lease
    _many.clear()
    while _opened:
        opened, report = _opened.pop()
        atexit.unregister(_close_opened)
        if report is not None:
            report.write()
        opened.close()
    if _lease is not None:
        _lease.close()
        _lease = None


def _forget() -> None:
    """In a forked child: the session is the parent's, and so is its report."""
    global client, _lock, _lease
    client, _lock, _lease = None, threading.RLock(), None
    _many.clear()
    if _opened:
        _opened.clear()
        atexit.unregister(_close_opened)


os.register_at_fork(after_in_child=_forget)
