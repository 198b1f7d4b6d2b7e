"""Control connections, the blocking face: ``open_control`` and what it gives. Nothing here needs NumPy: commands start faster without."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from bitfusion.client import control_operations as operations
from bitfusion.client import embedded
from bitfusion.client.control_operations import Grant as Grant
from bitfusion.client.greeting import CONNECT_TIMEOUT_S, Times, asked, control_hello, opening
from bitfusion.client.settings import target_of, token_of
from bitfusion.errors import BitfusionError
from bitfusion.session.client import Operation
from bitfusion.session.hello import ControlWelcome
from bitfusion.session.waiting import OnWait
from bitfusion.transport.blocking import BlockingTransport, open_session

T = TypeVar("T")


def open_control(
    target: str | None = None,
    *,
    token: str | None = None,
    deadline: float | None = None,
    timeout: float = CONNECT_TIMEOUT_S,
    program: str | None = None,
) -> Control:
    """Connect to the daemon of the server ``target``, by default BITFUSION_SERVER's, else of the private appliance.

    ``deadline`` bounds each later call but a request for a lease, ``timeout`` the opening, in seconds. ``program``: what leases are
    listed as being for, by default this program's name. Raises the ConnectError branch, ConfigError.
    """
    address, greeting, times = target_of(target), control_hello(token_of(token), program), Times.of(deadline, timeout)
    place = address or embedded.acquire()
    try:
        with opening(place):
            transport = open_session(place, greeting, timeout_s=times.timeout_s)
    except BaseException:
        if address is None:
            embedded.release()
        raise
    return Control(transport, times.deadline_s, address is None)


class Control:
    """A connection to a server's daemon: leases are asked for on it, the pool is listed. Threads may share it: they take turns."""

    def __init__(self, transport: BlockingTransport, deadline_s: float | None, private: bool) -> None:
        self.deadline_s = deadline_s
        self._session = transport.session
        self._transport = transport
        self._private = private
        self._lock = threading.RLock()
        self._finalizer = weakref.finalize(self, _close, transport, private)
        _open.add(self)

    def run(self, operation: Operation[T]) -> T:
        """Run one operation to its end. DeadlineError if the connection's deadline passes; requests for a lease have none."""
        return self._run(operation, self.deadline_s)

    def _run(self, operation: Operation[T], deadline_s: float | None) -> T:
        with self._lock:
            return self._transport.run(operation, deadline_s)

    @property
    def welcome(self) -> ControlWelcome:
        """What the daemon says of itself."""
        return self._session.control_welcome

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, for whatever reason."""
        return self._session.error is not None

    def request(
        self,
        *,
        gpus: int = 1,
        memory: int | str | None = None,
        fraction: float | None = None,
        exclusive: bool = False,
        filters: Iterable[str] | str = (),
        priority: int = 0,
        weight: int = 100,
        cap: int | None = None,
        lifetime: float | None = None,
        wait: float | None = None,
        held: bool = False,
        on_wait: OnWait | None = None,
    ) -> Grant:
        """A lease, perhaps after a time in the queue: of ``gpus`` GPUs, of each ``memory`` bytes or a ``fraction``, by default all.

        ``exclusive``: nobody else on them. ``filters`` say which GPUs will do, ``priority`` who is served first, ``weight`` what
        part of a busy GPU's time the lease has beside the usual 100, ``cap`` at most how many per cent. It ends after ``lifetime``
        seconds, with this connection if ``held``, and by ``release``. ``wait``: seconds it may wait, 0 for not at all, by default as
        long as it takes; ``on_wait`` is told of each place in the queue. Raises the ConnectError branch, ConfigError.
        """
        given: dict[str, object] = {
            "gpus": gpus,
            "memory": memory,
            "fraction": fraction,
            "exclusive": exclusive,
            "filters": filters,
        }
        given |= {
            "priority": priority,
            "weight": weight,
            "cap": cap,
            "lifetime": lifetime,
            "wait": 0 if self._private else wait,
        }
        operation = operations.request_lease(self._session, asked(**given), held, on_wait)  # type: ignore[arg-type]  # named above
        return self._run(operation, None)

    def release(self, lease: str, key: str) -> None:
        """End a lease; its memory is free when this returns. LeaseError for one that is not there, or another key."""
        self.run(operations.release(self._session, lease, key))

    def show(self, lease: str, key: str) -> Grant:
        """A lease that is there. LeaseError for one that is not, or another key."""
        return self.run(operations.show(self._session, lease, key))

    def list(self) -> dict[str, Any]:
        """Server, GPUs with their leases, and queue, as plain values (docs/reference/wire.md section 6.2)."""
        return self.run(operations.pool(self._session))

    def dealloc(
        self,
        *,
        lease: str | None = None,
        user: str | None = None,
        group: str | None = None,
        hostname: str | None = None,
        gpu: str | None = None,
        everything: bool = False,
    ) -> Sequence[str]:
        """End leases, whoever's they are: those of which all that is given holds (``gpu``: a uuid), or ``everything``. Their ids."""
        which = {
            "lease": lease,
            "user": user,
            "group": group,
            "hostname": hostname,
            "gpu": gpu,
            "everything": everything,
        }
        return self.run(operations.dealloc(self._session, which))

    def quotas(self) -> Sequence[dict[str, Any]]:
        """All quotas, as plain values."""
        return self.run(operations.quotas(self._session))

    def set_quota(self, quota: Mapping[str, object]) -> None:
        """Set a quota, or take it away. ConfigError."""
        self.run(operations.set_quota(self._session, quota))

    def history(
        self, *, since: float | None = None, user: str | None = None, group: str | None = None, count: int | None = None
    ) -> Sequence[dict[str, Any]]:
        """Leases that have ended, the latest first: at most ``count``, since a time in seconds since 1970, of a user or group."""
        which = {"since": since, "user": user, "group": group, "count": count}
        return self.run(operations.history(self._session, which))

    def health(self) -> dict[str, Any]:
        """How the daemon is, as plain values."""
        return self.run(operations.health(self._session))

    def echo(self, data: bytes) -> bytes:
        """The same bytes back, from the daemon."""
        return self.run(operations.echo(self._session, data))

    def fileno(self) -> int:
        """The socket's descriptor, for those that wait for more than this connection."""
        return self._transport.fileno()

    def look(self) -> BitfusionError | None:
        """What has ended the connection, if it has: without waiting, and without asking the daemon."""
        return self._transport.look()

    def close(self) -> None:
        """End the connection; leases ``held`` by it are free when this returns. Safe to call again."""
        with self._lock:
            self._finalizer()

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


_open: weakref.WeakSet[Control] = weakref.WeakSet()


def _close(transport: BlockingTransport, private: bool) -> None:
    """The end of a connection: closed, dropped, or open at the end of the program."""
    try:
        transport.close()
    finally:
        if private:
            embedded.release()


def _forget_all() -> None:
    """In a forked child: the connections are the parent's; the child's copies of their sockets must not keep leases alive."""
    for control in list(_open):
        control._finalizer.detach()
        control._lock = threading.RLock()
        control._transport.forget()


os.register_at_fork(after_in_child=_forget_all)
