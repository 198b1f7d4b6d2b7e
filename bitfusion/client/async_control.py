"""Control connections, the asyncio face: the operations of control.py under the same names, awaited."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from bitfusion.client import control_operations as operations
from bitfusion.client import embedded
from bitfusion.client.async_client import acquire
from bitfusion.client.control_operations import Grant
from bitfusion.client.greeting import CONNECT_TIMEOUT_S, Times, asked, control_hello, opening
from bitfusion.client.settings import target_of, token_of
from bitfusion.session.client import Operation
from bitfusion.session.hello import ControlWelcome
from bitfusion.session.waiting import OnWait
from bitfusion.transport.stream import AsyncTransport, open_session

T = TypeVar("T")


async def open_control(
    target: str | None = None,
    *,
    token: str | None = None,
    deadline: float | None = None,
    timeout: float = CONNECT_TIMEOUT_S,
    program: str | None = None,
) -> AsyncControl:
    """Connect to a server's daemon; parameters and errors are those of the blocking ``open_control``."""
    address, greeting, times = target_of(target), control_hello(token_of(token), program), Times.of(deadline, timeout)
    place = address if address is not None else await acquire()
    try:
        with opening(place):
            transport = await open_session(place, greeting, timeout_s=times.timeout_s)
    except BaseException:
        if address is None:
            embedded.release()
        raise
    return AsyncControl(transport, times.deadline_s, address is None)


class AsyncControl:
    """A connection to a server's daemon: leases are asked for on it, the pool is listed. For asyncio programs."""

    def __init__(self, transport: AsyncTransport, deadline_s: float | None, private: bool) -> None:
        self.deadline_s = deadline_s
        self._session = transport.session
        self._transport = transport
        self._private = private
        _open.add(self)

    async def run(self, operation: Operation[T]) -> T:
        """Run one operation to its end. DeadlineError if the connection's deadline passes; requests for a lease have none."""
        return await self._run(operation, self.deadline_s)

    async def _run(self, operation: Operation[T], deadline_s: float | None) -> T:
        return await self._transport.run(operation, deadline_s)

    @property
    def welcome(self) -> ControlWelcome:
        """What the daemon says of itself."""
        return self._session.control_welcome

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, for whatever reason."""
        return self._session.error is not None

    async def request(
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
        return await self._run(operation, None)

    async def release(self, lease: str, key: str) -> None:
        """End a lease; its memory is free when this returns. LeaseError for one that is not there, or another key."""
        await self.run(operations.release(self._session, lease, key))

    async def show(self, lease: str, key: str) -> Grant:
        """A lease that is there. LeaseError for one that is not, or another key."""
        return await self.run(operations.show(self._session, lease, key))

    async def list(self) -> dict[str, Any]:
        """Server, GPUs with their leases, and queue, as plain values (docs/reference/wire.md section 6.2)."""
        return await self.run(operations.pool(self._session))

    async def dealloc(
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
        return await self.run(operations.dealloc(self._session, which))

    async def quotas(self) -> Sequence[dict[str, Any]]:
        """All quotas, as plain values."""
        return await self.run(operations.quotas(self._session))

    async def set_quota(self, quota: Mapping[str, object]) -> None:
        """Set a quota, or take it away. ConfigError."""
        await self.run(operations.set_quota(self._session, quota))

    async def history(
        self, *, since: float | None = None, user: str | None = None, group: str | None = None, count: int | None = None
    ) -> Sequence[dict[str, Any]]:
        """Leases that have ended, the latest first: at most ``count``, since a time in seconds since 1970, of a user or group."""
        which = {"since": since, "user": user, "group": group, "count": count}
        return await self.run(operations.history(self._session, which))

    async def health(self) -> dict[str, Any]:
        """How the daemon is, as plain values."""
        return await self.run(operations.health(self._session))

    async def echo(self, data: bytes) -> bytes:
        """The same bytes back, from the daemon."""
        return await self.run(operations.echo(self._session, data))

    async def close(self) -> None:
        """End the connection; leases ``held`` by it are free when this returns. Safe to call again."""
        try:
            await self._transport.close()
        finally:
            if self._private:
                self._private = False
                await asyncio.get_running_loop().run_in_executor(None, embedded.release)

    async def __aenter__(self) -> AsyncControl:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


_open: weakref.WeakSet[AsyncControl] = weakref.WeakSet()


def _forget_all() -> None:
    """In a forked child: as the blocking face does."""
    for control in list(_open):
        control._private = False
        control._transport.forget()


os.register_at_fork(after_in_child=_forget_all)
