"""The blocking face: a session on a plain blocking socket, without an event loop and without a thread for calls.

``run`` drives an operation (a generator that yields what it waits for). A small flusher thread only moves what was posted
when the program goes idle, so that work never sits unseen; it sleeps while nothing is posted. One lock says whose turn it is: the program
holds it while it waits for something, the flusher, which never blocks, for a moment while the program does other things.

An interrupt (Ctrl-C) abandons the call that is awaited, and the session goes on. For that, no count of moved bytes may get lost
between the system call and the account of it: ``list.extend`` stores what the system call returned before Python looks for signals again
(wire/connection.py has the rule), and the next turn goes on from there. What was sent in part of an interrupted copy is sent to its end.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from typing import TypeVar

from bitfusion import limits
from bitfusion.errors import (
    OPEN_ANOTHER,
    BitfusionError,
    ConnectionLostError,
    DeadlineError,
    SessionClosedError,
    SessionError,
)
from bitfusion.session.client import Call, ClientSession, Operation, Wait
from bitfusion.session.hello import Hello
from bitfusion.session.waiting import OnWait
from bitfusion.transport import address
from bitfusion.transport.address import Target
from bitfusion.types import Buffer

T = TypeVar("T")

SPIN_TIMEOUT_S = 0.05
"""How long an answer is awaited inside recv itself, one system call; after that in poll, where an interrupt loses nothing."""

POLL_TIMEOUT_S = 1.0
"""The longest single poll: the answer awaited may have been received by a signal handler that used the session in between."""

CLOSE_TIMEOUT_S = 10.0
"""How long to wait for the server to confirm the end; it frees everything in any case."""

ABANDON_TIMEOUT_S = 1.0
"""The same where the program's last wait was interrupted: what it waited for, it does not want any more."""

FLUSHER_IDLE_TICKS = 20
"""Ticks without posted work after which the flusher sleeps until it is woken."""

IOV_COUNT_MAX = 512
"""Buffers of one sendmsg; the kernel's own bound is 1024 (UIO_MAXIOV)."""


class BlockingTransport:
    """One session on one blocking socket. One thread at a time may run operations."""

    def __init__(
        self, sock: socket.socket, session: ClientSession, *, flush_delay_s: float = limits.FLUSH_DELAY_S
    ) -> None:
        self.session = session
        self._sock = sock
        self._flush_delay_s = flush_delay_s
        self._lock = threading.RLock()  # re-entered only by a signal handler that uses the session
        self._unsent: list[Buffer] = []
        # bytes of ``_unsent`` that have left and are not taken out of it yet: one count at most
        self._sent: list[int] = []
        # the program is between taking bytes and the account of them: a signal handler must keep out
        self._moving = False
        self._interrupted = False  # it left that early: the next turn goes on from there
        self._abandoned = False  # the last wait for an answer was left before its end
        session.turn = self._lock
        self._flusher: threading.Thread | None = None
        self._awake = threading.Event()
        self._closing = threading.Event()
        seconds, rest = divmod(SPIN_TIMEOUT_S, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(seconds), int(rest * 1e6)))

    # life

    def open(self, hello: Hello, timeout_s: float, on_wait: OnWait | None = None) -> None:
        """Say hello and wait for the welcome; raises the server's refusal. Time in the server's queue does not count."""
        deadline: float | None = time.monotonic() + timeout_s
        try:
            self._unsent += self.session.hello(hello)
            try:
                self._send_all(deadline)
            except OSError as error:
                self._send_failed(error)
            while not self.session.opened:
                self._receive(deadline)
                if self.session.error is not None:
                    raise self.session.error.again()
                while self.session.news:
                    waiting = self.session.news.popleft()
                    deadline = None if waiting.position else time.monotonic() + timeout_s
                    if on_wait is not None:
                        on_wait(waiting)
        except BaseException:
            self._sock.close()
            raise
        self.session.wake = self._wake_flusher

    def close(self) -> None:
        """End the session: what was posted is sent, and when this returns the lease is free again. Safe to call again.

        Not so after CLOSE_TIMEOUT_S, or ABANDON_TIMEOUT_S after an interrupted wait: then the server ends what still runs.
        """
        self._stop_flusher()
        timeout_s = ABANDON_TIMEOUT_S if self._abandoned else CLOSE_TIMEOUT_S
        try:
            with contextlib.suppress(BitfusionError), self._lock:
                self._say_goodbye(time.monotonic() + timeout_s)
        finally:
            self.session.end(SessionClosedError("the session is closed; connect again"))
            self._sock.close()

    def _say_goodbye(self, deadline: float) -> None:
        self._flush(deadline)
        self._unsent += self.session.goodbye()
        self._flush(deadline)
        while self.session.error is None:  # the server hangs up once all is freed
            self._receive(deadline)

    def cut(self) -> None:
        """From a thread that cannot wait for another to leave ``run``: end the connection under it."""
        with contextlib.suppress(OSError):  # it is closed already
            self._sock.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """In a forked child: the session is the parent's. Give up this copy of its socket without a word to the server."""
        self._lock = threading.RLock()  # the parent's may have been held, and nobody here would release it
        self.session.turn = self._lock
        self._awake, self._closing = threading.Event(), threading.Event()
        self._flusher, self._unsent = None, []
        self.session.wake = None
        self.session.end(SessionClosedError("the session belongs to the parent process; connect again in the child"))
        self._sock.close()

    # looking, for those that wait for something else

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def look(self) -> BitfusionError | None:
        """Receive what has come, without waiting; what ended the session, if it has ended."""
        with self._lock:
            try:
                if self._interrupted:
                    self._resume()
                while self.session.error is None and self._take(socket.MSG_DONTWAIT):
                    pass
            except OSError as error:
                self._lose(error)
        return self.session.error

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
        except BaseException:
            operation.close()  # now, not when the traceback goes: it takes back the caller's memory
            raise

    def wait(self, wait: Call | Wait, deadline: float | None = None) -> None:
        """Send what is queued and wait until ``wait`` is over."""
        started = time.perf_counter_ns()
        moving = started if wait is Wait.SENT else 0  # since when payload moves
        with self._lock:
            self._take_turn()
            try:
                self._flush(deadline)
                if isinstance(wait, Call):
                    while not wait.done:
                        if wait.filled and not moving:
                            moving = time.perf_counter_ns()
                        self._receive(deadline)
            except BaseException:
                self._leave_turn()
                if isinstance(wait, Call):
                    self._abandoned = True
                    self.session.abandon(wait)
                raise
        if wait is not Wait.ROOM:
            self._abandoned = False
            now = time.perf_counter_ns()
            self.session.metrics.wait_ns += (moving or now) - started
            self.session.metrics.transfer_ns += now - (moving or now)

    def flush(self, deadline: float | None = None) -> None:
        """Send all that is queued, waiting for credits where they are used up. Raises what ended the session."""
        with self._lock:
            self._take_turn()
            try:
                self._flush(deadline)
            except BaseException:
                self._leave_turn()
                raise

    def _take_turn(self) -> None:
        if self._moving:
            raise SessionError("a signal handler cannot use a session that it interrupted in the middle of a transfer")
        if self._interrupted:
            self._resume()

    def _leave_turn(self) -> None:
        """An interrupt, or a deadline: what is half done waits for the next turn."""
        self._interrupted, self._moving = True, False

    def _resume(self) -> None:
        """Finish what an interrupt left half done. Being interrupted itself changes nothing."""
        if self.session.torn:
            self._end_torn()
        if self._sent:
            self._unsent = _after(self._unsent, self._sent[0])
            self._sent.clear()
        self.session.settle()
        self._interrupted = False

    def _flush(self, deadline: float | None) -> None:
        session = self.session
        if session.error is not None:
            raise session.error.again()
        try:
            while True:
                self._moving = True  # what has been taken from the queue is nowhere else yet
                session.move_to(self._unsent)
                self._send_all(deadline)
                if not session.queued:
                    break
                session.metrics.credit_waits += 1
                self._receive(deadline)
        except OSError as error:
            self._moving = False
            self._send_failed(error)
        if session.error is not None:
            raise session.error.again()

    # the socket

    def _end_torn(self) -> None:
        """Interrupted while it took memory back: what is still to be received could reach memory that is the caller's again."""
        self.session.end(
            SessionClosedError(f"the session was interrupted while it took back an interrupted copy; {OPEN_ANOTHER}")
        )
        self._closing.set()
        self._sock.close()

    def _lose(self, error: OSError | None) -> None:
        self._unsent = []
        self.session.end(ConnectionLostError(address.lost(error)))

    def _send_failed(self, error: OSError) -> None:
        """Nothing can be sent any more; what the server said before it hung up may be the reason, so that comes first."""
        with contextlib.suppress(OSError):
            while self.session.error is None and self._take(socket.MSG_DONTWAIT):
                pass
        self._lose(error)

    def _send_all(self, deadline: float | None) -> None:
        """Send ``_unsent``. Where answers may be on their way, receive whenever the peer will not take more."""
        flags = 0 if deadline is None and not self.session.waiting else socket.MSG_DONTWAIT
        while self._unsent:
            self._moving = True
            try:
                self._send(flags)
            except BlockingIOError:
                self._moving = False
                self._wait_writable(deadline)
        self._moving = False

    def _send(self, flags: int) -> None:
        """Send once and account for it."""
        unsent, sent = self._unsent, self._sent
        if len(unsent) == 1:  # as a rule: a call, or a batch
            sent.extend(map(self._sock.send, unsent, (flags,)))
        else:
            sent.extend(map(self._sock.sendmsg, (unsent[:IOV_COUNT_MAX],), ((),), (flags,)))
        self._unsent = _after(unsent, sent[0])
        sent.clear()

    def _wait_writable(self, deadline: float | None) -> None:
        """Wait until more can be sent, receiving what comes. DeadlineError, and what ended the session meanwhile."""
        if self._poll(select.POLLIN | select.POLLOUT, deadline) & select.POLLIN:
            self._read()
        if self.session.error is not None:
            raise self.session.error.again()

    def _receive(self, deadline: float | None) -> None:
        """Receive once, or find after a while that nothing came. DeadlineError once the deadline has passed."""
        if self.session.error is not None:
            raise self.session.error.again()
        if (deadline is not None or not self._read()) and self._poll(select.POLLIN, deadline):
            self._read()

    def _poll(self, events: int, deadline: float | None) -> int:
        """Wait in poll, where an interrupt loses nothing; what is ready, or 0 after a while. DeadlineError."""
        timeout_s = POLL_TIMEOUT_S if deadline is None else min(deadline - time.monotonic(), POLL_TIMEOUT_S)
        if timeout_s <= 0:
            raise DeadlineError("the server did not answer in time")
        poll = select.poll()
        poll.register(self._sock, events)
        return next((ready for _, ready in poll.poll(timeout_s * 1000)), 0)

    def _read(self) -> bool:
        """Receive once, for SPIN_TIMEOUT_S at most; whether anything came, the end of the connection included."""
        self._moving = True
        try:
            came = self._take(0)
        except OSError as error:
            self._lose(error)
            came = True
        self._moving = False
        return came

    def _take(self, flags: int) -> bool:
        """Receive once and account for it; false if nothing was there. OSError but for that."""
        rcvd = self.session.rcvd
        try:
            rcvd.extend(map(self._sock.recv_into, (self.session.get_buffer(),), (0,), (flags,)))
        except BlockingIOError:
            return False
        if rcvd[0]:
            self.session.settle()
        else:
            rcvd.clear()
            self._lose(None)
        return True

    # the flusher

    def _wake_flusher(self) -> None:
        self.session.wake = None
        if self._flusher is None:
            flusher = threading.Thread(target=self._flush_idle, name="bitfusion-flusher", daemon=True)
            flusher.start()
            self._flusher = flusher
        self._awake.set()

    def _flush_idle(self) -> None:
        """Every tick, move what was posted; sleep after some ticks without any."""
        while not self._closing.is_set():
            self._awake.wait()
            self._awake.clear()
            quiet = 0
            while quiet < FLUSHER_IDLE_TICKS and not self._closing.wait(self._flush_delay_s):
                quiet = 0 if self._flush_tick() else quiet + 1
            self.session.wake = self._wake_flusher
            if self._idle_work():
                self._awake.set()

    def _idle_work(self) -> bool:
        return self.session.error is None and bool(self.session.queued or self._unsent)

    def _flush_tick(self) -> bool:
        """Move what is there, unless the program itself is at it; whether there was any."""
        if not self._idle_work():
            return False
        if self._lock.acquire(blocking=False):
            try:
                self._move_idle()
            except OSError as error:
                self._send_failed(error)
            finally:
                self._lock.release()
        return True

    def _move_idle(self) -> None:
        """Send what can be sent without waiting; where that is not all, receive: credits, or what the peer must get rid of first."""
        if self._interrupted:
            self._resume()
        self.session.move_to(self._unsent)
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                self._send(socket.MSG_DONTWAIT)
        if self._unsent or self.session.queued:
            self._take(socket.MSG_DONTWAIT)

    def _stop_flusher(self) -> None:
        self.session.wake = None
        self._closing.set()
        self._awake.set()
        if self._flusher is not None and self._flusher is not threading.current_thread():
            self._flusher.join()


def _after(buffers: list[Buffer], count: int) -> list[Buffer]:
    """What is left of ``buffers`` after the first ``count`` bytes."""
    if len(buffers) == 1 and type(buffers[0]) is bytes and len(buffers[0]) == count:
        return []
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
    on_wait: OnWait | None = None,
) -> BlockingTransport:
    """Connect and open a session. ResolveError, UnreachableError, and what the server refuses with; ``timeout_s`` in all.

    Time in the server's queue comes on top of that; ``on_wait`` is told of each place in it.
    """
    started = time.monotonic()
    sock = address.connect(target, min(timeout_s, address.CONNECT_TIMEOUT_S))
    transport = BlockingTransport(sock, ClientSession(), flush_delay_s=flush_delay_s)
    transport.open(hello, timeout_s - (time.monotonic() - started), on_wait)
    return transport
