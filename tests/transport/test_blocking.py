"""The blocking face against an end of its own: stalls, floods, credits, reasons, forks and interrupts at any moment."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time

import pytest

from bitfusion import limits
from bitfusion.errors import DeadlineError, SessionClosedError, SessionError, WorkerDiedError
from bitfusion.session.client import ClientSession, Wait
from bitfusion.session.hello import Hello, Welcome
from bitfusion.session.server import Batch, Request, ServerSession
from bitfusion.transport import blocking
from bitfusion.transport.blocking import BlockingTransport
from bitfusion.types import DeviceInfo
from bitfusion.wire.connection import PayloadEnd
from bitfusion.wire.operations import Opcode
from tests.transport.test_faces import ask, write

TIMEOUT_S = 20
DEVICE = DeviceInfo("null", "nothing", "GPU-0", 1 << 30, (8, 0))


class End:
    """The server's end of a session on a socket pair, which does only what a test tells it to."""

    def __init__(self, sock: socket.socket, credit_count: int) -> None:
        self.sock = sock
        self.sock.settimeout(TIMEOUT_S)
        self.session = ServerSession()
        self.operations = 0
        while self.session.hello() is None:
            self._receive()
        welcome = Welcome("cafe", 1, DEVICE, 1 << 45, 1 << 32, 1 << 30, credit_count=credit_count)
        self.send(self.session.welcome(welcome))

    def send(self, buffers) -> None:
        for buffer in buffers:
            self.sock.sendall(buffer)

    def _receive(self) -> int:
        count = self.sock.recv_into(self.session.get_buffer())
        self.session.buffer_updated(count)
        return count

    def serve(self, until) -> None:
        """Execute what comes until ``until(self, event)``, the goodbye, or the end of the connection."""
        while True:
            while (event := self.session.next_event()) is not None:
                match event:
                    case Batch():
                        self.operations += len(event.operations)
                        self.send(self.session.executed(len(event.operations)))
                    case Request() if event.payload_size:
                        self.session.receive_into(memoryview(bytearray(event.payload_size)))
                    case Request(opcode=Opcode.READ):
                        half = memoryview(b"R" * (event.fields[1] // 2))
                        self.send(self.session.reply_piece(event.number, half, more=True))
                        self.send(self.session.reply_piece(event.number, half, more=False))
                    case Request():
                        self.send(self.session.reply(event.number, *event.fields[:1]))
                    case PayloadEnd():
                        self.operations += 1
                if until(self, event):
                    return
            if self.session.ended or not self._receive():
                return

    def serve_operations(self, count: int) -> None:
        self.serve(lambda end, event: end.operations >= count)

    def serve_call(self) -> None:
        self.serve(lambda end, event: isinstance(event, Request) and event.number)


@contextlib.contextmanager
def joined(credit_count=limits.CREDIT_COUNT):
    """A transport and the end it talks to."""
    ours, theirs = socket.socketpair()
    ends: list[End] = []
    opening = threading.Thread(target=lambda: ends.append(End(theirs, credit_count)))
    opening.start()
    transport = BlockingTransport(ours, ClientSession())
    transport.open(Hello(), TIMEOUT_S)
    opening.join()
    try:
        yield transport, ends[0]
    finally:
        theirs.close()
        transport.close()


@contextlib.contextmanager
def serving(end: End, what, *arguments):
    """The other end does this meanwhile; it has ended with the block."""
    thread = threading.Thread(target=what, args=(end, *arguments))
    thread.start()
    yield
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()


def test_what_a_full_socket_held_back_leaves_without_another_call():
    with joined() as (transport, end):
        posted = 0
        while not transport._unsent:  # until the flusher has met the full socket
            if not transport.session.full:
                transport.session.post(Opcode.WRITE, 0, 1 << 45, bytes(16 << 10))
                posted += 1
        end.serve_operations(posted)
        assert end.operations == posted


def test_credits_that_come_while_the_program_is_idle_are_used():
    with joined(credit_count=8) as (transport, end):
        for number in range(40):
            transport.session.post(Opcode.RELEASE, 0, number)
        end.serve_operations(40)
        assert end.operations == 40


def test_closing_sends_what_was_posted_beyond_the_credits():
    with joined(credit_count=8) as (transport, end):
        for number in range(40):
            transport.session.post(Opcode.RELEASE, 0, number)

        def last(end):
            end.serve(lambda end, event: False)
            end.sock.shutdown(socket.SHUT_RDWR)

        with serving(end, last):
            transport.close()
        assert end.operations == 40


def test_closing_does_not_wait_for_ever_for_a_server_that_hangs(monkeypatch):
    monkeypatch.setattr(blocking, "CLOSE_TIMEOUT_S", 0.05)
    with joined() as (transport, _):
        while not transport._unsent:  # the socket is full
            if not transport.session.full:
                transport.session.post(Opcode.WRITE, 0, 1 << 45, bytes(16 << 10))
        transport.close()
        with pytest.raises(SessionClosedError):
            transport.session.post(Opcode.RELEASE, 0, 1)


@pytest.mark.parametrize(("answered", "short", "long"), [(False, "ABANDON", "CLOSE"), (True, "CLOSE", "ABANDON")])
def test_closing_waits_less_after_an_interrupted_wait_until_another_was_answered(monkeypatch, answered, short, long):
    monkeypatch.setattr(blocking, f"{short}_TIMEOUT_S", 0.05)
    monkeypatch.setattr(blocking, f"{long}_TIMEOUT_S", TIMEOUT_S)
    with joined() as (transport, end):
        with pytest.raises(DeadlineError):
            transport.run(ask(transport.session, Opcode.ECHO, b"given up"), deadline_s=0.01)
        if answered:
            with serving(end, lambda end: [end.serve_call() for _ in range(2)]):
                assert transport.run(ask(transport.session, Opcode.ECHO, b"after")) == b"after"
        started = time.monotonic()
        transport.close()
        assert time.monotonic() - started < TIMEOUT_S / 2


def test_a_deadline_passes_while_sending_and_the_session_stays_in_step():
    with joined() as (transport, end):
        with pytest.raises(DeadlineError):
            transport.run(write(transport.session, bytearray(16 << 20)), deadline_s=0.05)
        with serving(end, End.serve_call):
            assert transport.run(ask(transport.session, Opcode.ECHO, b"after")) == b"after"
        assert end.operations == 4


@pytest.mark.parametrize("waiting", [False, True])
def test_the_reason_the_server_gave_outranks_the_broken_pipe(waiting):
    """It says why and hangs up without reading what we sent: sending fails, but the reason has arrived."""
    with joined() as (transport, end):
        if waiting:
            transport.session.call(Opcode.ECHO, 0, b"x")
        end.send(end.session.fail(0, WorkerDiedError("killed by a test")))
        end.sock.close()
        with pytest.raises(WorkerDiedError, match="killed by a test"):
            transport.run(write(transport.session, bytearray(16 << 20)))


def test_a_server_that_only_stops_talking_ends_a_send_that_waits():
    """Half closed and not reading: there is nothing to wait for, and the wait must not spin."""
    with joined() as (transport, end):
        transport.session.call(Opcode.ECHO, 0, b"x")
        end.sock.shutdown(socket.SHUT_WR)
        with pytest.raises(SessionError, match="closed it"):
            transport.run(write(transport.session, bytearray(16 << 20)))


def test_an_exception_from_outside_closes_the_operation_at_once():
    closed = []

    def operation():
        try:
            yield Wait.SENT
        finally:
            closed.append(True)

    class Interrupt(BaseException):
        pass

    with joined() as (transport, _):
        transport.wait = lambda *_: (_ for _ in ()).throw(Interrupt)
        with pytest.raises(Interrupt) as caught:
            transport.run(operation())
        assert closed and caught.value.__traceback__ is not None


def test_a_signal_handler_may_use_a_session_that_waits():
    """As a handler that saves a checkpoint does. While bytes move it is refused; the interrupted call goes on in both cases."""
    with joined() as (transport, end):
        held = transport.session.call(Opcode.SYNCHRONIZE, 0, 1)
        polled = []

        def handler(poll=transport._poll):  # in the place of a signal that arrives in poll
            def first(events, deadline):
                if not polled:
                    polled.append(transport.run(ask(transport.session, Opcode.ECHO, b"nested")))
                return poll(events, deadline)

            return first

        transport._poll = handler()

        def late(end):  # answers after the transport has gone over to poll
            while not end.sock.recv(1, socket.MSG_PEEK):
                pass
            threading.Event().wait(2 * blocking.SPIN_TIMEOUT_S)
            end.serve_call()
            end.serve_call()

        with serving(end, late):
            transport.wait(held)
        assert polled == [b"nested"] and held.done
        transport._moving = True
        with pytest.raises(SessionError, match="signal handler"):
            transport.run(ask(transport.session, Opcode.ECHO, b"x"))
        assert transport.session.error is None
        transport._moving = False


class Interrupter:
    """Raises KeyboardInterrupt at one of the moments when CPython runs signal handlers: a function's start, the return of a call to C."""

    def __init__(self, moment: int) -> None:
        self.left = moment

    def __call__(self, frame, event, argument) -> None:
        if event in ("call", "c_return"):
            self.left -= 1
            if self.left < 0:
                sys.setprofile(None)
                raise KeyboardInterrupt

    def __enter__(self):
        sys.setprofile(self)
        return self

    def __exit__(self, *_) -> None:
        sys.setprofile(None)


def everything(session, data, target):
    """An operation: posted work, past the credits, payload there, and payload back."""
    for number in range(6):
        session.post(Opcode.RELEASE, 0, number)
    session.post_payload(Opcode.WRITE_PAYLOAD, 0, 1 << 45, payload=data)
    yield Wait.SENT
    calls = []
    try:
        for start in (0, target.nbytes // 2):
            piece = target[start : start + target.nbytes // 2]
            session.call(Opcode.READ, 0, 1 << 45, piece.nbytes, into=piece, among=calls)
        yield from calls
    except BaseException:
        session.abandon(*calls)
        raise


def test_an_interrupt_at_any_moment_leaves_the_session_in_step():
    """Each in turn: nothing is lost, sent twice or taken for something else, and the callers' memory is left alone afterwards."""
    data, target = memoryview(bytes(300_000)), memoryview(bytearray(200_000))
    with joined(credit_count=4) as (transport, end):
        server = threading.Thread(target=end.serve, args=(lambda end, event: False,))
        server.start()
        moment, interrupted = 0, True
        while interrupted:
            target[:] = bytes(target.nbytes)
            try:
                with Interrupter(moment):
                    transport.run(everything(transport.session, data, target))
                interrupted = False
            except KeyboardInterrupt:
                target[:] = b"mine" * (target.nbytes // 4)
            expected = b"%d" % moment
            assert transport.run(ask(transport.session, Opcode.ECHO, expected), deadline_s=TIMEOUT_S) == expected
            assert target == (b"mine" * (target.nbytes // 4) if interrupted else b"R" * target.nbytes), moment
            moment += 1
        assert moment > 200
        assert not transport.session.waiting and not transport.session.queued and transport.session._credits >= 0
        end.sock.shutdown(socket.SHUT_RDWR)
        server.join()


def test_a_second_interrupt_while_memory_is_taken_back_ends_the_session(monkeypatch):
    with joined() as (transport, _):
        target = memoryview(bytearray(64))
        call = transport.session.call(Opcode.READ, 0, 1 << 45, 64, into=target)
        monkeypatch.setattr(transport, "_receive", interrupt := lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        monkeypatch.setattr(transport.session, "settle", interrupt)
        with pytest.raises(KeyboardInterrupt):
            transport.wait(call)
        monkeypatch.undo()
        with pytest.raises(SessionClosedError, match=r"interrupted .* connect again .*cuda\.close\(\)"):
            transport.run(ask(transport.session, Opcode.ECHO, b"x"))


FORKING = """
import os, sys
from bitfusion.errors import SessionClosedError
from bitfusion.session.hello import Hello
from bitfusion.transport import blocking
from bitfusion.transport.address import parse_target
from bitfusion.wire.operations import Opcode
from tests.transport.test_faces import ask
transport = blocking.open_session(parse_target(sys.argv[1]), Hello(memory=1 << 26), flush_delay_s=0)
session = transport.session
for number in range(200):
    session.post(Opcode.EVENT_CREATE, 0, 1, 1)  # the flusher is at work while we fork
    session.post(Opcode.EVENT_DESTROY, 0, 1)
    child = os.fork()
    if child == 0:
        transport.forget()
        try:
            transport.run(ask(session, Opcode.ECHO, b"x"))
        except SessionClosedError:
            transport.close()
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
print(transport.run(ask(session, Opcode.ECHO, b"still here")))
transport.close()
"""


def test_forks_at_any_moment(null_appliance):
    command = [sys.executable, "-c", FORKING, null_appliance.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "b'still here'\n"), done.stderr


STORM = """
import random, signal, sys
from bitfusion import limits
from bitfusion.errors import SessionError
from bitfusion.session.client import Wait
from bitfusion.session.hello import Hello
from bitfusion.transport import blocking
from bitfusion.transport.address import parse_target
from tests.transport.test_faces import ask, write
from bitfusion.wire.operations import Opcode

def fill(session, count):
    for _ in range(count):
        session.post(Opcode.FILL, 0, session.welcome.memory_base + size, 64, b"x")
    yield Wait.ROOM

chance = random.Random(int(sys.argv[2]))
armed = False

def interrupt(*_):
    if armed:
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
size = 8 * limits.MIB
data = bytearray(size)
kept = ended = 0
transport = None
for number in range(200):
    if transport is None:
        transport = blocking.open_session(parse_target(sys.argv[1]), Hello(memory=64 * limits.MIB))
        session = transport.session
        session.post(Opcode.ALLOCATE, 0, session.welcome.memory_base, 2 * size)
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 3e-3), 0.05)  # again, should a destructor swallow it
        while True:
            transport.run(ask(session, Opcode.ECHO, b"busy"))
            transport.run(fill(session, 50))
            if number % 3 == 0:
                transport.run(write(session, data))
    except KeyboardInterrupt:
        armed = False
    except SessionError:
        armed = False
    armed = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        expected = b"%d" % number
        assert transport.run(ask(session, Opcode.ECHO, expected), deadline_s=20) == expected
        kept += 1
    except SessionError as error:
        assert "connect again" in str(error), error
        ended += 1
        transport.close()
        transport = None
if transport is not None:
    transport.close()
print(kept >= 0.97 * (kept + ended), kept + ended)
"""


def test_interrupts_at_any_moment(null_appliance):
    """However a call is cut short, the session is in step afterwards or says that it has ended; no answer goes to another call."""
    command = [sys.executable, "-c", STORM, null_appliance.address, "10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "True 200\n"), done.stderr
