"""The server of one appliance: from an accepted connection to a worker that serves it, and from its end to a free lease.

One task per connection: read the hello within its time, admit the lease, hand the socket to a worker, wait for the worker's end,
free the lease. The server keeps a duplicate of the socket only to tell the client why a worker died.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import secrets
import signal
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from bitfusion import limits
from bitfusion.errors import (
    OPEN_ANOTHER,
    BitfusionError,
    DeadlineError,
    RemoteProtocolError,
    SessionError,
    VersionMismatchError,
    WorkerDiedError,
)
from bitfusion.pool.lease import Lease, LeaseEvent
from bitfusion.pool.ledger import Ledger
from bitfusion.pool.pool import Pool
from bitfusion.pool.request import LeaseRequest
from bitfusion.server.ledgers import Ledgers
from bitfusion.server.workers import Workers
from bitfusion.session.hello import Hello
from bitfusion.session.server import ServerSession
from bitfusion.types import KernelRules
from bitfusion.version import WIRE_VERSION, WIRE_VERSIONS
from bitfusion.wire.connection import Connection
from bitfusion.wire.states import Role, State
from bitfusion.worker.process import Assignment

log = logging.getLogger(__name__)

GREETING_COUNT_MAX = 256
"""Connections that have not said hello yet: more are turned away, so that silent ones cannot use up descriptors."""

GOODBYE_TIMEOUT_S = 1.0
"""How long a stop waits for a worker's end before its client is told: two must not write to one connection. It takes milliseconds."""

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What stands in the way of every connection, not only of the next."""

ACCEPT_RETRY_DELAY_S = 1.0
"""As asyncio's own servers do (ACCEPT_RETRY_DELAY): there is no event for descriptors that come free."""

STOPPED = f"the appliance was stopped; the session's memory and kernels are gone; once it is back {OPEN_ANOTHER}"


class Server:
    """Serves connections that ``serve`` is given until it is cancelled."""

    def __init__(self, pool: Pool, workers: Workers, cache_dir: Path | None, rules: KernelRules) -> None:
        self._pool = pool
        self._workers = workers
        self._ledgers = Ledgers([item.device for item in pool.view()])
        self._cache_dir = cache_dir
        self._rules = rules
        self._greeting = 0

    async def serve(self, listener: socket.socket) -> None:
        """Accept for ever; connections end with this task."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:
                    if error.errno in EXHAUSTED:
                        log.error("! cannot accept connections: %s; waiting for descriptors to come free", error)
                        await asyncio.sleep(ACCEPT_RETRY_DELAY_S)
                    continue  # anything else is one connection's that broke while it waited (accept(2))
                group.create_task(self._connected(connection))

    async def _connected(self, connection: socket.socket) -> None:
        """The whole life of one connection; nothing it does may reach beyond it."""
        with connection:
            connection.setblocking(False)
            session = ServerSession()
            try:
                with self._turnstile():
                    hello = await self._hello(session, connection)
                with self._leased(hello) as lease:
                    await self._serve(lease, connection)
            except BitfusionError as error:
                log.info("! refused: %s", error)
                _send_failure(session, connection, error)
            except OSError as error:
                log.info("! a connection ended early: %s", error)
            except Exception:
                log.exception("! a fault of the server's own ended one connection")

    @contextlib.contextmanager
    def _turnstile(self) -> Iterator[None]:
        if self._greeting >= GREETING_COUNT_MAX:
            raise BitfusionError(f"over {GREETING_COUNT_MAX} connections are waiting to say hello; try again")
        self._greeting += 1
        try:
            yield
        finally:
            self._greeting -= 1

    async def _hello(self, session: ServerSession, connection: socket.socket) -> Hello:
        """The client's hello, of a version we speak, with nothing behind it."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(limits.HELLO_TIMEOUT_S):
                while (hello := session.hello()) is None:
                    count = await loop.sock_recv_into(connection, session.get_buffer())
                    if not count:
                        raise ConnectionResetError("closed before the hello")
                    session.buffer_updated(count)
        except TimeoutError:
            raise DeadlineError(f"no hello came within {limits.HELLO_TIMEOUT_S:.0f} s") from None
        if session.connection.buffered:
            raise RemoteProtocolError("nothing may follow a hello before the welcome")
        if WIRE_VERSION not in hello.versions:
            raise VersionMismatchError(
                f"the client ({hello.software}) speaks wire versions {hello.versions}, this server {WIRE_VERSIONS}: "
                "install the same release of bitfusion on both"
            )
        return hello

    @contextlib.contextmanager
    def _leased(self, hello: Hello) -> Iterator[Lease]:
        """A lease for as long as the block runs."""
        lease = self._pool.admit(LeaseRequest(gpus=hello.gpus, memory=hello.memory, fraction=hello.fraction))
        log.info("lease %s: %s@%s %s", lease.id, hello.user, hello.hostname, lease)
        try:
            self._ledgers.open(lease)
            yield lease
        finally:
            self._ledgers.close(lease.id)
            self._pool.release(lease.id)
            log.info("lease %s: released", lease.id)

    async def _serve(self, lease: Lease, connection: socket.socket) -> None:
        """Hand the connection to a worker and wait until that has ended."""
        with self._ledgers.session(lease.id) as (ledger, row):
            await self._work(lease, connection, ledger, row)

    async def _work(self, lease: Lease, connection: socket.socket, ledger: Ledger, row: int) -> None:
        (share,) = lease.shares
        assignment = Assignment(
            session_id=secrets.token_hex(8),
            spec=asdict(share.device),
            row=row,
            memory_limit=share.memory,
            cache_dir=None if self._cache_dir is None else str(self._cache_dir),
            rules=asdict(self._rules),
        )
        worker = await self._workers.spawn(assignment, connection, ledger.descriptor)
        self._pool.advance(lease.id, LeaseEvent.START)
        try:
            code = await asyncio.shield(worker.ended)
        except asyncio.CancelledError:
            self._pool.advance(lease.id, LeaseEvent.END)
            worker.dismiss()  # should it stay, Workers.stop sees to its end
            if (await asyncio.wait([worker.ended], timeout=GOODBYE_TIMEOUT_S))[0]:
                _send_failure(_taken_over(), connection, SessionError(STOPPED))
            raise
        if code != 0:
            how = _death(code)
            log.warning("! session %s: its worker %d died %s", assignment.session_id, worker.pid, how)
            _send_failure(_taken_over(), connection, WorkerDiedError(_obituary(assignment.session_id, worker.pid, how)))


def _taken_over() -> ServerSession:
    """What speaks for a session whose worker is gone."""
    return ServerSession(Connection(Role.SERVER, state=State.OPEN))


def _death(code: int | None) -> str:
    """How a worker ended."""
    if code is None:
        return "for a reason nobody saw"
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def _obituary(session_id: str, pid: int, how: str) -> str:
    """The end of a worker, for its client."""
    return (
        f"the worker that held this session died {how}; its memory and kernels are gone, {OPEN_ANOTHER}. "
        f"The appliance's log may say why: worker {pid}, session {session_id}"
    )


def _send_failure(session: ServerSession, connection: socket.socket, error: BitfusionError) -> None:
    """Tell the client, if its socket takes it at once."""
    with contextlib.suppress(OSError, BitfusionError):
        connection.send(b"".join(session.fail(0, error)))
        connection.shutdown(socket.SHUT_WR)
