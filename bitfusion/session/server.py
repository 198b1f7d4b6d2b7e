"""The server's side of a session: frames become operations to execute, results become replies. Sans-I/O.

Keeps what makes posted work safe: the credit window and the sticky failure. What the operations do is the worker's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bitfusion import limits
from bitfusion.errors import BitfusionError, RemoteProtocolError, encode
from bitfusion.metrics import SessionMetrics
from bitfusion.session.failures import PostedFailures
from bitfusion.session.hello import ControlWelcome, Hello, Welcome, decode_hello, encode_welcome
from bitfusion.session.output import Printed
from bitfusion.session.waiting import Waiting, encode_waiting
from bitfusion.types import Buffer
from bitfusion.wire import codec
from bitfusion.wire.connection import Connection, PayloadEnd
from bitfusion.wire.frames import Flag, Frame, Kind
from bitfusion.wire.operations import CONTROL_RULES, SESSION_RULES, Field, Opcode, check
from bitfusion.wire.states import Role, State


class Batch(NamedTuple):
    """Posted operations, each ``(opcode, stream, *fields)``, not yet checked one by one."""

    operations: tuple[Field, ...]


class Request(NamedTuple):
    """One call, checked; or one posted operation with a payload, which waits for ``receive_into``."""

    opcode: int
    stream: int
    fields: tuple[Field, ...]
    number: int
    payload_size: int


class ServerSession:
    """One session, or with ``control`` one control connection, from the server's end."""

    def __init__(
        self,
        connection: Connection | None = None,
        *,
        credit_count: int = limits.CREDIT_COUNT,
        control: bool = False,
    ) -> None:
        self._rules = CONTROL_RULES if control else SESSION_RULES
        self.connection = connection or Connection(Role.SERVER)
        self.metrics: SessionMetrics = self.connection.metrics
        self.failures = PostedFailures()
        self._credit_count = credit_count
        self._outstanding = 0  # posted operations received and not yet given back as credit
        self._executed = 0  # of those, how many are executed

    @property
    def ended(self) -> bool:
        """Whether the client said goodbye, or was refused."""
        return self.connection.state in (State.ENDING, State.CLOSED)

    # receiving

    def get_buffer(self) -> memoryview:
        """Where the next bytes belong."""
        return self.connection.get_buffer()

    def buffer_updated(self, count: int) -> None:
        """``count`` bytes have been received; ask ``next_event`` what they mean."""
        self.connection.buffer_updated(count)

    def next_event(self) -> Batch | Request | PayloadEnd | None:
        """What to execute next; None when more bytes are needed, or after the goodbye. RemoteProtocolError on a breach."""
        event = self.connection.next_event()
        if event is None or isinstance(event, PayloadEnd):
            return event
        if event.kind is Kind.CALL:
            return self._request(event)
        if event.kind is Kind.POST:
            return self._request(event) if event.opcode else self._batch(event)
        return None

    def hello(self) -> Hello | None:
        """The client's hello once it is complete. RemoteProtocolError if anything but one hello has come."""
        event = self.connection.next_event()
        if event is None:
            return None
        if not isinstance(event, Frame):
            raise RemoteProtocolError("a session starts with a hello")
        return decode_hello(event.metadata)

    def _batch(self, frame: Frame) -> Batch:
        if not isinstance(frame.metadata, tuple) or frame.payload_size:
            raise RemoteProtocolError("a batch must be an array of operations, without a payload")
        if len(frame.metadata) > limits.BATCH_COUNT_MAX:
            raise RemoteProtocolError(f"a batch of {len(frame.metadata)} operations is over {limits.BATCH_COUNT_MAX}")
        self._outstanding += len(frame.metadata)
        if self._outstanding > self._credit_count:
            raise RemoteProtocolError(
                f"{self._outstanding} operations are posted, over the credit of {self._credit_count}"
            )
        self.metrics.operations_posted += len(frame.metadata)
        return Batch(frame.metadata)

    def _request(self, frame: Frame) -> Request:
        fields = frame.metadata if frame.metadata is not None else ()
        if not isinstance(fields, tuple):
            raise RemoteProtocolError("the metadata of an operation must be an array")
        check(frame.opcode, fields, self._rules)
        called = frame.opcode >= 0x80
        if called != (frame.kind is Kind.CALL) or called == (frame.request == 0):
            raise RemoteProtocolError(
                f"{Opcode(frame.opcode).name} came as a {frame.kind.name} frame, request {frame.request}"
            )
        if called:
            if frame.payload_size:
                raise RemoteProtocolError(f"{Opcode(frame.opcode).name} carries no payload")
        elif frame.opcode != Opcode.WRITE_PAYLOAD:
            raise RemoteProtocolError(f"{Opcode(frame.opcode).name} travels in a batch, without a payload")
        elif not 0 < frame.payload_size <= limits.CHUNK_SIZE:
            raise RemoteProtocolError(f"WRITE_PAYLOAD carries 1 to {limits.CHUNK_SIZE} bytes, not {frame.payload_size}")
        self.metrics.calls += called
        return tuple.__new__(Request, (frame.opcode, frame.stream, fields, frame.request, frame.payload_size))

    def receive_into(self, target: memoryview) -> None:
        """Receive the payload of the last request into ``target``."""
        self.connection.receive_into(target)

    def discard_payload(self) -> None:
        """Drop the payload of the last request."""
        self.connection.discard_payload()

    # sending

    def welcome(self, welcome: Welcome) -> list[Buffer]:
        """The buffers that grant the session."""
        self._credit_count = welcome.credit_count
        return self.connection.send(Kind.WELCOME, codec.pack(encode_welcome(welcome)))

    def control_welcome(self, welcome: ControlWelcome) -> list[Buffer]:
        """The buffers that open a control connection, on which nothing can be posted."""
        self._credit_count = 0
        return self.connection.send(Kind.WELCOME, codec.pack(encode_welcome(welcome)))

    def waiting(self, waiting: Waiting, number: int = 0) -> list[Buffer]:
        """The buffers that say where a request stands: call ``number``'s, or 0 for the one in the hello."""
        return self.connection.send(Kind.WAITING, encode_waiting(waiting), request=number)

    def reply(self, number: int, value: object = None) -> list[Buffer]:
        """The buffers that answer a call."""
        return self.connection.send(Kind.REPLY, codec.pack(value), request=number)

    def reply_piece(self, number: int, payload: memoryview, *, more: bool) -> list[Buffer]:
        """The buffers of one piece of a read."""
        return self.connection.send(Kind.REPLY, request=number, flags=Flag.MORE if more else 0, payload=payload)

    def fail(self, number: int, error: BitfusionError) -> list[Buffer]:
        """The buffers that fail a call; number 0 fails the session."""
        return self.connection.send(Kind.FAILURE, codec.pack(encode(error)), request=number)

    def output(self, printed: Iterable[Printed]) -> list[Buffer]:
        """The buffers that bring what kernels printed to the client; they go before the answer to the call it was waiting for."""
        size = limits.OUTPUT_PIECE_SIZE
        return [
            buffer
            for descriptor, data in printed
            for start in range(0, len(data), size)
            for buffer in self.connection.send(Kind.OUTPUT, codec.pack((descriptor, data[start : start + size])))
        ]

    def executed(self, count: int) -> list[Buffer]:
        """``count`` posted operations have run; the credit frame that gives them back, once there are enough."""
        self._executed += count
        if self._executed * 4 < self._credit_count:
            return []
        given, self._executed = self._executed, 0
        self._outstanding -= given
        return self.connection.send(Kind.CREDIT, request=given)
