"""The protocol core: bytes in, frames out, buffers back. Holds no socket, no clock and no loop.

Receiving is two pure calls, the shape of ``asyncio.BufferedProtocol`` and of ``socket.recv_into`` alike::

    connection.buffer_updated(sock.recv_into(connection.get_buffer()))
    while (event := connection.next_event()) is not None: ...

Small things (headers, metadata, short payloads) go through one reused buffer; the rest of a payload is received straight into the
memory its owner names with ``receive_into``. Sending returns a list of buffers with the caller's own memory in it.
What the frames mean is the session's business.

**Each step is done whole or not at all**, so that an interrupt (a signal handler that raises, as Ctrl-C does) leaves the connection in
step: what can fail or call comes first, then the new state is stored in one run of plain assignments. CPython runs signal handlers
only at the start of a function, after a call and at the end of a loop's round (the eval breaker in ``ceval.c``), not in between.
"""

from __future__ import annotations

from bitfusion.errors import LocalProtocolError
from bitfusion.metrics import SessionMetrics
from bitfusion.types import Buffer
from bitfusion.wire import codec, states
from bitfusion.wire.frames import HEADER_SIZE, Frame, Header, Kind, check_magic, decode_header, encode_header
from bitfusion.wire.states import Role, State

READ_SIZE = 64 * 1024
"""The reused buffer: two full batches. What of a large payload arrives through it is copied once; at 4 MiB chunks, 2 %."""

COUNTS_MAX = {Kind.HELLO: 1024, Kind.WELCOME: 1024, Kind.WAITING: 1024}
"""Items of one array or map in the metadata of these kinds; a device has some 150 attributes. The peer has not shown who it is, and
every level of an array that only announces its items costs their room."""


class PayloadEnd:
    """The event after a frame's payload has arrived in full."""

    __slots__ = ("frame",)

    def __init__(self, frame: Frame) -> None:
        self.frame = frame


class Connection:
    """One end of one connection. ``metrics`` counts its frames and bytes."""

    def __init__(self, role: Role, metrics: SessionMetrics | None = None, state: State = State.START) -> None:
        """``state`` other than START takes over a connection whose first frames somebody else has handled."""
        self.role = role
        self.peer = Role.SERVER if role is Role.CLIENT else Role.CLIENT
        self.state = state
        self.metrics = metrics or SessionMetrics()
        self._buffer = memoryview(
            b""
        )  # made when the first bytes come: the daemon's end of a handed over connection reads none
        self._start = 0
        self._end = 0
        self._header: Header | None = None
        self._frame: Frame | None = None  # whose payload is awaited
        self._sink: memoryview | None = None  # where the rest of a metadata or payload goes directly
        self._sink_filled = 0
        self._skip = 0  # payload bytes to drop

    @property
    def buffered(self) -> int:
        """Received bytes that no event has taken yet."""
        return self._end - self._start

    # receiving

    def get_buffer(self) -> memoryview:
        """Where the next bytes from the peer belong; never empty."""
        if self._sink is not None and self._sink_filled < len(self._sink):
            return self._sink[self._sink_filled :]
        if self._start == self._end:
            self._start = self._end = 0
            if not self._buffer:
                self._buffer = memoryview(bytearray(READ_SIZE))
        elif self._end == READ_SIZE:
            self._compact()
        return self._buffer[self._end :]

    def buffer_updated(self, count: int) -> None:
        """``count`` bytes have been written to the last ``get_buffer``."""
        direct = self._sink is not None and self._sink_filled < len(self._sink)
        self.metrics.bytes_rcvd += count
        if direct:
            self._sink_filled += count
        else:
            self._end += count

    def next_event(self) -> Frame | PayloadEnd | None:
        """The next frame or end of a payload; None when more bytes are needed. RemoteProtocolError on a breach.

        After a frame with a payload, call ``receive_into`` or ``discard_payload`` before asking again.
        """
        if self._frame is not None:
            return self._payload_event(self._frame)
        if self._header is None and not self._take_header():
            return None
        return self._take_frame()

    def receive_into(self, target: memoryview) -> None:
        """Receive the awaited payload into ``target`` (writable bytes of exactly its size)."""
        frame = self._frame
        if frame is None or self._sink is not None or target.nbytes != frame.payload_size:
            raise LocalProtocolError("receive_into needs the exact memory for one awaited payload")
        count = self._copy_buffered(target)
        self._sink, self._sink_filled = target, count

    def discard_payload(self) -> None:
        """Drop the awaited payload."""
        if self._frame is None or self._sink is not None:
            raise LocalProtocolError("no payload is awaited")
        nothing = memoryview(b"")
        self._skip, self._sink = self._frame.payload_size, nothing

    def divert_payload(self) -> None:
        """The owner of the memory named for the awaited payload takes it back: what is still to come is dropped."""
        if self._frame is not None and self._sink is not None:
            nothing, rest = memoryview(b""), len(self._sink) - self._sink_filled
            self._skip, self._sink, self._sink_filled = self._skip + rest, nothing, 0

    def _take_header(self) -> bool:
        if self._end - self._start < HEADER_SIZE:
            if self._end > self._start:
                check_magic(self._buffer[self._start : self._end])
            return False
        header = decode_header(self._buffer, self._start)
        self._header = header
        self._start += HEADER_SIZE
        self.metrics.frames_rcvd += 1
        return True

    def _take_frame(self) -> Frame | None:
        assert self._header is not None
        kind, opcode, flags, stream, request, metadata_size, payload_size = self._header
        metadata = self._metadata(metadata_size)
        if metadata is None:
            return None
        state = states.rcvd(self.state, self.peer, kind)
        value = codec.unpack(metadata, COUNTS_MAX.get(kind, codec.COUNT_MAX)) if metadata_size else None
        frame: Frame = tuple.__new__(Frame, (kind, opcode, flags, stream, request, value, payload_size))
        if self._sink is None:
            self._start += metadata_size
        self._header, self._sink, self.state = None, None, state
        if payload_size:
            self._frame = frame
        return frame

    def _metadata(self, size: int) -> memoryview | None:
        """The metadata, once it is there, in the reused buffer, or in memory of its own where it is larger than that."""
        if self._sink is not None:
            return None if self._sink_filled < size else self._sink
        if self._end - self._start >= size:
            return self._buffer[self._start : self._start + size]
        if size > READ_SIZE:
            sink = memoryview(bytearray(size))
            count = self._copy_buffered(sink)
            self._sink, self._sink_filled = sink, count
        elif self._start + size > READ_SIZE:
            self._compact()
        return None

    def _payload_event(self, frame: Frame) -> PayloadEnd | None:
        if self._sink is None:
            raise LocalProtocolError("name the memory for a payload before asking for the next event")
        if self._skip:
            dropped = min(self._skip, self._end - self._start)
            self._start += dropped
            self._skip -= dropped
        if self._skip or self._sink_filled < len(self._sink):
            return None
        end = PayloadEnd(frame)
        self._sink, self._frame, self._sink_filled = None, None, 0
        return end

    def _copy_buffered(self, target: memoryview) -> int:
        """Copy what of ``target`` has already arrived in the reused buffer; returns the count of bytes."""
        count = min(target.nbytes, self._end - self._start)
        target[:count] = self._buffer[self._start : self._start + count]
        self._start += count
        self.metrics.copied_bytes += count
        return count

    def _compact(self) -> None:
        rest = bytes(self._buffer[self._start : self._end])
        count = len(rest)
        self._buffer[:count] = rest
        self._start, self._end = 0, count

    # sending

    def send(
        self,
        kind: Kind,
        metadata: bytes = b"",
        *,
        opcode: int = 0,
        flags: int = 0,
        stream: int = 0,
        request: int = 0,
        payload: memoryview | None = None,
    ) -> list[Buffer]:
        """The buffers of one frame, ``payload`` itself among them: it must not change until they are all sent."""
        self.state = states.sent(self.state, self.role, kind)
        size = payload.nbytes if payload is not None else 0
        header = encode_header(kind, opcode, flags, stream, request, len(metadata), size)
        self.metrics.frames_sent += 1
        self.metrics.bytes_sent += HEADER_SIZE + len(metadata) + size
        return [header + metadata] if payload is None else [header + metadata, payload]
