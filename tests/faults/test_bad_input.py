"""Bad input from both ends, through the public faces: each gets a typed error that says what to do, and the appliance goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import bitfusion
from bitfusion import limits
from bitfusion.cli.exit_codes import ExitCode, exit_code
from bitfusion.errors import (
    BitfusionError,
    CapacityError,
    ConfigError,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    DeviceMemoryError,
    InvalidAddressError,
    InvalidHandleError,
    ResolveError,
    SessionError,
    UnreachableError,
    WorkerDiedError,
)
from bitfusion.session.hello import Hello
from bitfusion.transport.address import parse_target
from bitfusion.transport.blocking import open_session
from bitfusion.wire import codec
from bitfusion.wire.frames import Kind, encode_header
from bitfusion.wire.operations import Opcode
from tests.client.faces import done
from tests.faults.test_ends import serve_once, worker_of
from tests.faults.test_hostile_peers import HELLO, call, frame, hello, raw


@pytest.fixture(params=["blocking", "asyncio"])
def connect(request):
    return bitfusion.connect if request.param == "blocking" else bitfusion.aio.connect


# a server that is not there, refuses, or is no bitfusion


@contextlib.contextmanager
def http_server() -> Iterator[str]:
    """A real web server: it waits for the end of a request line that never comes."""

    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_a_web_server(connect):
    with http_server() as address, pytest.raises(ConnectError, match="in time; check the host and the port") as caught:
        await done(connect(address, timeout=0.3))
    assert exit_code(caught.value) == ExitCode.CONNECT


@pytest.mark.parametrize("closes", [False, True])
async def test_a_service_that_says_little(connect, closes):
    """Less than a header: it is known at once for what it is, whether it then waits or hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            if closes:
                connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(
        ConnectError, match=r"did not answer as a bitfusion .*HTTP/1\.1 400.*check the host and the port"
    ):
        await done(connect(f"127.0.0.1:{listener.getsockname()[1]}", timeout=600))
    await asyncio.to_thread(thread.join)  # the loop closes the socket


@pytest.mark.parametrize(
    "banner", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x15\x03\x03\x00\x02\x02\x46", bytes(64), b"BF\x01" + b"\xff" * 61]
)
async def test_another_protocol(connect, banner):
    address, thread = serve_once(banner + bytes(64))
    with pytest.raises(ConnectError, match=r"check the host and the port"):
        await done(connect(address))
    thread.join()


async def test_a_server_that_hangs_up(connect):
    address, thread = serve_once(b"")
    with pytest.raises(ConnectError, match="before it answered; check"):
        await done(connect(address))
    thread.join()


async def test_a_server_that_stays_silent(connect):
    linger = threading.Event()
    address, thread = serve_once(b"", linger=linger)
    with pytest.raises(ConnectError, match="in time; check"):
        await done(connect(address, timeout=0.2))
    linger.set()
    thread.join()


async def test_a_welcome_that_is_none(connect):
    for metadata in (codec.pack({}), codec.pack([1]), b"\xc1", codec.pack({"device": {}, "memory_chunk": 0})):
        address, thread = serve_once(encode_header(Kind.WELCOME, metadata_size=len(metadata)) + metadata)
        with pytest.raises(ConnectError, match="did not answer as a bitfusion appliance"):
            await done(connect(address))
        thread.join()


async def test_a_refusal_of_a_newer_server_keeps_its_words(connect):
    metadata = codec.pack([7777, "come back on Tuesday", {}])
    address, thread = serve_once(encode_header(Kind.FAILURE, metadata_size=len(metadata)) + metadata)
    with pytest.raises(BitfusionError, match="come back on Tuesday"):
        await done(connect(address))
    thread.join()


@pytest.mark.parametrize(
    ("target", "error", "words", "code"),
    [
        ("127.0.0.1:1", UnreachableError, "bitfusion serve", ExitCode.TCP),
        ("no-such-host.invalid", ResolveError, "check the spelling", ExitCode.DNS),
        ("x" * 70 + ".invalid", ResolveError, "check the spelling", ExitCode.DNS),
        ("127.0.0.1:seven", ConfigError, "write host:port", ExitCode.USAGE),
        ("[::1", ConfigError, r"\[v6\]:port", ExitCode.USAGE),
    ],
)
async def test_a_server_that_cannot_be_reached(connect, target, error, words, code):
    with pytest.raises(error, match=words) as caught:
        await done(connect(target))
    assert exit_code(caught.value) == code


async def test_a_server_that_has_no_room(connect, null_appliance):
    with pytest.raises(CapacityError, match="would fit now") as caught:
        await done(connect(null_appliance.address, memory="1TiB"))
    assert exit_code(caught.value) == ExitCode.CAPACITY


# a server that dies, stalls or speaks nonsense in the middle


@pytest.fixture
async def client(connect, null_appliance):
    client = await done(connect(null_appliance.address, memory="256MiB", deadline=60))
    yield client
    await done(client.close())


def worker(appliance, client) -> int:
    return int(appliance.wait_log(rf" (\d+) \S+ session {client.session_id} opened").group(1))


async def test_a_worker_that_dies_in_the_middle_of_a_copy(client, null_appliance):
    """In both directions, and again and again: the reason arrives, though bytes were on their way."""
    array = await done(client.device_array(64 << 20, "u1"))
    data = np.zeros(64 << 20, "u1")
    pid = worker(null_appliance, client)
    timer = threading.Timer(0.02, os.kill, (pid, signal.SIGKILL))
    timer.start()
    with pytest.raises(SessionError, match="connect again") as caught:
        while True:
            await done(array.copy_from_host(data))
            await done(array.copy_to_host(out=data))
    timer.join()
    assert isinstance(caught.value, WorkerDiedError | ConnectionLostError)
    with pytest.raises(SessionError):
        await done(client.synchronize())


@pytest.mark.parametrize("direction", ["in", "out"])
async def test_a_server_that_stalls_is_given_up_at_the_deadline(connect, null_appliance, direction):
    client = await done(connect(null_appliance.address, memory="256MiB", deadline=0.1))
    array = await done(client.device_array(64 << 20, "u1"))
    data = np.zeros(64 << 20, "u1")
    await done(client.synchronize())
    pid = worker(null_appliance, client)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(DeadlineError):
            await done(array.copy_from_host(data) if direction == "in" else array.copy_to_host())
    finally:
        os.kill(pid, signal.SIGCONT)
    client.deadline_s = 60
    await done(array.copy_from_host(data))
    assert await done(client.echo(b"in step")) == b"in step"
    await done(client.close())


ANSWERS = [
    (encode_header(Kind.REPLY, request=77), "not outstanding"),
    (encode_header(Kind.REPLY, request=1, payload_size=4096) + bytes(4096), "more than"),
    (encode_header(Kind.REPLY, request=1), "less than"),
    (encode_header(Kind.WELCOME), "sent WELCOME when OPEN"),
    (encode_header(Kind.HELLO), "sent HELLO"),
    (b"garbage" * 10, "not the bitfusion protocol"),
    (frame(Kind.FAILURE, "nonsense", request=0), "not \\[code, message, details\\]"),
]


@pytest.mark.parametrize(("answer", "words"), ANSWERS)
def test_a_server_that_breaks_the_protocol_in_a_session(null_appliance, answer, words):
    """The welcome of a real appliance, then nonsense."""
    with raw(null_appliance) as sock:
        sock.sendall(hello())
        head = sock.recv(32, socket.MSG_WAITALL)
        welcome = head + sock.recv(int.from_bytes(head[16:20], "little"), socket.MSG_WAITALL)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(welcome)
            connection.recv(4096)
            connection.sendall(answer)
            while connection.recv(4096):
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    client = bitfusion.connect(f"127.0.0.1:{listener.getsockname()[1]}", deadline=30)
    array = client.device_array(4, "u1")
    with pytest.raises(BitfusionError, match=words):
        array.copy_to_host()
    with pytest.raises(BitfusionError):
        client.synchronize()
    client.close()
    thread.join()


# a client that sends nonsense


@pytest.fixture
def session(null_appliance):
    transport = open_session(parse_target(null_appliance.address), Hello(memory=16 * limits.MIB))
    yield transport
    transport.close()


@pytest.fixture
def goes_on(null_appliance):
    """After the test the appliance serves, and no lease of the test's is left."""
    before = len(null_appliance.lines)
    yield
    null_appliance.wait_log("released", after=before)
    with bitfusion.connect(null_appliance.address) as client:
        assert client.echo(b"still there") == b"still there"


WHOLE = frame(Kind.POST, [[Opcode.STREAM_CREATE, 0, 1]]) + frame(Kind.CALL, [1], opcode=Opcode.SYNCHRONIZE, request=1)


@pytest.mark.parametrize("cut", [1, 16, 31, 32, 33, len(WHOLE) // 2, len(WHOLE) - 1])
def test_frames_that_are_cut_short_end_the_session_quietly(null_appliance, session, goes_on, cut):
    session._sock.sendall(WHOLE[:cut])
    session._sock.shutdown(socket.SHUT_WR)
    while session._sock.recv(4096):
        pass


def test_a_payload_that_is_cut_short(null_appliance, session, goes_on):
    base = session.session.welcome.memory_base
    session._sock.sendall(frame(Kind.POST, [[Opcode.ALLOCATE, 0, base, limits.CHUNK_SIZE]]))
    session._sock.sendall(
        frame(Kind.POST, [base], opcode=Opcode.WRITE_PAYLOAD, payload_size=limits.CHUNK_SIZE) + bytes(1000)
    )
    session._sock.close()


REORDERED = [
    encode_header(Kind.CALL, opcode=Opcode.METRICS, request=1),
    encode_header(Kind.GOODBYE),
    encode_header(Kind.POST, opcode=Opcode.WRITE_PAYLOAD, payload_size=10) + bytes(10),
    encode_header(Kind.CREDIT, request=10),
]


@pytest.mark.parametrize("early", REORDERED)
def test_frames_before_the_hello(null_appliance, early):
    with raw(null_appliance) as sock:
        sock.sendall(early + hello())
        assert sock.recv(4)[3] == Kind.FAILURE


def test_frames_after_the_goodbye_are_not_executed(null_appliance, session, goes_on):
    session._sock.sendall(encode_header(Kind.GOODBYE) + WHOLE * 10)
    while session._sock.recv(4096):
        pass


def test_every_byte_of_a_frame_turned_into_another_ends_the_session_or_is_refused(null_appliance):
    """Single flipped bytes in a hello: a typed failure, a hang-up, or a lease; never a daemon that is gone."""
    greeting = bytearray(hello())
    for index in [*range(32), *range(32, len(greeting), 7)]:
        broken = greeting.copy()
        broken[index] ^= 0x80
        with raw(null_appliance) as sock:
            sock.sendall(broken)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
    with bitfusion.connect(null_appliance.address, memory="2MiB") as client:
        assert client.echo(b"x") == b"x"
    assert len(HELLO) > 32


@pytest.mark.parametrize(
    ("opcode", "fields", "error"),
    [
        (Opcode.READ, (1 << 45, 8), InvalidAddressError),
        (Opcode.READ, (2**64 - 8, 8), InvalidAddressError),
        (Opcode.EVENT_SYNCHRONIZE, (5,), InvalidHandleError),
        (Opcode.EVENT_QUERY, (5,), InvalidHandleError),
        (Opcode.EVENT_ELAPSED, (5, 6), InvalidHandleError),
        (Opcode.FUNCTION_LOAD, (1, 5, "kernel"), InvalidHandleError),
        (Opcode.KERNEL_LOAD, (1, bytes(32), [], {}), InvalidHandleError),
        (Opcode.FUNCTION_OCCUPANCY, (5, 32, 0), InvalidHandleError),
    ],
)
def test_calls_for_what_is_not_yours_fail_alone(session, opcode, fields, error):
    with pytest.raises(error):
        call(session, opcode, *fields)
    assert call(session, Opcode.ECHO, b"x") == b"x"


def test_the_lease_is_enforced_by_the_server(session):
    """A client that does not count, or lies: what it asked, what was used and what is allowed come back."""
    base = session.session.welcome.memory_base
    session.session.post(Opcode.ALLOCATE, 0, base, 8 * limits.MIB)
    session.session.post(Opcode.ALLOCATE, 0, base + 32 * limits.MIB, 8 * limits.MIB + 1)
    with pytest.raises(DeviceMemoryError) as caught:
        call(session, Opcode.SYNCHRONIZE, 1)
    asked, used, limit = caught.value.requested, caught.value.used, caught.value.limit
    assert (asked, used, limit) == (8 * limits.MIB + 1, 8 * limits.MIB, 16 * limits.MIB)
    assert caught.value.operation.startswith("allocate")
    session.session.post(Opcode.ALLOCATE, 0, base + 32 * limits.MIB, 8 * limits.MIB)
    call(session, Opcode.SYNCHRONIZE, 1)
    assert call(session, Opcode.MEMORY_INFO) == (0, 16 * limits.MIB)


def test_a_client_that_never_destroys_what_it_creates_is_stopped(session):
    for number in range(1, limits.HANDLE_COUNT_MAX + 2):
        session.session.post(Opcode.EVENT_CREATE, 0, number, 0)
    with pytest.raises(InvalidHandleError, match="too many"):
        call(session, Opcode.SYNCHRONIZE, 1)
    assert call(session, Opcode.ECHO, b"x") == b"x"


def test_the_memory_of_another_session_is_not_there(virtual_appliance):
    """Both sessions have the same range of addresses; what lies there is each one's own."""
    with (
        bitfusion.connect(virtual_appliance.address, memory="4MiB") as victim,
        bitfusion.connect(virtual_appliance.address, memory="4MiB") as other,
    ):
        secret = victim.to_device(np.full(1000, 0x5EC2E7))
        asked = other.core.session.call(Opcode.READ, 0, secret.address, 1000, into=memoryview(bytearray(1000)))
        with pytest.raises(InvalidAddressError, match="not within a live allocation"):
            other._transport.wait(asked)
            asked.result()
        own = other.device_array(4 << 20, "u1")
        assert not own.copy_to_host().any()
        assert (secret.copy_to_host() == 0x5EC2E7).all()


def test_silent_connections_cannot_keep_clients_out_for_long(null_appliance):
    """As many as may wait to say hello, and more, are turned away; when they go, clients come in again."""
    silent = [raw(null_appliance) for _ in range(300)]
    turned_away = [sock for sock in silent[256:] if sock.recv(4)[3:4] == bytes([Kind.FAILURE])]
    assert len(turned_away) == 300 - 256
    with pytest.raises(BitfusionError, match="try again"):
        bitfusion.connect(null_appliance.address, memory="2MiB")
    for sock in silent:
        sock.close()
    client = None
    while client is None:  # until the appliance has seen the silent ones go
        with contextlib.suppress(BitfusionError):
            client = bitfusion.connect(null_appliance.address, memory="2MiB")
    client.close()


def test_workers_are_found_by_their_session(null_appliance, session):
    assert worker_of(null_appliance, session) in null_appliance.workers()
