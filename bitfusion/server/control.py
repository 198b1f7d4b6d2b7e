"""One control connection: the daemon itself answers calls about leases and the pool (docs/reference/wire.md sections 4.5 and 6.2).

Calls are answered in order, one at a time, and nothing more is read while an answer is not sent; only requests for leases wait beside them.
Owns the connection and the leases that are held by it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque

from bitfusion.errors import BitfusionError, CapacityError, LeaseEndedError, RemoteProtocolError
from bitfusion.server.answers import Answers, holder_of, request_of
from bitfusion.server.held import Held
from bitfusion.server.leases import Leases
from bitfusion.session import fields
from bitfusion.session.asked import decode_asked
from bitfusion.session.hello import ControlWelcome, Hello
from bitfusion.session.server import Request, ServerSession
from bitfusion.session.waiting import Waiting
from bitfusion.types import Buffer
from bitfusion.version import WIRE_VERSION
from bitfusion.wire.connection import Connection
from bitfusion.wire.operations import Opcode
from bitfusion.wire.states import Role, State

log = logging.getLogger(__name__)

SEND_TIMEOUT_S = 30.0
"""A client that does not take an answer for so long is not there any more."""

REQUEST_COUNT_MAX = 64
"""Requests for leases of one connection that wait at a time."""


class ControlConnection:
    """One client's, from its welcome to its end."""

    def __init__(self, connection: socket.socket, hello: Hello, name: str, leases: Leases, answers: Answers) -> None:
        self._socket = connection
        self._hello = hello
        self._name = name
        self._leases = leases
        self._answers = answers
        self._session = ServerSession(Connection(Role.SERVER, state=State.GREETED), control=True)
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._granted: dict[int, Held] = {}
        """By the number of the request, as long as they are not free."""
        self._out: deque[tuple[list[Buffer], Held | None]] = deque()
        """Answers that are not sent yet, each with the lease that it grants, if any."""
        self._places: dict[int, Waiting] = {}
        """Of each request that waits, where it is, if it has not been told yet."""
        self._work = asyncio.Event()
        self._sent = asyncio.Event()

    async def serve(self) -> None:
        """Until the client says goodbye or hangs up; the leases held by the connection are free then. Raises a breach."""
        identity = self._answers.identity
        welcome = ControlWelcome(self._name, WIRE_VERSION, identity.id, identity.hostname)
        self._put(self._session.control_welcome(welcome))
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(self._send())
                await self._read(group)
                for task in self._requests.values():
                    task.cancel()
                sending.cancel()
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            await self._end_held()

    async def _read(self, group: asyncio.TaskGroup) -> None:
        session, loop = self._session, asyncio.get_running_loop()
        while True:
            while (event := session.next_event()) is not None:
                if isinstance(event, Request):
                    await self._answer(event, group)
                await self._flushed()
            if session.ended:
                return
            count = await loop.sock_recv_into(self._socket, session.get_buffer())
            if not count:
                return
            session.buffer_updated(count)

    async def _answer(self, request: Request, group: asyncio.TaskGroup) -> None:
        try:
            match request.opcode:
                case Opcode.LEASE_REQUEST:
                    self._begin(request, group)
                case Opcode.LEASE_CANCEL:
                    self._put(self._session.reply(request.number, await self._cancel(request.fields[0])))
                case _:
                    self._put(self._session.reply(request.number, await self._answers.answer(request)))
        except RemoteProtocolError:
            raise
        except BitfusionError as error:
            self._put(self._session.fail(request.number, error))

    # requests for leases

    def _begin(self, request: Request, group: asyncio.TaskGroup) -> None:
        if len(self._requests) >= REQUEST_COUNT_MAX:
            raise CapacityError(f"{REQUEST_COUNT_MAX} requests of this connection wait already")
        if request.number in self._requests:
            raise RemoteProtocolError(f"request {request.number} waits already")
        task = group.create_task(self._lease(request))
        self._requests[request.number] = task
        task.add_done_callback(lambda _: self._requests.pop(request.number, None))

    async def _lease(self, request: Request) -> None:
        """Ask, wait, and answer; cancelled by LEASE_CANCEL, or as the connection ends."""
        number = request.number
        asked, given = decode_asked(request.fields[0], "LEASE_REQUEST"), request.fields[0]
        ends_with_us = fields.boolean(fields.a_map(given, "LEASE_REQUEST"), "LEASE_REQUEST", "held")
        try:
            wanted, holder = request_of(asked), holder_of(self._hello)
            held = await self._leases.ask(
                wanted, holder, asked.wait, lambda place: self._place(number, place), held=ends_with_us
            )
        except BitfusionError as error:
            self._put(self._session.fail(number, error))
        else:
            self._granted = {key: lease for key, lease in self._granted.items() if not lease.free.is_set()}
            self._granted[number] = held
            if not ends_with_us:
                await self._kept(held)
            if held.free.is_set():
                self._put(self._session.fail(number, held.over()))
            else:
                self._put(self._session.reply(number, self._answers.granted(held)), held)
        finally:
            self._places.pop(number, None)

    async def _kept(self, held: Held) -> None:
        """Until the lease is in the store: who is told of it may rely on it, whatever happens to us."""
        try:
            await asyncio.wrap_future(self._leases.store.written())
        except asyncio.CancelledError:
            self._leases.end(held, "its request was withdrawn")
            raise

    def _place(self, number: int, place: Waiting) -> None:
        self._places[number] = place
        self._work.set()

    async def _cancel(self, number: object) -> bool:
        """Withdraw a request, or release what it was granted."""
        task = self._requests.get(number) if isinstance(number, int) else None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        held = self._granted.pop(number, None) if isinstance(number, int) else None
        if held is not None:
            self._leases.end(held, "its request was withdrawn")
            await held.free.wait()
        elif task is not None:
            error = LeaseEndedError("the request was withdrawn")
            self._put(self._session.fail(int(str(number)), error))
        return task is not None or held is not None

    async def _end_held(self) -> None:
        """Those that were to end with the connection, and those whose grant the client has not been told."""
        untold = {held.id for _, held in self._out if held is not None}
        live = [held for held in self._granted.values() if not held.free.is_set()]
        ours = [held for held in live if held.id in untold or self._leases.lease(held).held]
        for held in ours:
            self._leases.end(held, "its holder's connection ended")
        for held in ours:
            await held.free.wait()

    # sending

    def _put(self, buffers: list[Buffer], granted: Held | None = None) -> None:
        self._out.append((buffers, granted))
        self._sent.clear()
        self._work.set()

    async def _flushed(self) -> None:
        """Until all answers are sent; others' turn comes in any case."""
        await asyncio.sleep(0)
        if self._out:
            self._sent.clear()
            await self._sent.wait()

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._work.wait()
            self._work.clear()
            while self._out or self._places:
                if answer := bool(self._out):
                    buffers, _ = self._out[0]
                else:
                    number = next(iter(self._places))
                    buffers = self._session.waiting(self._places.pop(number), number)
                try:
                    async with asyncio.timeout(SEND_TIMEOUT_S):
                        await loop.sock_sendall(self._socket, b"".join(buffers))
                except TimeoutError:
                    raise ConnectionResetError(f"the client took no answer for {SEND_TIMEOUT_S:.0f} s") from None
                if answer:
                    self._out.popleft()
            self._sent.set()


def _first(errors: BaseExceptionGroup) -> BaseException:
    """One of the failures that ended the tasks."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
