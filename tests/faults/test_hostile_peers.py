"""Peers that break the protocol cost themselves their session: a typed failure comes back, and the appliance goes on."""

from __future__ import annotations

import socket

import pytest

from bitfusion import limits
from bitfusion.errors import (
    BitfusionError,
    CapacityError,
    ConfigError,
    InvalidAddressError,
    InvalidHandleError,
    InvalidValueError,
    RemoteProtocolError,
    VersionMismatchError,
    decode,
)
from bitfusion.session.client import ClientSession
from bitfusion.session.hello import Hello, encode_hello
from bitfusion.transport.address import parse_target
from bitfusion.transport.blocking import BlockingTransport, open_session
from bitfusion.wire import codec
from bitfusion.wire.connection import Connection
from bitfusion.wire.frames import HEADER, MAGIC, Frame, Kind, encode_header
from bitfusion.wire.operations import CONFIG, Opcode
from bitfusion.wire.states import Role, State

SMALL = Hello(memory=16 * limits.MIB)


def raw(appliance) -> socket.socket:
    return socket.create_connection(("127.0.0.1", appliance.port), timeout=30)


def answer(sock: socket.socket) -> BitfusionError | None:
    """The failure the server sends before it hangs up; None if it hangs up without."""
    connection = Connection(Role.CLIENT, state=State.GREETED)
    while (event := connection.next_event()) is None:
        try:
            count = sock.recv_into(connection.get_buffer())
        except ConnectionResetError:
            return None
        if not count:
            return None
        connection.buffer_updated(count)
    assert isinstance(event, Frame)
    return decode(event.metadata) if event.kind is Kind.FAILURE else None


def call(transport: BlockingTransport, opcode: int, *fields: object, stream: int = 0):
    asked = transport.session.call(opcode, stream, *fields)
    transport.wait(asked)
    return asked.result()


@pytest.fixture
def session(null_appliance):
    transport = open_session(parse_target(null_appliance.address), SMALL)
    yield transport
    transport.close()


@pytest.fixture(autouse=True)
def goes_on(null_appliance):
    """After every test of this file the appliance still serves, and holds nothing of the peer's."""
    before = len(null_appliance.lines)
    yield
    transport = open_session(parse_target(null_appliance.address), SMALL)
    assert call(transport, Opcode.ECHO, b"still there") == b"still there"
    transport.close()
    null_appliance.wait_log("released", after=before)
    assert null_appliance.process.poll() is None


HELLO = codec.pack(encode_hello(SMALL))


def hello(version: int = 1, **changes: object) -> bytes:
    metadata = codec.pack(encode_hello(SMALL) | changes)
    return HEADER.pack(MAGIC, version, Kind.HELLO, 0, 0, 0, 0, 0, len(metadata), 0, 0) + metadata


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (
            b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
            RemoteProtocolError,
            "not the bitfusion protocol",
        ),
        (bytes(4096), RemoteProtocolError, "not the bitfusion protocol"),
        (b"\xff" * 100_000, RemoteProtocolError, "not the bitfusion protocol"),
        (hello(version=9), VersionMismatchError, "same release"),
        (hello(versions=[7, 8]), VersionMismatchError, "same release"),
        (hello() + encode_header(Kind.GOODBYE), RemoteProtocolError, "nothing may follow"),
        (encode_header(Kind.CALL, opcode=0x81, request=1), RemoteProtocolError, "sent CALL when START"),
        (encode_header(Kind.HELLO, metadata_size=limits.HELLO_SIZE_MAX + 1), RemoteProtocolError, "bytes of metadata"),
        (encode_header(Kind.HELLO, metadata_size=1) + b"\xc1", RemoteProtocolError, "msgpack"),
        (encode_header(Kind.HELLO), RemoteProtocolError, "must be a map"),
        (hello(gpus=0), ConfigError, "at least 1 GPU"),
        (hello(gpus=2), CapacityError, "a session is on 1 GPU"),
        (hello(memory=-1), ConfigError, "memory must be"),
        (hello(memory=2**62), BitfusionError, ""),
        (hello(memory=None, fraction=0.0), ConfigError, "fraction must be"),
        (hello(memory=None, fraction=-1.0), ConfigError, "fraction must be"),
        (hello(memory=None, fraction=1e300), ConfigError, "fraction must be"),
        (hello(memory=None, fraction=float("nan")), RemoteProtocolError, "fraction"),
        (hello(fraction=0.5), ConfigError, "not both"),
    ],
)
def test_a_bad_greeting_is_answered_with_its_reason(null_appliance, data, error, words):
    with raw(null_appliance) as sock:
        sock.sendall(data)
        failure = answer(sock)
    assert isinstance(failure, error) and words in failure.message


@pytest.mark.parametrize("count", [0, 1, 31, 32, 40])
def test_a_greeting_cut_short_is_forgotten(null_appliance, count):
    with raw(null_appliance) as sock:
        sock.sendall(hello()[:count])


def test_a_greeting_byte_by_byte_is_understood(null_appliance):
    with raw(null_appliance) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in hello():
            sock.sendall(bytes([byte]))
        assert sock.recv(4)[3] == Kind.WELCOME


def send(transport: BlockingTransport, data: bytes) -> None:
    transport._sock.sendall(data)


def frame(kind: Kind, fields: object, **header: int) -> bytes:
    metadata = codec.pack(fields)
    return encode_header(kind, metadata_size=len(metadata), **header) + metadata


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"garbage" * 100, "not the bitfusion protocol"),
        (hello(), "sent HELLO when OPEN"),
        (encode_header(Kind.REPLY, request=1), "sent REPLY"),
        (frame(Kind.CALL, [], opcode=0xF7, request=1), "0xf7 is not known"),
        (frame(Kind.POST, [[0x7A, 0]]), "0x7a is not known"),
        (frame(Kind.POST, [[0x81, 0, 0]]), "cannot be posted"),
        (frame(Kind.POST, [[4, 0, 1]]), "cannot be posted"),
        (frame(Kind.POST, [7]), "must be"),
        (frame(Kind.POST, [["x", 0]]), "cannot be posted"),
        (frame(Kind.POST, [[Opcode.STREAM_DESTROY, 0, 0], [{}, 0]]), "cannot be posted"),  # after a failure
        (frame(Kind.POST, [[1, 0, -5, 5]]), "address must be"),
        (frame(Kind.POST, [[1, 0, 5, "five"]]), "size must be"),
        (frame(Kind.POST, [[]] * 1025), "over 1024"),
        (encode_header(Kind.POST, opcode=4, payload_size=limits.PAYLOAD_SIZE_MAX), "must be an array|takes 1 fields"),
        (frame(Kind.POST, [1], opcode=4, payload_size=limits.CHUNK_SIZE + 1), "carries 1 to"),
        (
            encode_header(Kind.CALL, opcode=0x81, request=1, metadata_size=limits.METADATA_SIZE_MAX)[:24] + b"\xff" * 8,
            "payload",
        ),
    ],
)
def test_a_breach_in_a_session_ends_it_with_its_reason(session, data, words):
    send(session, data)
    asked = session.session.call(Opcode.SYNCHRONIZE, 0, 1)
    with pytest.raises(RemoteProtocolError, match=words):
        session.wait(asked)
        asked.result()
    with pytest.raises(RemoteProtocolError):
        session.session.post(Opcode.RELEASE, 0, 256)


def test_a_client_that_ignores_its_credit_is_dropped(session):
    batch = frame(Kind.POST, [[Opcode.EVENT_DESTROY, 0, 1]] * 1024)
    for _ in range(limits.CREDIT_COUNT // 1024 * 8):
        try:
            send(session, batch)
        except OSError:
            break
    with pytest.raises(BitfusionError):
        call(session, Opcode.SYNCHRONIZE, 1)


@pytest.mark.parametrize(
    ("opcode", "fields", "error", "operation"),
    [
        (Opcode.ALLOCATE, (256, 64), InvalidAddressError, "allocate"),
        (Opcode.ALLOCATE, (2**64 - 256, 2**40), InvalidAddressError, "allocate"),
        (Opcode.RELEASE, (256,), InvalidAddressError, "release"),
        (Opcode.WRITE, (256, b"x"), InvalidAddressError, "write"),
        (Opcode.COPY, (256, 512, 8), InvalidAddressError, "copy"),
        (Opcode.FILL, (256, 8, b"x"), InvalidAddressError, "fill"),
        (Opcode.FILL, (256, 8, b"xyz"), InvalidValueError, "fill"),
        (Opcode.LAUNCH, (77, CONFIG.pack(1, 1, 1, 1, 1, 1, 0), b""), InvalidHandleError, "launch"),
        (Opcode.STREAM_DESTROY, (0,), InvalidHandleError, "stream_destroy"),
        (Opcode.STREAM_DESTROY, (5,), InvalidHandleError, "stream_destroy"),
        (Opcode.STREAM_CREATE, (0,), InvalidHandleError, "stream_create"),
        (Opcode.EVENT_RECORD, (5,), InvalidHandleError, "event_record"),
        (Opcode.FUNCTION_UNLOAD, (5,), InvalidHandleError, "function_unload"),
        (Opcode.MODULE_UNLOAD, (5,), InvalidHandleError, "module_unload"),
    ],
)
def test_what_is_not_yours_is_an_error_that_names_the_operation_and_the_session_goes_on(
    session, opcode, fields, error, operation
):
    session.session.post(opcode, 0, *fields)
    with pytest.raises(error) as caught:
        call(session, Opcode.SYNCHRONIZE, 1)
    assert caught.value.operation.startswith(operation)
    call(session, Opcode.SYNCHRONIZE, 1)
    assert call(session, Opcode.ECHO, b"x") == b"x"


def test_addresses_of_a_stream_that_does_not_exist(session):
    with pytest.raises(InvalidHandleError, match="stream 9"):
        call(session, Opcode.STREAM_QUERY, stream=9)


def test_a_payload_for_memory_that_is_not_yours_is_dropped_and_reported(session):
    base = session.session.welcome.memory_base
    session.session.post(Opcode.ALLOCATE, 0, base, 1000)
    session.session.post_payload(Opcode.WRITE_PAYLOAD, 0, base, payload=memoryview(bytes(1001)))
    with pytest.raises(InvalidAddressError) as caught:
        call(session, Opcode.SYNCHRONIZE, 1)
    assert "write" in caught.value.operation
    session.session.post_payload(Opcode.WRITE_PAYLOAD, 0, base, payload=memoryview(bytes(1000)))
    call(session, Opcode.SYNCHRONIZE, 1)


def test_overlapping_allocations_are_refused(session):
    base = session.session.welcome.memory_base
    session.session.post(Opcode.ALLOCATE, 0, base + 1024, 1024)
    call(session, Opcode.SYNCHRONIZE, 1)
    for address, size in [(base + 1024, 1), (base + 768, 512), (base + 1280, 8), (base + 256, 1 << 20)]:
        session.session.post(Opcode.ALLOCATE, 0, address, size)
        with pytest.raises(InvalidAddressError, match="overlaps"):
            call(session, Opcode.SYNCHRONIZE, 1)


def test_the_server_is_believed_no_more_than_the_client():
    """A client that meets garbage instead of an appliance says so."""
    session = ClientSession()
    session.hello(Hello())
    data = b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(100)
    session.get_buffer()[: len(data)] = data
    session.buffer_updated(len(data))
    assert isinstance(session.error, RemoteProtocolError) and "not the bitfusion protocol" in session.error.message
