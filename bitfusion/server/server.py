"""The server of one appliance: from an accepted connection to a worker that serves it, and from its end to a free lease.

One task per connection: read the hello within its time, find the lease or ask for one, hand the socket to a worker, wait for the worker's
end, free the lease. The server keeps a duplicate of the socket only to tell the client why a worker died.
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
from typing import Any

from bitfusion import limits
from bitfusion.errors import (
    OPEN_ANOTHER,
    BitfusionError,
    CapacityError,
    ConfigError,
    DeadlineError,
    RemoteProtocolError,
    SessionError,
    VersionMismatchError,
    WorkerDiedError,
)
from bitfusion.server.answers import Answers, holder_of, request_of
from bitfusion.server.control import ControlConnection
from bitfusion.server.held import Held
from bitfusion.server.leases import Leases
from bitfusion.server.listing import Identity
from bitfusion.server.places import Places
from bitfusion.server.workers import Worker, Workers
from bitfusion.session.hello import Hello, Purpose
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

CONTROL_COUNT_MAX = 4096
"""Control connections: as many as requests can wait on; each holds a reading buffer."""

FOLLOWED = "nothing may follow a hello before the welcome"

STOPPED = f"the appliance was stopped; the session's memory and kernels are gone; once it is back {OPEN_ANOTHER}"


class Server:
    """Serves connections that ``serve`` is given until it is cancelled."""

    def __init__(
        self, leases: Leases, identity: Identity, workers: Workers, cache_dir: Path | None, rules: KernelRules
    ) -> None:
        self._leases = leases
        self._answers = Answers(leases, identity, workers)
        self._workers = workers
        self._cache_dir = cache_dir
        self._rules = rules
        self._greeting = 0
        self._controls = 0

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
                    hello = await _hello(session, connection)
                session = ServerSession(Connection(Role.SERVER, state=State.GREETED))  # without the buffer
                if hello.purpose == Purpose.CONTROL:
                    await self._control(hello, connection)
                else:
                    await self._session(hello, connection, session)
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

    async def _control(self, hello: Hello, connection: socket.socket) -> None:
        if self._controls >= CONTROL_COUNT_MAX:
            raise CapacityError(f"{CONTROL_COUNT_MAX} control connections are open already; try again")
        control = ControlConnection(connection, hello, secrets.token_hex(4), self._leases, self._answers)
        self._controls += 1
        try:
            await control.serve()
        except BitfusionError as error:
            log.info("! a control connection broke the protocol: %s", error)
            _send_failure(_taken_over(), connection, error)
        except asyncio.CancelledError:
            _send_failure(_taken_over(), connection, SessionError(STOPPED))
            raise
        finally:
            self._controls -= 1

    async def _session(self, hello: Hello, connection: socket.socket, session: ServerSession) -> None:
        """On the lease that the hello names, or on one of its own, which ends with it."""
        if hello.lease is not None:
            await self._serve(self._leases.find(hello.lease, hello.key or ""), hello, connection)
            return
        held = await self._ask(hello, connection, session)
        try:
            await self._serve(held, hello, connection)
        finally:
            self._leases.end(held, "its session ended")

    async def _ask(self, hello: Hello, connection: socket.socket, session: ServerSession) -> Held:
        """A lease for one session, which may wait for it; a client that hangs up meanwhile is gone at once."""
        if hello.gpus > 1:
            raise CapacityError(
                f"{hello.gpus} GPUs were asked for; a session is on 1 GPU: lease them on a control connection, and open a session for each"
            )
        places = Places(session, connection)
        asking = asyncio.ensure_future(self._leases.ask(request_of(hello), holder_of(hello), hello.wait, places.tell))
        await asyncio.sleep(0)
        if asking.done():
            return asking.result()
        gone = asyncio.ensure_future(_gone(connection))
        waits: list[asyncio.Future[Any]] = [asking, gone]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            await asyncio.wait([gone])
            if not gone.cancelled():
                gone.result()
            if asking.exception() is None:
                await places.flush()
            return asking.result()
        except BaseException as error:
            gone.cancel()
            await _withdrawn(asking, self._leases)
            if isinstance(error, asyncio.CancelledError):
                _send_failure(session, connection, SessionError(STOPPED))
            raise

    async def _serve(self, held: Held, hello: Hello, connection: socket.socket) -> None:
        """Hand the connection to a worker and wait until that has ended, or the lease is to."""
        if held.ending.is_set():
            raise held.over()
        lease = self._leases.lease(held)
        if not 0 <= hello.gpu < len(lease.shares):
            raise ConfigError(
                f"the lease has {len(lease.shares)} GPUs, numbered from 0: there is no number {hello.gpu}"
            )
        share, session_id = lease.shares[hello.gpu], secrets.token_hex(8)
        with self._leases.session(held, hello.gpu, session_id, holder_of(hello)) as (ledger, row):
            assignment = Assignment(
                session_id=session_id,
                spec=asdict(share.device),
                row=row.row,
                memory_limit=share.memory,
                cache_dir=None if self._cache_dir is None else str(self._cache_dir),
                rules=asdict(self._rules),
            )
            worker = await self._workers.spawn(assignment, connection, ledger.descriptor)
            row.pid = worker.pid
            with self._leases.ledgers.residence(lease, hello.gpu).place(row.row, worker):
                await self._attend(held, session_id, worker, connection)

    async def _attend(self, held: Held, session_id: str, worker: Worker, connection: socket.socket) -> None:
        """Until the worker has ended; its client is told why, where that was not the client's own wish."""
        ending = asyncio.ensure_future(held.ending.wait())
        try:
            ends: list[asyncio.Future[Any]] = [worker.ended, ending]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not worker.ended.done():
                await worker.stop()
                _send_failure(_taken_over(), connection, held.over())
                return
        except asyncio.CancelledError:
            worker.dismiss()  # should it stay, Workers.stop sees to its end
            if (await asyncio.wait([worker.ended], timeout=GOODBYE_TIMEOUT_S))[0]:
                _send_failure(_taken_over(), connection, SessionError(STOPPED))
            raise
        finally:
            ending.cancel()
        code = worker.ended.result()
        if code != 0:
            how = _death(code)
            log.warning("! session %s: its worker %d died %s", session_id, worker.pid, how)
            _send_failure(_taken_over(), connection, WorkerDiedError(_obituary(session_id, worker.pid, how)))


async def _hello(session: ServerSession, connection: socket.socket) -> Hello:
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
        raise RemoteProtocolError(FOLLOWED)
    if WIRE_VERSION not in hello.versions:
        raise VersionMismatchError(
            f"the client ({hello.software}) speaks wire versions {hello.versions}, this server {WIRE_VERSIONS}: "
            "install the same release of bitfusion on both"
        )
    return hello


async def _gone(connection: socket.socket) -> None:
    """Raises once the client of a request that waits has hung up, or says something it may not."""
    if await asyncio.get_running_loop().sock_recv(connection, 1):
        raise RemoteProtocolError(FOLLOWED)
    raise ConnectionResetError("the client hung up while it waited")


async def _withdrawn(asking: asyncio.Future[Held], leases: Leases) -> None:
    """Nobody wants the lease any more; should it have been granted in the same moment, it ends."""
    asking.cancel()
    await asyncio.wait([asking])
    if not asking.cancelled() and asking.exception() is None:
        leases.end(asking.result(), "its client went away")


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
