"""The client's side of a session: operations go into a queue, calls come back done. Sans-I/O.

Posted operations are packed as they come and leave together, many to a frame; a call leaves behind all that was posted
before it. The queue is a deque, so that posting needs no lock; sending and receiving belong to one thread at a time, which the
transport sees to. Failures of posted work arrive as the failure of a later call.

An operation of the client is a generator that yields what it waits for: a ``Call`` until it is done, ``Wait.ROOM`` until the
session is no longer ``full``, ``Wait.SENT`` until all that is queued has left (so that the caller's memory may change).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from enum import Enum, auto
from typing import TypeAlias, TypeVar

from bitfusion import limits
from bitfusion.errors import BitfusionError, RemoteProtocolError, SessionClosedError, decode
from bitfusion.metrics import SessionMetrics
from bitfusion.session.hello import Hello, Welcome, decode_welcome, encode_hello
from bitfusion.types import Buffer
from bitfusion.wire import codec
from bitfusion.wire.connection import Connection, PayloadEnd
from bitfusion.wire.frames import Flag, Frame, Kind
from bitfusion.wire.operations import Field
from bitfusion.wire.states import Role, State

T = TypeVar("T")

QUEUE_COUNT_MIN, QUEUE_COUNT_MAX = 2, 512
"""Posted operations that may wait in the queue before the session calls itself full.

After a call the worker is idle, so the first operations leave almost at once and it works while more are posted; then each batch
may be twice as long as the one before, up to about one socket write.
"""

REQUEST_MAX = 2**32 - 1


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
            raise self._error
        return self._value

    def finish(self, value: Field = None, error: BitfusionError | None = None) -> None:
        """The answer has come."""
        self._value, self._error, self.done, self.into = value, error, True, None


Operation: TypeAlias = Generator[Call | Wait, None, T]

Entry: TypeAlias = bytes | tuple[Call, int, bytes] | tuple[int, int, bytes, memoryview]
"""In the queue: a packed posted operation; a call with stream and metadata; or (opcode, stream, metadata, payload)."""


class ClientSession:
    """One session from the client's end. ``welcome`` is there once the hello has been answered."""

    def __init__(self) -> None:
        self.metrics = SessionMetrics()
        self.error: BitfusionError | None = None
        """Why the session ended, once it has."""
        self.wake: Callable[[], None] | None = None
        """Asked for once when something is posted to a session that nobody is about to flush."""
        self._connection = Connection(Role.CLIENT, self.metrics)
        self._welcome: Welcome | None = None
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
        if self._welcome is None:
            raise self.error or SessionClosedError("the session has not been opened yet")
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
            raise self.error
        self._queue.append(self._pack((opcode, stream, *fields)))
        if self.wake is not None:
            self.wake()

    def post_payload(self, opcode: int, stream: int, *fields: object, payload: memoryview) -> None:
        """Queue a posted operation with a payload, which must not change until Wait.SENT is over."""
        if self.error is not None:
            raise self.error
        self._queue.append((opcode, stream, codec.pack(fields), payload))

    def call(self, opcode: int, stream: int, *fields: object, into: memoryview | None = None) -> Call:
        """Queue a call; its reply's payload goes ``into`` the caller's memory."""
        if self.error is not None:
            raise self.error
        self._request = self._request % REQUEST_MAX + 1
        call = Call(self._request, opcode, into)
        self._calls[call.request] = call
        self._queue.append((call, stream, codec.pack(fields)))
        self._queue_count_max = QUEUE_COUNT_MIN
        self.metrics.calls += 1
        return call

    def abandon(self, call: Call) -> None:
        """Nobody waits for ``call`` any longer; an answer that still comes, or is just coming, is dropped."""
        if call.request in self._calls:
            self._calls[call.request] = Call(call.request, call.opcode)
        if call.request == self._receiving:
            self._connection.divert_payload()

    # sending

    def hello(self, hello: Hello) -> list[Buffer]:
        """The buffers that open the session."""
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
        queue = self._queue
        while queue:
            entry = queue[0]
            if isinstance(entry, bytes):
                if self._credits <= 0:
                    break
                buffers += self._batch()
            else:
                queue.popleft()
                buffers += self._single(entry)
        return buffers

    def _batch(self) -> list[Buffer]:
        """The posted operations at the head of the queue as one frame, within count, size and credits."""
        queue, size = self._queue, 0
        parts: list[bytes] = []
        while queue and len(parts) < min(self._credits, limits.BATCH_COUNT_MAX) and size < limits.BATCH_SIZE:
            entry = queue[0]
            if not isinstance(entry, bytes):
                break
            queue.popleft()
            parts.append(entry)
            size += len(entry)
        self._credits -= len(parts)
        self._queue_count_max = min(2 * self._queue_count_max, QUEUE_COUNT_MAX)
        self.metrics.operations_posted += len(parts)
        return self._connection.send(Kind.POST, b"".join([codec.pack_array_header(len(parts)), *parts]))

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
        try:
            self._connection.buffer_updated(count)
            while (event := self._connection.next_event()) is not None:
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
            self.error = error
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
            case Kind.WELCOME:
                self._welcome = decode_welcome(frame.metadata)
                self._credits = self._welcome.credit_count

    def _reply_rcvd(self, frame: Frame) -> None:
        call = self._calls.get(frame.request)
        if call is None:
            raise RemoteProtocolError(f"the server answered request {frame.request}, which is not outstanding")
        if not frame.payload_size:
            self._reply_done(frame, call)
        elif call.into is None:
            self._connection.discard_payload()
        else:
            target = call.into[call.filled : call.filled + frame.payload_size]
            if target.nbytes != frame.payload_size:
                raise RemoteProtocolError(f"the server sent more than request {frame.request} asked for")
            call.filled += frame.payload_size
            self._receiving = frame.request
            self._connection.receive_into(target)

    def _payload_rcvd(self, frame: Frame) -> None:
        self._receiving = 0
        self._reply_done(frame, self._calls[frame.request])

    def _reply_done(self, frame: Frame, call: Call) -> None:
        if frame.flags & Flag.MORE:
            return
        if call.into is not None and call.filled != call.into.nbytes:
            raise RemoteProtocolError(f"the server sent less than request {frame.request} asked for")
        del self._calls[frame.request]
        call.finish(frame.metadata)

    def _failure_rcvd(self, frame: Frame) -> None:
        error = decode(frame.metadata)
        if frame.request == 0 or self._connection.state is State.CLOSED:
            self.end(error)
        elif (call := self._calls.pop(frame.request, None)) is not None:
            call.finish(error=error)
