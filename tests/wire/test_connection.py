"""The protocol core: frames in any fragmentation, payloads straight into their memory, breaches refused."""

from __future__ import annotations

import tracemalloc

import pytest

from bitfusion import limits
from bitfusion.errors import LocalProtocolError, RemoteProtocolError, VersionMismatchError
from bitfusion.wire import codec
from bitfusion.wire.connection import READ_SIZE, Connection, PayloadEnd
from bitfusion.wire.frames import HEADER, HEADER_SIZE, MAGIC, Frame, Kind, encode_header
from bitfusion.wire.states import MOVES, Role, State, rcvd, sent


def open_pair() -> tuple[Connection, Connection]:
    return Connection(Role.CLIENT, state=State.OPEN), Connection(Role.SERVER, state=State.OPEN)


def joined(buffers) -> bytes:
    return b"".join(bytes(buffer) for buffer in buffers)


def feed(connection: Connection, data: bytes, step: int, target: bytearray | None = None) -> list:
    """Feed ``data`` in pieces of ``step`` bytes, taking payloads into ``target``; the events seen."""
    events = []
    view = memoryview(data)
    while len(view):
        buffer = connection.get_buffer()
        count = min(step, len(view), len(buffer))
        buffer[:count] = view[:count]
        connection.buffer_updated(count)
        view = view[count:]
        while (event := connection.next_event()) is not None:
            events.append(event)
            if isinstance(event, Frame) and event.payload_size:
                if target is None:
                    connection.discard_payload()
                else:
                    target += bytes(event.payload_size)
                    connection.receive_into(memoryview(target)[-event.payload_size :])
    return events


@pytest.mark.parametrize("step", [1, 3, 31, 32, 33, 1000, 65536, 1 << 20])
def test_frames_arrive_whatever_the_fragmentation(step):
    client, server = open_pair()
    payload = bytes(range(256)) * 600  # over the reused buffer
    data = joined(client.send(Kind.POST, codec.pack([[1, 0, 256, 64]])))
    data += joined(client.send(Kind.POST, codec.pack([7]), opcode=4, stream=3, payload=memoryview(payload)))
    data += joined(client.send(Kind.CALL, codec.pack([1]), opcode=0x81, request=9))
    target = bytearray()
    first, second, end, third = feed(server, data, step, target)
    assert (first.kind, first.metadata) == (Kind.POST, ((1, 0, 256, 64),))
    assert (second.opcode, second.stream, second.payload_size) == (4, 3, len(payload))
    assert isinstance(end, PayloadEnd) and end.frame is second
    assert (third.kind, third.request) == (Kind.CALL, 9)
    assert target == payload


@pytest.mark.parametrize("step", [1, 50, 70000])
def test_metadata_larger_than_the_reused_buffer(step):
    client, server = open_pair()
    image = bytes(READ_SIZE * 2)
    (frame,) = feed(server, joined(client.send(Kind.CALL, codec.pack([1, image]), opcode=0x91, request=1)), step)
    assert frame.metadata == (1, image)


@pytest.mark.parametrize("step", [1, 4096, 1 << 20])
def test_a_discarded_payload_leaves_the_stream_in_step(step):
    client, server = open_pair()
    data = joined(client.send(Kind.POST, codec.pack([7]), opcode=4, payload=memoryview(bytes(100_000))))
    data += joined(client.send(Kind.GOODBYE))
    events = feed(server, data, step)
    assert [getattr(event, "kind", "end") for event in events] == [Kind.POST, "end", Kind.GOODBYE]


def test_a_payload_is_received_straight_into_its_memory():
    client, server = open_pair()
    payload = bytes(range(256)) * 1024
    data = joined(client.send(Kind.POST, codec.pack([7]), opcode=4, payload=memoryview(payload)))
    head, rest = data[: len(data) - len(payload)], data[len(data) - len(payload) :]
    feed_head = server.get_buffer()
    feed_head[: len(head)] = head
    server.buffer_updated(len(head))
    server.next_event()
    target = bytearray(len(payload))
    server.receive_into(memoryview(target))
    assert server.next_event() is None
    server.get_buffer()[: len(rest)] = rest  # the target itself
    assert target == payload
    server.buffer_updated(len(rest))
    assert isinstance(server.next_event(), PayloadEnd)
    assert server.metrics.copied_bytes == 0


def test_sending_keeps_the_callers_own_memory():
    client, _ = open_pair()
    payload = memoryview(bytearray(64))
    assert client.send(Kind.POST, b"\x90", opcode=4, payload=payload)[1] is payload


def header(**changes) -> bytes:
    fields = {
        "magic": MAGIC,
        "version": 1,
        "kind": Kind.CALL,
        "opcode": 0x81,
        "flags": 0,
        "zero1": 0,
        "stream": 0,
        "request": 1,
        "metadata_size": 0,
        "zero2": 0,
        "payload_size": 0,
    }
    return HEADER.pack(*(fields | changes).values())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "not the bitfusion protocol"),
        (header(magic=b"XX"), "not the bitfusion protocol"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", r"not with b'SSH-2\.0-OpenSSH_9\.6"),
        (b"H", "not with b'H'"),
        (b"BX", "not with b'BX'"),
        (header(kind=99), "kind 99"),
        (header(flags=0x80), "reserved bits"),
        (header(zero1=1), "reserved bits"),
        (header(zero2=1), "reserved bits"),
        (header(metadata_size=limits.METADATA_SIZE_MAX + 1), "bytes of metadata"),
        (header(kind=Kind.POST, payload_size=limits.PAYLOAD_SIZE_MAX + 1), "bytes of payload"),
        (header(kind=Kind.CALL, payload_size=1), "carries no payload"),
        (header(kind=Kind.HELLO, metadata_size=limits.HELLO_SIZE_MAX + 1), "bytes of metadata"),
        (header(kind=Kind.REPLY), "the client sent REPLY"),
        (header(kind=Kind.HELLO), "the client sent HELLO"),
        (header(metadata_size=1) + b"\xc1", "strict msgpack"),
        (header(metadata_size=2) + b"\x01\x02", "strict msgpack"),
        (header(metadata_size=3) + b"\xd4\x01\x00", "strict msgpack"),
        (header(metadata_size=6) + b"\xd6\xff\x00\x00\x00\x00", "strict msgpack"),
        (header(metadata_size=2) + b"\xa1\xff", "strict msgpack"),
        (header(metadata_size=5) + b"\xdf\xff\xff\xff\xff", "strict msgpack"),
        (header(metadata_size=2) + b"\x81\x01", "strict msgpack"),
        (header(metadata_size=2000) + b"\x91" * 2000, "strict msgpack"),
    ],
)
def test_a_breach_is_a_typed_error(data, words):
    _, server = open_pair()
    with pytest.raises(RemoteProtocolError, match=words):
        feed(server, data, 4096)


def test_another_version_is_told_apart():
    _, server = open_pair()
    with pytest.raises(VersionMismatchError, match="wire version 2"):
        feed(server, header(version=2), 4096)


def test_our_own_mistakes_are_told_apart():
    client, server = open_pair()
    with pytest.raises(LocalProtocolError):
        client.send(Kind.REPLY)
    with pytest.raises(LocalProtocolError):
        server.receive_into(memoryview(bytearray(1)))
    with pytest.raises(LocalProtocolError):
        encode_header(Kind.CALL, metadata_size=limits.METADATA_SIZE_MAX + 1)


def test_every_move_that_is_not_in_the_table_is_refused():
    for state in State:
        for role in Role:
            for kind in Kind:
                if (state, role, kind) in MOVES:
                    assert sent(state, role, kind) is rcvd(state, role, kind) is MOVES[state, role, kind]
                else:
                    with pytest.raises(LocalProtocolError):
                        sent(state, role, kind)
                    with pytest.raises(RemoteProtocolError):
                        rcvd(state, role, kind)


def test_the_header_is_32_bytes():
    assert HEADER_SIZE == 32


@pytest.mark.parametrize("kind", [Kind.HELLO, Kind.WELCOME])
def test_a_first_frame_cannot_announce_more_items_than_it_may_have(kind):
    """Nested arrays that announce thousands of items each and bring none would cost room for all of them, in the daemon."""
    bomb = b"\xdc\x3a\x00" * 5000
    role, state = (Role.SERVER, State.START) if kind is Kind.HELLO else (Role.CLIENT, State.GREETED)
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="not strict msgpack"):
            feed(Connection(role, state=state), encode_header(kind, metadata_size=len(bomb)) + bomb, 4096)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
