"""The blocking face: a session on a plain blocking socket, without an event loop and without a thread for calls.

``run`` drives an operation (a generator that yields what it waits for). A small flusher thread only sends what was posted
when the program goes idle, so that work never sits unseen; it sleeps while nothing is posted.

An interrupt (Ctrl-C) while an answer is awaited abandons that call and the session goes on; an interrupt in the middle of moving
bytes ends the session, because nobody can know how many of them went.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import TypeVar

from bitfusion import limits
from bitfusion.errors import BitfusionError, ConnectionLostError, DeadlineError, SessionClosedError
from bitfusion.session.client import Call, ClientSession, Operation, Wait
from bitfusion.session.hello import Hello
from bitfusion.transport import address
from bitfusion.transport.address import Target
from bitfusion.types import Buffer

T = TypeVar("T")

SPIN_TIMEOUT_S = 0.05
"""How long an answer is awaited inside recv itself, one system call; after that in poll, where an interrupt loses nothing."""

CLOSE_TIMEOUT_S = 10.0
"""How long to wait for the server to confirm the end; it frees everything in any case."""

FLUSHER_IDLE_TICKS = 20
"""Ticks without posted work after which the flusher sleeps until it is woken."""

IOV_COUNT_MAX = 512
"""Buffers of one sendmsg; the kernel's own bound is 1024 (UIO_MAXIOV)."""


class BlockingTransport:
    """One session on one blocking socket. Not for use by several threads at once, except for posted releases."""

    def __init__(
        self, sock: socket.socket, session: ClientSession, *, flush_delay_s: float = limits.FLUSH_DELAY_S
    ) -> None:
        self.session = session
        self._sock = sock
        self._flush_delay_s = flush_delay_s
        self._send_lock = threading.Lock()
        self._unsent: list[Buffer] = []
        self._moving = False  # between a system call that moves bytes and the account of it
        self._flusher: threading.Thread | None = None
        self._awake = threading.Event()
        self._closing = threading.Event()
        seconds, rest = divmod(SPIN_TIMEOUT_S, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(seconds), int(rest * 1e6)))

    # life

    def open(self, hello: Hello, timeout_s: float) -> None:
        """Say hello and wait for the welcome; raises the server's refusal."""
        deadline = time.monotonic() + timeout_s
        try:
            with self._io():
                self._unsent += self.session.hello(hello)
                self._send_all(block=True)
            while not self.session.opened:
                self._receive(deadline)
                if self.session.error is not None:
                    raise self.session.error
        except BaseException:
            self._sock.close()
            raise
        self.session.wake = self._wake_flusher

    def close(self) -> None:
        """End the session: what was posted is sent, and when this returns the lease is free again. Safe to call again."""
        self._stop_flusher()
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        with contextlib.suppress(BitfusionError), self._io():
            if goodbye := self.session.goodbye():
                self._unsent += goodbye
                self._send_all(block=True)
                while self.session.error is None:  # the server hangs up once all is freed
                    self._receive(deadline)
        self.session.end(SessionClosedError("the session is closed; connect again"))
        self._sock.close()

    def forget(self) -> None:
        """In a forked child: the session is the parent's. Give up this copy of its socket without a word to the server."""
        self.session.wake = None
        self._closing.set()
        self.session.end(SessionClosedError("the session belongs to the parent process; connect again in the child"))
        self._sock.close()

    # operations

    def run(self, operation: Operation[T], deadline_s: float | None = None) -> T:
        """Drive ``operation`` to its end and return its value. DeadlineError after ``deadline_s`` seconds."""
        deadline = None if deadline_s is None else time.monotonic() + deadline_s
        try:
            wait = next(operation)
            while True:
                try:
                    self.wait(wait, deadline)
                except BitfusionError as error:
                    wait = operation.throw(error)
                else:
                    wait = operation.send(None)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def wait(self, wait: Call | Wait, deadline: float | None = None) -> None:
        """Send what is queued and wait until ``wait`` is over."""
        session = self.session
        if isinstance(wait, Call):
            started = time.perf_counter_ns()
            try:
                self.flush(deadline)
                while not wait.done:
                    self._receive(deadline)
            except BaseException:
                session.abandon(wait)
                self._end_if_moving()
                raise
            elapsed = time.perf_counter_ns() - started
            if wait.filled:
                session.metrics.transfer_ns += elapsed
            else:
                session.metrics.wait_ns += elapsed
        else:
            started = time.perf_counter_ns()
            self.flush(deadline)
            if wait is Wait.SENT:
                session.metrics.transfer_ns += time.perf_counter_ns() - started

    def flush(self, deadline: float | None = None) -> None:
        """Send all that is queued, waiting for credits where they are used up. Raises what ended the session."""
        with self._io():
            while True:
                with self._send_lock:
                    self._unsent += self.session.data_to_send()
                    self._send_all(block=not self.session.waiting)
                if not self.session.queued:
                    break
                self.session.metrics.credit_waits += 1
                self._receive(deadline)
        if self.session.error is not None:
            raise self.session.error

    # the socket

    @contextlib.contextmanager
    def _io(self) -> Iterator[None]:
        """What goes wrong while bytes move ends the session."""
        try:
            yield
        except OSError as error:
            self._lose(error)
        except BaseException:
            self._end_if_moving()
            raise

    def _end_if_moving(self) -> None:
        """After an interrupt between a system call and its account, nobody can know how many bytes went: end the session."""
        if self._moving:
            self.session.end(
                SessionClosedError(
                    "the session was interrupted in the middle of a transfer and had to end; connect again"
                )
            )
            self._closing.set()
            self._sock.close()

    def _lose(self, error: OSError | None) -> None:
        self.session.end(ConnectionLostError(address.lost(error)))

    def _send_all(self, *, block: bool) -> None:
        """Send ``_unsent``. Where answers may be on their way, receive whenever the peer will not take more."""
        flags = 0 if block else socket.MSG_DONTWAIT
        while self._unsent:
            self._moving = True
            try:
                count = self._sock.sendmsg(self._unsent[:IOV_COUNT_MAX], [], flags)
            except BlockingIOError:
                self._moving = False
                self._wait_writable()
                continue
            self._unsent = _after(self._unsent, count)
        self._moving = False

    def _wait_writable(self) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | select.POLLOUT)
        for _, event in poll.poll():
            if event & select.POLLIN:
                self._read()

    def _receive(self, deadline: float | None) -> None:
        """Receive once; waits. DeadlineError once the deadline has passed."""
        session = self.session
        if session.error is not None:
            raise session.error
        if deadline is not None or not self._read():
            self._wait_readable(deadline)

    def _wait_readable(self, deadline: float | None) -> None:
        """Wait in poll, where an interrupt loses nothing."""
        timeout_ms = None if deadline is None else max(deadline - time.monotonic(), 0) * 1000
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        if not poll.poll(timeout_ms):
            raise DeadlineError("the server did not answer in time")
        self._read()

    def _read(self) -> bool:
        """Receive once, for SPIN_TIMEOUT_S at most; whether anything came, the end of the connection included."""
        self._moving = True
        try:
            count = self._sock.recv_into(self.session.get_buffer())
        except BlockingIOError:
            self._moving = False
            return False
        except OSError as error:
            self._moving = False
            self._lose(error)
            return True
        if count:
            self.session.buffer_updated(count)
        else:
            self._lose(None)
        self._moving = False
        return True

    # the flusher

    def _wake_flusher(self) -> None:
        self.session.wake = None
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._flush_idle, name="bitfusion-flusher", daemon=True)
            self._flusher.start()
        self._awake.set()

    def _flush_idle(self) -> None:
        """Every tick, send what was posted; sleep after some ticks without any."""
        while not self._closing.is_set():
            self._awake.wait()
            self._awake.clear()
            quiet = 0
            while quiet < FLUSHER_IDLE_TICKS and not self._closing.wait(self._flush_delay_s):
                quiet = 0 if self._flush_tick() else quiet + 1
            self.session.wake = self._wake_flusher
            if self.session.queued:
                self._awake.set()

    def _flush_tick(self) -> bool:
        """Send what is queued, unless the program itself is sending; whether there was any."""
        if not self.session.queued:
            return False
        if self._send_lock.acquire(blocking=False):
            try:
                self._unsent += self.session.data_to_send()
                while self._unsent:
                    self._unsent = _after(
                        self._unsent, self._sock.sendmsg(self._unsent[:IOV_COUNT_MAX], [], socket.MSG_DONTWAIT)
                    )
            except BlockingIOError:
                pass  # the rest leaves with the next flush
            except OSError as error:
                self._lose(error)
            finally:
                self._send_lock.release()
        return True

    def _stop_flusher(self) -> None:
        self.session.wake = None
        self._closing.set()
        self._awake.set()
        if self._flusher is not None and self._flusher is not threading.current_thread():
            self._flusher.join()


def _after(buffers: list[Buffer], count: int) -> list[Buffer]:
    """What is left of ``buffers`` after the first ``count`` bytes."""
    for index, buffer in enumerate(buffers):
        size = memoryview(buffer).nbytes
        if count < size:
            return [memoryview(buffer).cast("B")[count:], *buffers[index + 1 :]]
        count -= size
    return []


def open_session(
    target: Target,
    hello: Hello,
    *,
    timeout_s: float = address.CONNECT_TIMEOUT_S * 3,
    flush_delay_s: float = limits.FLUSH_DELAY_S,
) -> BlockingTransport:
    """Connect and open a session. ResolveError, UnreachableError, and what the server refuses with; ``timeout_s`` in all."""
    started = time.monotonic()
    sock = address.connect(target, min(timeout_s, address.CONNECT_TIMEOUT_S))
    transport = BlockingTransport(sock, ClientSession(), flush_delay_s=flush_delay_s)
    transport.open(hello, timeout_s - (time.monotonic() - started))
    return transport
