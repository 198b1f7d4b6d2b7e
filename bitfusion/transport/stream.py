"""The asyncio face: a session on an asyncio transport (uvloop's, where it runs the loop), and the protocol both ends share.

``StreamProtocol`` joins a sans-I/O core to a socket: two calls forward the bytes, write buffers count as sent when the
transport has drained (``drained``). ``AsyncTransport`` runs the client's operations on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from typing import Protocol, TypeVar, cast

from bitfusion import limits
from bitfusion.errors import BitfusionError, ConnectionLostError, DeadlineError, SessionClosedError
from bitfusion.session.client import Call, ClientSession, Operation, Wait
from bitfusion.session.hello import Hello
from bitfusion.session.waiting import OnWait
from bitfusion.transport import address
from bitfusion.transport.address import Target
from bitfusion.types import Buffer

T = TypeVar("T")

CLOSE_TIMEOUT_S = 10.0
"""How long to wait for the server to confirm the end; it frees everything in any case."""

ABANDON_TIMEOUT_S = 1.0
"""The same where the program's last wait was cancelled: what it waited for, it does not want any more."""


class Peer(Protocol):
    """Who lives on a stream: takes received bytes and learns when sent ones have left."""

    def get_buffer(self) -> memoryview: ...

    def buffer_updated(self, count: int) -> None: ...

    def drained(self) -> None: ...

    def lost(self, error: OSError | None) -> None: ...


class StreamProtocol(asyncio.BufferedProtocol):
    """One connection of one peer. With a write limit of zero, ``paused`` means: something is not sent yet."""

    def __init__(self, peer: Peer) -> None:
        self.paused = False
        self._reading = True
        self._peer = peer
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own is not a subclass of it
        self._transport.set_write_buffer_limits(high=0)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._peer.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self._peer.buffer_updated(nbytes)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._peer.drained()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._peer.lost(exc if isinstance(exc, OSError) else None)

    def send(self, buffers: list[Buffer]) -> None:
        """Hand the buffers over; they belong to the transport until ``drained``, or at once if not ``paused``."""
        if self._transport is not None and buffers:
            self._transport.writelines(buffers)

    def pause_reading(self) -> None:
        """Stop receiving; what the kernel holds waits."""
        if self._transport is not None and self._reading:
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Receive again."""
        if self._transport is not None and not self._reading:
            self._reading = True
            self._transport.resume_reading()

    def close(self) -> None:
        """Close once everything handed over is sent."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def forget(self) -> None:
        """In a forked child: nothing takes the place of the socket, so that the loop's own books of its descriptor stay right."""
        if self._transport is not None:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, self._transport.get_extra_info("socket").fileno(), inheritable=False)
            os.close(nothing)


class AsyncTransport:
    """One client session on the running event loop."""

    def __init__(self, session: ClientSession) -> None:
        self.session = session
        self._loop = asyncio.get_running_loop()
        self._stream = StreamProtocol(self)
        self._calls: dict[Call, asyncio.Future[None]] = {}
        self._abandoned = False  # the last wait for an answer was cancelled
        self._waiters: list[asyncio.Future[None]] = []
        self._closed = self._loop.create_future()
        self.printed: Callable[[], None] | None = None
        """Called by the loop when kernels have printed, before whoever waits for them goes on."""

    # life

    async def open(self, target: Target, hello: Hello, timeout_s: float, on_wait: OnWait | None = None) -> None:
        """Connect, say hello and wait for the welcome. Time in the server's queue does not count."""
        try:
            async with asyncio.timeout(timeout_s) as limit:
                await self._connect(target, min(timeout_s, address.CONNECT_TIMEOUT_S))
                self._stream.send(self.session.hello(hello))
                while not self.session.opened and self.session.error is None:
                    await self._progress()
                    while self.session.news:
                        waiting = self.session.news.popleft()
                        limit.reschedule(None if waiting.position else self._loop.time() + timeout_s)
                        if on_wait is not None:
                            on_wait(waiting)
            if self.session.error is not None:
                raise self.session.error.again()
        except TimeoutError:
            self._stream.abort()
            raise DeadlineError(f"the server {target} did not answer the hello within {timeout_s:.0f} s") from None
        except BaseException:
            self._stream.abort()
            raise
        self.session.wake = self._wake

    async def _connect(self, target: Target, timeout_s: float) -> None:
        """Connect in a thread, where names are resolved too; should nobody wait any longer, the socket is closed there."""
        connecting = self._loop.run_in_executor(None, address.connect, target, timeout_s)
        try:
            sock = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(_close_late)
            raise
        sock.setblocking(False)
        await self._loop.create_connection(lambda: self._stream, sock=sock)

    async def close(self) -> None:
        """End the session: what was posted is sent, and when this returns the lease is free again. Safe to call again.

        Not so after CLOSE_TIMEOUT_S, or ABANDON_TIMEOUT_S after a cancelled wait: then the server ends what still runs.
        """
        try:
            with contextlib.suppress(TimeoutError, BitfusionError):
                async with asyncio.timeout(ABANDON_TIMEOUT_S if self._abandoned else CLOSE_TIMEOUT_S):
                    await self.wait(Wait.SENT)
                    self._stream.send(self.session.goodbye())
                    await asyncio.shield(self._closed)  # the server hangs up once all is freed
        finally:
            self.session.wake = None
            self._stream.abort()
            self.session.end(SessionClosedError("the session is closed; connect again"))

    def forget(self) -> None:
        """In a forked child: the session is the parent's. Give up this copy of its socket without a word to the server."""
        self.session.wake = None
        self.session.end(SessionClosedError("the session belongs to the parent process; connect again in the child"))
        self._stream.forget()

    # operations

    async def run(self, operation: Operation[T], deadline_s: float | None = None) -> T:
        """Drive ``operation`` to its end and return its value. DeadlineError after ``deadline_s`` seconds."""
        try:
            wait = next(operation)
            while True:
                try:
                    await self._wait_until(wait, deadline_s)
                except BitfusionError as error:
                    wait = operation.throw(error)
                else:
                    wait = operation.send(None)
        except StopIteration as stop:
            value: T = stop.value
            return value
        except BaseException:
            operation.close()  # now, not when the traceback goes
            raise

    async def _wait_until(self, wait: Call | Wait, deadline_s: float | None) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                await self.wait(wait)
        except TimeoutError:
            raise DeadlineError("the server did not answer in time") from None

    async def wait(self, wait: Call | Wait) -> None:
        """Send what is queued and wait until ``wait`` is over."""
        self.flush()
        started = time.perf_counter_ns()
        if isinstance(wait, Call):
            await self._wait_call(wait)
            transfer = bool(wait.filled)
        else:
            transfer = wait is Wait.SENT
            while self.session.error is None and self._unsent(wait):
                await self._progress()
        elapsed = time.perf_counter_ns() - started
        if transfer:
            self.session.metrics.transfer_ns += elapsed
        else:
            self.session.metrics.wait_ns += elapsed
        if self.session.error is not None and not isinstance(wait, Call):
            raise self.session.error.again()

    async def _wait_call(self, call: Call) -> None:
        if call.done:
            return
        future = self._calls[call] = self._loop.create_future()
        try:
            await future
            self._abandoned = False
        except asyncio.CancelledError:
            self._abandoned = True
            self.session.abandon(call)
            raise
        finally:
            self._calls.pop(call, None)

    def _unsent(self, wait: Wait) -> bool:
        self.flush()
        return self._stream.paused or (self.session.full if wait is Wait.ROOM else self.session.queued > 0)

    async def _progress(self) -> None:
        """Wait until something was received, sent or lost."""
        future = self._loop.create_future()
        self._waiters.append(future)
        await future

    def flush(self) -> None:
        """Hand over what is queued, unless earlier buffers are still on their way."""
        if not self._stream.paused:
            self._stream.send(self.session.data_to_send())
        if self.session.error is None and self.session.wake is None:
            self.session.wake = self._wake

    def _wake(self) -> None:
        """Something was posted, perhaps from a finaliser: flush when the program goes back to the loop."""
        self.session.wake = None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.flush)

    # Peer

    def get_buffer(self) -> memoryview:
        return self.session.get_buffer()

    def buffer_updated(self, count: int) -> None:
        self.session.buffer_updated(count)
        if self.session.output and self.printed is not None:
            self._loop.call_soon(self.printed)
        self._notify()
        if self.session.error is not None:
            self._stream.abort()
        elif self.session.queued:
            self.flush()

    def drained(self) -> None:
        self.flush()
        self._notify()

    def lost(self, error: OSError | None) -> None:
        self.session.end(ConnectionLostError(address.lost(error)))
        if not self._closed.done():
            self._closed.set_result(None)
        self._notify()

    def _notify(self) -> None:
        for call, future in list(self._calls.items()):
            if call.done and not future.done():
                future.set_result(None)
        waiters, self._waiters = self._waiters, []
        for future in waiters:
            if not future.done():
                future.set_result(None)


def _close_late(connecting: asyncio.Future[socket.socket]) -> None:
    """The connection came after all."""
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()


async def open_session(
    target: Target,
    hello: Hello,
    *,
    timeout_s: float = address.CONNECT_TIMEOUT_S * 3,
    flush_delay_s: float = limits.FLUSH_DELAY_S,
    on_wait: OnWait | None = None,
) -> AsyncTransport:
    """Connect and open a session on the running loop. ResolveError, UnreachableError, and what the server refuses with.

    Posted work leaves when the program returns to the loop; ``flush_delay_s`` is there for the blocking face's sake.
    """
    transport = AsyncTransport(ClientSession())
    await transport.open(target, hello, timeout_s, on_wait)
    return transport
