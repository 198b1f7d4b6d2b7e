"""The client's side of a session: operations go into a queue, calls come back done. Sans-I/O.

Posted operations are packed as they come and leave together, many to a frame; a call leaves behind all that was posted
before it. The queue is a deque, so that posting needs no lock; sending and receiving belong to one thread at a time, which the
transport sees to. Failures of posted work arrive as the failure of a later call.

An operation of the client is a generator that yields what it waits for: a ``Call`` until it is done, ``Wait.ROOM`` until the
session is no longer ``full``, ``Wait.SENT`` until all that is queued has left (so that the caller's memory may change).

An interrupt anywhere in here loses nothing, by the rule of wire/connection.py: an entry leaves the queue in the same run of
assignments in which its frame goes to the sender, and an event from the connection stands until what it means is stored; should it be
handled twice, that is as once. ``settle`` goes on where an interrupt struck.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from enum import Enum, auto
from itertools import islice
from typing import TypeAlias, TypeVar

from bitfusion import limits
from bitfusion.errors import BitfusionError, RemoteProtocolError, SessionClosedError, decode
from bitfusion.metrics import SessionMetrics
from bitfusion.session.hello import (
    ControlWelcome,
    Hello,
    Purpose,
    Welcome,
    decode_control_welcome,
    decode_welcome,
    encode_hello,
)
from bitfusion.session.output import STDERR, STDOUT, Output
from bitfusion.session.waiting import Waiting, decode_waiting
from bitfusion.types import Buffer
from bitfusion.wire import codec
from bitfusion.wire.connection import Connection, PayloadEnd
from bitfusion.wire.frames import Flag, Frame, Kind
from bitfusion.wire.operations import Field, Opcode
from bitfusion.wire.states import Role, State

T = TypeVar("T")

QUEUE_COUNT_MIN, QUEUE_COUNT_MAX = 2, 512
"""Posted operations that may wait in the queue before the session calls itself full.

After a call the worker is idle, so the first operations leave almost at once and it works while more are posted; then each batch
may be twice as long as the one before, up to about one socket write.
"""

REQUEST_MAX = 2**32 - 1

NEWS_COUNT_MAX = 16
"""Places in the queue that nobody has looked at yet; older ones are of no interest."""


class Wait(Enum):
    """What an operation may wait for besides a call."""

    ROOM = auto()
    SENT = auto()


class Call:
    """A request that waits for its answer. ``into`` is the caller's memory for the payload of a read."""

    __slots__ = ("_error", "_value", "done", "filled", "into", "opcode", "request")

    def __init__(self, request: int, opcode: int, into: memoryview | None = None) -> None:
        self.request = request
        self.opcode = opcode
        self.into = into
        self.filled = 0
        self.done = False
        self._value: Field = None
        self._error: BitfusionError | None = None

    def result(self) -> Field:
        """The reply's value; raises the failure. Only once ``done``."""
        if self._error is not None:
            raise self._error.again()
        return self._value

    def finish(self, value: Field = None, error: BitfusionError | None = None) -> None:
        """The answer has come."""
        self._value, self._error, self.done, self.into = value, error, True, None


class QueuedCall(Call):
    """A request for a lease, which may wait in the server's queue: ``done`` as well while there is ``news`` of its place there."""

    __slots__ = ("answered", "news")

    def __init__(self, request: int, opcode: int) -> None:
        self.answered = False
        self.news: deque[Waiting] = deque(maxlen=NEWS_COUNT_MAX)
        super().__init__(request, opcode)

    @property  # and so nothing that waits for a call needs to know of news
    def done(self) -> bool:
        """Whether to look: at the news, or at the answer where there are none."""
        return self.answered or bool(self.news)

    @done.setter
    def done(self, value: bool) -> None:
        self.answered = value


Operation: TypeAlias = Generator[Call | Wait, None, T]

Entry: TypeAlias = bytes | tuple[Call, int, bytes] | tuple[int, int, bytes, memoryview]
"""In the queue: a packed posted operation; a call with stream and metadata; or (opcode, stream, metadata, payload)."""


class ClientSession:
    """One session, or control connection, from the client's end. ``welcome`` is there once the hello has been answered."""

    def __init__(self) -> None:
        self.metrics = SessionMetrics()
        self.error: BitfusionError | None = None
        """Why the session ended, once it has."""
        self.wake: Callable[[], None] | None = None
        """Asked for once when something is posted to a session that nobody is about to flush."""
        self.turn: AbstractContextManager[object] = nullcontext()
        """Held by whoever takes in bytes; a transport that more than one thread may drive puts its lock here."""
        self.rcvd: list[int] = []
        """Bytes that have come to the last ``get_buffer`` and are not taken in yet: one count at most, put there by the receiver."""
        self.output = Output()
        """What kernels have printed and the program has not been shown."""
        self.torn = False
        """An interrupt struck a second time, where memory was being taken back: the session cannot go on."""
        self._connection = Connection(Role.CLIENT, self.metrics)
        self._event: Frame | PayloadEnd | None = None  # that is being handled
        self.news: deque[Waiting] = deque(maxlen=NEWS_COUNT_MAX)
        """Places of this session's request in the server's queue, before the welcome; whoever opens it shows them."""
        self._purpose: str = Purpose.SESSION
        self._welcome: Welcome | ControlWelcome | None = None
        self._queue: deque[Entry] = deque()
        self._calls: dict[int, Call] = {}
        self._request = 0
        self._receiving = 0  # the request whose payload is on its way into the caller's memory
        self._credits = 0
        self._queue_count_max = QUEUE_COUNT_MIN
        self._pack = codec.pack

    @property
    def welcome(self) -> Welcome:
        """What the server granted; SessionClosedError before it did."""
        if not isinstance(self._welcome, Welcome):
            raise self.error.again() if self.error else SessionClosedError("the session has not been opened yet")
        return self._welcome

    @property
    def control_welcome(self) -> ControlWelcome:
        """What the daemon says of itself, on a control connection; SessionClosedError before it did."""
        if not isinstance(self._welcome, ControlWelcome):
            raise self.error.again() if self.error else SessionClosedError("the connection has not been opened yet")
        return self._welcome

    @property
    def opened(self) -> bool:
        """Whether the welcome has come."""
        return self._welcome is not None

    @property
    def full(self) -> bool:
        """Whether to wait for ROOM before posting more."""
        return len(self._queue) >= self._queue_count_max

    @property
    def queued(self) -> int:
        """Entries that have not left yet."""
        return len(self._queue)

    @property
    def waiting(self) -> bool:
        """Whether answers are outstanding."""
        return bool(self._calls)

    # what a client asks for

    def post(self, opcode: int, stream: int, *fields: object) -> None:
        """Queue a posted operation. Raises the error that ended the session, if one has."""
        if self.error is not None:
            raise self.error.again()
        self._queue.append(self._pack((opcode, stream, *fields)))
        if self.wake is not None:
            self.wake()

    def post_payload(self, opcode: int, stream: int, *fields: object, payload: memoryview) -> None:
        """Queue a posted operation with a payload, which must not change until Wait.SENT is over."""
        if self.error is not None:
            raise self.error.again()
        self._queue.append((opcode, stream, codec.pack(fields), payload))

    def call(
        self,
        opcode: int,
        stream: int,
        *fields: object,
        into: memoryview | None = None,
        among: list[Call] | None = None,
    ) -> Call:
        """Queue a call; its reply's payload goes ``into`` the caller's memory. ``among`` has it before it is queued: to abandon it."""
        if self.error is not None:
            raise self.error.again()
        self._request = self._request % REQUEST_MAX + 1
        call = Call(self._request, opcode, into)
        entry = (call, stream, codec.pack(fields))
        if among is not None:
            among.append(call)
        self._calls[call.request] = call
        self._queue.append(entry)
        self._queue_count_max = QUEUE_COUNT_MIN
        self.metrics.calls += 1
        return call

    def request_lease(self, asked: object) -> QueuedCall:
        """Queue the call that asks for a lease on a control connection."""
        if self.error is not None:
            raise self.error.again()
        metadata = codec.pack((asked,))
        self._request = self._request % REQUEST_MAX + 1
        call = QueuedCall(self._request, Opcode.LEASE_REQUEST)
        self._calls[call.request] = call
        self._queue.append((call, 0, metadata))
        self.metrics.calls += 1
        return call

    def abandon(self, *calls: Call) -> None:
        """Nobody waits for ``calls`` any longer; an answer that still comes, or is just coming, is dropped."""
        with self.turn:
            self.torn = True  # if this is interrupted, later bytes could reach memory that the caller has taken back
            self.settle()
            for call in calls:
                if call.request in self._calls:
                    self._calls[call.request] = Call(call.request, call.opcode)
                if call.request == self._receiving:
                    self._connection.divert_payload()
            self.torn = False

    # sending

    def hello(self, hello: Hello) -> list[Buffer]:
        """The buffers that open the session."""
        self._purpose = hello.purpose
        return self._connection.send(Kind.HELLO, codec.pack(encode_hello(hello)))

    def goodbye(self) -> list[Buffer]:
        """The buffers that end the session, after all that is queued and allowed; none if it is not open."""
        if self.error is not None or self._connection.state is not State.OPEN:
            return []
        buffers = self.data_to_send()
        return buffers + self._connection.send(Kind.GOODBYE)

    def data_to_send(self) -> list[Buffer]:
        """Take from the queue what credits allow, as buffers in order."""
        buffers: list[Buffer] = []
        self.move_to(buffers)
        return buffers

    def move_to(self, buffers: list[Buffer]) -> None:
        """Move from the queue what credits allow to the end of ``buffers``, in order. An interrupt leaves nothing in between."""
        queue = self._queue
        while queue:
            entry = queue[0]
            if isinstance(entry, bytes):
                if self._credits <= 0:
                    break
                self._move_batch(buffers)
            else:
                frame = self._single(entry)
                buffers += frame
                queue.popleft()

    def _move_batch(self, buffers: list[Buffer]) -> None:
        """The posted operations at the head of the queue as one frame, within count, size and credits."""
        queue = self._queue
        parts = _batch(list(islice(queue, min(self._credits, limits.BATCH_COUNT_MAX))))
        count, count_max = len(parts), min(2 * self._queue_count_max, QUEUE_COUNT_MAX)
        frame = self._connection.send(Kind.POST, b"".join([codec.pack_array_header(count), *parts]))
        leaving: Iterator[Entry] = islice(iter(queue.popleft, None), count)
        gone: deque[Entry] = deque(maxlen=0)
        buffers += frame
        self._credits -= count
        self._queue_count_max = count_max
        self.metrics.operations_posted += count
        gone.extend(leaving)  # one call takes all of them out of the queue

    def _single(self, entry: tuple[Call, int, bytes] | tuple[int, int, bytes, memoryview]) -> list[Buffer]:
        if len(entry) == 3:
            call, stream, metadata = entry
            return self._connection.send(Kind.CALL, metadata, opcode=call.opcode, stream=stream, request=call.request)
        opcode, stream, metadata, payload = entry
        return self._connection.send(Kind.POST, metadata, opcode=opcode, stream=stream, payload=payload)

    # receiving

    def get_buffer(self) -> memoryview:
        """Where the next bytes belong."""
        return self._connection.get_buffer()

    def buffer_updated(self, count: int) -> None:
        """Take in ``count`` received bytes: calls get done. A breach by the server ends the session."""
        self.rcvd.append(count)
        self.settle()

    def settle(self) -> None:
        """Take in what ``rcvd`` says has come, and go on with what an interrupt left undone."""
        try:
            connection, rcvd = self._connection, self.rcvd
            if rcvd:
                connection.buffer_updated(rcvd[0])
                rcvd.clear()
            while self.error is None:
                event = self._event
                if event is None and (event := connection.next_event()) is None:
                    break
                self._event = event
                if isinstance(event, PayloadEnd):
                    self._payload_rcvd(event.frame)
                else:
                    self._frame_rcvd(event)
        except BitfusionError as error:
            self.end(error)

    def end(self, error: BitfusionError) -> None:
        """The session is over: every outstanding call fails with ``error``, and so does everything later.

        The first reason stays, unless the program itself closes the session after it.
        """
        if self.error is None or isinstance(error, SessionClosedError):
            self.error = error.again()  # without the traceback, which would keep the frames of the one that was raised
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.finish(error=self.error)
        self._queue = deque()

    def _frame_rcvd(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.REPLY:
                self._reply_rcvd(frame)
            case Kind.FAILURE:
                self._failure_rcvd(frame)
            case Kind.CREDIT:
                self._credits += frame.request
                self._event = None
            case Kind.OUTPUT:
                self._event = None  # an interrupt right here loses this piece of text, and nothing else
                self._output_rcvd(frame.metadata)
            case Kind.WELCOME if self._purpose == Purpose.CONTROL:
                self._welcome, self._event = decode_control_welcome(frame.metadata), None
            case Kind.WELCOME:
                welcome = decode_welcome(frame.metadata)
                self._welcome, self._credits, self._event = welcome, welcome.credit_count, None
            case Kind.WAITING:
                self._event = None  # an interrupt right here loses this piece of news, and nothing else
                self._waiting_rcvd(frame)

    def _waiting_rcvd(self, frame: Frame) -> None:
        waiting, call = decode_waiting(frame.metadata), self._calls.get(frame.request)
        if not self.opened and not frame.request:
            self.news.append(waiting)
        elif isinstance(call, QueuedCall):
            call.news.append(waiting)
        elif call is None or call.opcode != Opcode.LEASE_REQUEST:  # else it is abandoned
            raise RemoteProtocolError(f"the server sent WAITING for request {frame.request}, which asks for no lease")

    def _output_rcvd(self, metadata: Field) -> None:
        match metadata:
            case (int(descriptor), bytes(data)) if descriptor in (STDOUT, STDERR):
                self.output.add(descriptor, data)
            case _:
                raise RemoteProtocolError("the server sent output that is not [descriptor, bytes]")

    def _reply_rcvd(self, frame: Frame) -> None:
        call = self._calls.get(frame.request)
        if call is None:
            raise RemoteProtocolError(f"the server answered request {frame.request}, which is not outstanding")
        if not frame.payload_size:
            self._reply_done(frame, call)
        elif call.into is None:
            self._connection.discard_payload()
            self._event = None
        else:
            target = call.into[call.filled : call.filled + frame.payload_size]
            if target.nbytes != frame.payload_size:
                raise RemoteProtocolError(f"the server sent more than request {frame.request} asked for")
            self._connection.receive_into(target)
            call.filled += frame.payload_size
            self._receiving, self._event = frame.request, None

    def _payload_rcvd(self, frame: Frame) -> None:
        self._receiving = 0
        self._reply_done(frame, self._calls[frame.request])

    def _reply_done(self, frame: Frame, call: Call) -> None:
        if frame.flags & Flag.MORE:
            self._event = None
            return
        if call.into is not None and call.filled != call.into.nbytes:
            raise RemoteProtocolError(f"the server sent less than request {frame.request} asked for")
        call.finish(frame.metadata)
        del self._calls[frame.request]
        self._event = None

    def _failure_rcvd(self, frame: Frame) -> None:
        error = decode(frame.metadata)
        if frame.request == 0 or self._connection.state is State.CLOSED:
            self.end(error)
        elif (call := self._calls.get(frame.request)) is not None:
            call.finish(error=error)
        self._calls.pop(frame.request, None)
        self._event = None


def _batch(entries: list[Entry]) -> list[bytes]:
    """Those of ``entries`` that go into one frame: posted operations, up to about its size."""
    parts: list[bytes] = []
    size = 0
    for entry in entries:
        if size >= limits.BATCH_SIZE or not isinstance(entry, bytes):
            break
        parts.append(entry)
        size += len(entry)
    return parts
