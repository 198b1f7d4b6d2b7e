"""The worker's message loop: what arrives on the stream is executed in order, what must be answered is answered.

Strictly sequential: an operation is executed before the next one is looked at, and nothing more is read while an answer is
not fully sent, so device memory can be sent from where it lies. Owns the order and the failures; not the operations.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator

from bitfusion.errors import BitfusionError, DeviceError, KernelError
from bitfusion.session.server import Batch, Request, ServerSession
from bitfusion.transport.stream import StreamProtocol
from bitfusion.types import Buffer, format_size
from bitfusion.wire.connection import PayloadEnd
from bitfusion.wire.operations import Field, Opcode
from bitfusion.worker.executor import STREAM_WORK, Executor
from bitfusion.worker.stdout import Stdout
from bitfusion.worker.turn import Turn

log = logging.getLogger(__name__)

HOST_CALLS = frozenset({Opcode.ECHO, Opcode.METRICS, Opcode.MEMORY_INFO, Opcode.KERNEL_COMPILE, Opcode.KERNEL_LOAD})
"""Calls that do not touch the session's memory: they leave it where it is."""


class Service:
    """One session on one stream. ``closed`` is set once the connection is gone."""

    def __init__(self, session: ServerSession, executor: Executor, stdout: Stdout | None = None) -> None:
        self.session = session
        self.stream = StreamProtocol(self)
        self.over = False
        self.closed = asyncio.Event()
        self._executor = executor
        self._stdout = stdout
        self._pieces: Iterator[tuple[memoryview, bool]] | None = None
        self._reading = 0  # the request that ``_pieces`` answers
        self._evicting = False  # as soon as nothing is on its way
        self._write: tuple[int, int, int] | None = None  # stream, address, size of the payload being received

    @property
    def turn(self) -> Turn | None:
        """The session's turns on its GPU."""
        return self._executor.turn

    def _touch(self) -> None:
        """The device has worked for this session, which is not idle."""
        if self.turn is not None:
            self.turn.touch()

    def abort(self) -> None:
        """From any thread: whatever this waits for in the middle of an operation, it waits no more."""
        self._executor.memory.abort()
        if self.turn is not None:
            self.turn.abort()

    def evict(self) -> None:
        """Move the session's memory to the host, as soon as nothing is on its way from or to it."""
        self._evicting = True
        self._run()

    # Peer

    def get_buffer(self) -> memoryview:
        return self.session.get_buffer()

    def buffer_updated(self, count: int) -> None:
        self.session.buffer_updated(count)
        self._run()

    def drained(self) -> None:
        self._run()

    def lost(self, error: OSError | None) -> None:
        self.over = True
        self.closed.set()

    # the loop

    def _run(self) -> None:
        if self.over:
            return
        try:
            while not self.stream.paused and self._step():
                pass
            self._evict_if_asked()
        except BitfusionError as error:
            self._break(error)
        except Exception:
            log.exception("! a fault of the worker's own ends the session")
            self._break(
                BitfusionError("the worker failed on an operation it should have managed; its log has the reason")
            )
        if self.session.ended:
            self._end()
        elif self.over:
            self.stream.close()
        elif self.stream.paused:
            self.stream.pause_reading()
        else:
            self.stream.resume_reading()

    def _step(self) -> bool:
        """Do one thing; whether there was one."""
        if self._pieces is not None:
            self._send_piece()
            return True
        event = self.session.next_event()
        match event:
            case Batch():
                self._post(event)
            case Request() if event.number:
                self._call(event)
            case Request():
                self._begin_write(event)
            case PayloadEnd():
                self._end_write()
            case None:
                return False
        return True

    def _post(self, batch: Batch) -> None:
        session, executor = self.session, self._executor
        try:
            self._restore()
        except DeviceError as error:
            session.failures.keep(error, "bringing the session's memory back to the GPU")
        for operation in batch.operations:
            try:
                if session.failures.pending is None or not _is_stream_work(operation):
                    executor.post(operation)
            except (DeviceError, KernelError) as error:
                session.failures.keep(error, executor.describe(operation))
        if self.turn is not None:
            self.turn.give()
        self._touch()
        if self._stdout is not None:
            self._stdout.collect()
        self.stream.send(session.executed(len(batch.operations)))

    def _call(self, request: Request) -> None:
        failure = self.session.failures.take()
        if failure is not None:
            self._answer(self.session.fail(request.number, failure))
            return
        try:
            if request.opcode not in HOST_CALLS:
                self._restore()
            value = self._executor.call(request.opcode, request.stream, request.fields)
        except (DeviceError, KernelError) as error:
            self._call_failed(request.number, Opcode(request.opcode).name.lower(), error)
            return
        if request.opcode == Opcode.READ:
            self._begin_read(request, value)
        else:
            self._answer(self.session.reply(request.number, value))

    def _call_failed(self, number: int, operation: str, error: BitfusionError) -> None:
        """The call's own failure; a kernel fault found by a call poisons the session as one found by posted work."""
        self.session.failures.keep(error, operation)
        self.session.failures.take()
        self._answer(self.session.fail(number, error))

    def _answer(self, buffers: list[Buffer], *, last: bool = False) -> None:
        """Send an answer, and before it what kernels have printed until now: a client shows that before it goes on."""
        printed = self._executor.device.take_output(last=last)
        if self._stdout is not None:
            self._stdout.collect()
            printed += self._stdout.output.take()
        self.stream.send([*self.session.output(printed), *buffers] if printed else buffers)

    # where more is leased than the GPU has

    def _evict_if_asked(self) -> None:
        if not self._evicting or self.stream.paused or self._pieces is not None or self._write is not None:
            return
        self._evicting = False
        started = time.perf_counter()
        try:
            moved = self._executor.memory.evict()
        except (DeviceError, OSError) as error:
            log.warning("! the session's memory stays on the GPU: %s", error)
        else:
            log.info("%s moved to the host in %.3f s", format_size(moved), time.perf_counter() - started)

    def _restore(self) -> None:
        """Before anything touches the device's memory. DeviceMemoryError if there is no room for it."""
        if self._executor.memory.is_away:
            started = time.perf_counter()
            self._executor.memory.restore()
            log.info("the session's memory is back on the GPU after %.3f s", time.perf_counter() - started)

    # device to host

    def _begin_read(self, request: Request, pieces: object) -> None:
        size = request.fields[1]
        assert isinstance(pieces, Iterator) and isinstance(size, int)
        self._reading = request.number
        self._pieces = _with_more(pieces, size)
        self._touch()

    def _send_piece(self) -> None:
        assert self._pieces is not None
        try:
            piece, more = next(self._pieces)
        except StopIteration:
            self._pieces = None
        except DeviceError as error:
            self._pieces = None
            self._call_failed(self._reading, "read", error)
        else:
            self._answer(self.session.reply_piece(self._reading, piece, more=more))

    # host to device

    def _begin_write(self, request: Request) -> None:
        (address,) = request.fields
        assert isinstance(address, int)
        if self.session.failures.pending is None:
            try:
                self._restore()
                buffer = self._executor.write_buffer(request.stream, address, request.payload_size)
            except DeviceError as error:
                self.session.failures.keep(error, f"write({address:#x}, {request.payload_size} bytes)")
            else:
                self._write = (request.stream, address, request.payload_size)
                self.session.receive_into(buffer)
                return
        self.session.discard_payload()

    def _end_write(self) -> None:
        if self._write is None:
            return
        (stream, address, size), self._write = self._write, None
        try:
            self._executor.write_commit(stream, address, size)
            self._touch()
        except DeviceError as error:
            self.session.failures.keep(error, f"write({address:#x}, {size} bytes)")

    # the end

    def _end(self) -> None:
        """The client has said goodbye: show it what is left, and hang up."""
        if not self.over:
            self.over = True
            self._answer([], last=True)
            self.stream.close()

    def _break(self, error: BitfusionError) -> None:
        """The session cannot go on: say why, and hang up."""
        log.warning("! %s", error)
        self.over, self._pieces = True, None
        if not self.session.ended:
            self.stream.send(self.session.fail(0, error))
        self.stream.close()


def _is_stream_work(operation: Field) -> bool:
    """Whether a failure skips it; nothing of it has been checked yet."""
    return (
        isinstance(operation, tuple) and bool(operation) and type(operation[0]) is int and operation[0] in STREAM_WORK
    )


def _with_more(pieces: Iterator[memoryview], size: int) -> Iterator[tuple[memoryview, bool]]:
    """Each piece of ``size`` bytes in all, with whether more follow."""
    sent = 0
    for piece in pieces:
        sent += piece.nbytes
        yield piece, sent < size
