"""Both ends of a session joined in memory: batches, calls, credits, sticky failures, breaches."""

from __future__ import annotations

import traceback

import pytest

from bitfusion import limits
from bitfusion.errors import (
    BitfusionError,
    ConnectionLostError,
    DeviceMemoryError,
    InvalidValueError,
    KernelFaultError,
    LaunchError,
    RemoteProtocolError,
    SessionClosedError,
)
from bitfusion.session.client import ClientSession
from bitfusion.session.hello import Hello, Welcome, decode_hello, decode_welcome, encode_hello, encode_welcome
from bitfusion.session.server import Batch, Request, ServerSession
from bitfusion.types import DeviceInfo
from bitfusion.wire import codec
from bitfusion.wire.connection import PayloadEnd
from bitfusion.wire.frames import Kind, encode_header
from bitfusion.wire.operations import Opcode

DEVICE = DeviceInfo("null", "nothing", "GPU-0", 1 << 30, (8, 0), {"WARP_SIZE": 32})
WELCOME = Welcome("cafe", 1, DEVICE, 1 << 45, 1 << 32, 1 << 30, credit_count=8)


def deliver(buffers, end) -> None:
    data = memoryview(b"".join(bytes(buffer) for buffer in buffers))
    while len(data):
        buffer = end.get_buffer()
        count = min(len(buffer), len(data))
        buffer[:count] = data[:count]
        end.buffer_updated(count)
        data = data[count:]


def opened() -> tuple[ClientSession, ServerSession]:
    client, server = ClientSession(), ServerSession()
    deliver(client.hello(Hello(user="ada", gpus=1, fraction=0.5)), server)
    assert server.hello() == Hello(user="ada", gpus=1, fraction=0.5)
    deliver(server.welcome(WELCOME), client)
    assert client.welcome == WELCOME
    return client, server


def events(server: ServerSession) -> list:
    found = []
    while (event := server.next_event()) is not None:
        found.append(event)
    return found


def test_posted_operations_travel_together_and_before_the_call():
    client, server = opened()
    client.post(Opcode.ALLOCATE, 0, 1 << 45, 64)
    client.post(Opcode.FILL, 2, 1 << 45, 64, b"\0")
    call = client.call(Opcode.SYNCHRONIZE, 2, 0)
    deliver(client.data_to_send(), server)
    batch, request = events(server)
    assert batch == Batch(((1, 0, 1 << 45, 64), (6, 2, 1 << 45, 64, b"\0")))
    assert request == Request(Opcode.SYNCHRONIZE, 2, (0,), call.request, 0)
    assert not call.done
    deliver(server.reply(request.number, {"x": 1}), client)
    assert call.done and call.result() == {"x": 1}


def test_a_read_arrives_piece_by_piece_in_the_callers_memory():
    client, server = opened()
    target = bytearray(10)
    call = client.call(Opcode.READ, 0, 1 << 45, 10, into=memoryview(target))
    deliver(client.data_to_send(), server)
    (request,) = events(server)
    deliver(server.reply_piece(request.number, memoryview(b"01234"), more=True), client)
    assert not call.done
    deliver(server.reply_piece(request.number, memoryview(b"56789"), more=False), client)
    assert call.done and target == b"0123456789"


@pytest.mark.parametrize(("sizes", "words"), [((5, 6), "more than"), ((5,), "less than")])
def test_a_read_of_the_wrong_size_ends_the_session(sizes, words):
    client, server = opened()
    call = client.call(Opcode.READ, 0, 1 << 45, 10, into=memoryview(bytearray(10)))
    deliver(client.data_to_send(), server)
    (request,) = events(server)
    for index, size in enumerate(sizes):
        deliver(server.reply_piece(request.number, memoryview(bytes(size)), more=index + 1 < len(sizes)), client)
    with pytest.raises(RemoteProtocolError, match=words):
        call.result()
    with pytest.raises(RemoteProtocolError):
        client.post(Opcode.RELEASE, 0, 1)


def test_an_abandoned_calls_answer_is_dropped():
    client, server = opened()
    target = bytearray(4)
    call = client.call(Opcode.READ, 0, 1 << 45, 4, into=memoryview(target))
    later = client.call(Opcode.SYNCHRONIZE, 0, 0)
    deliver(client.data_to_send(), server)
    read, synchronize = events(server)
    client.abandon(call)
    deliver(server.reply_piece(read.number, memoryview(b"late"), more=False), client)
    deliver(server.reply(synchronize.number), client)
    assert later.done and not call.done and target == bytes(4)


def test_an_answer_nobody_asked_for_ends_the_session():
    client, server = opened()
    deliver(server.reply(77), client)
    with pytest.raises(RemoteProtocolError, match="77"):
        client.call(Opcode.SYNCHRONIZE, 0, 0)


def test_payloads_travel_in_frames_of_their_own():
    client, server = opened()
    payload = memoryview(bytearray(b"abcd" * 1000))
    client.post_payload(Opcode.WRITE_PAYLOAD, 5, 1 << 45, payload=payload)
    buffers = client.data_to_send()
    assert buffers[-1] is payload
    deliver(buffers[:1], server)
    request = server.next_event()
    assert (request.opcode, request.stream, request.fields, request.payload_size) == (4, 5, (1 << 45,), 4000)
    target = bytearray(4000)
    server.receive_into(memoryview(target))
    deliver(buffers[1:], server)
    assert isinstance(server.next_event(), PayloadEnd) and target == payload


def test_credits_hold_the_client_back_until_the_worker_gives_them_back():
    client, server = opened()
    for number in range(20):
        client.post(Opcode.RELEASE, 0, number)
    call = client.call(Opcode.SYNCHRONIZE, 0, 0)
    seen = 0
    while not call.done:
        deliver(client.data_to_send(), server)
        for event in events(server):
            if isinstance(event, Batch):
                assert len(event.operations) <= WELCOME.credit_count
                seen += len(event.operations)
                deliver(server.executed(len(event.operations)), client)
            else:
                deliver(server.reply(event.number), client)
    assert seen == 20


def test_a_client_over_its_credit_breaks_the_protocol():
    _, server = opened()
    batch = codec.pack([[Opcode.RELEASE, 0, number] for number in range(9)])
    with pytest.raises(RemoteProtocolError, match="over the credit of 8"):
        deliver([encode_header(Kind.POST, metadata_size=len(batch)) + batch], server)
        server.next_event()


def test_the_first_failure_is_kept_and_reported_once_with_its_operation():
    _, server = opened()
    server.failures.keep(LaunchError("too many threads"), "launch of f")
    server.failures.keep(InvalidValueError("later"), "fill")
    failure = server.failures.take()
    assert isinstance(failure, LaunchError) and failure.operation == "launch of f"
    assert server.failures.take() is None


def test_a_kernel_fault_outranks_and_stays():
    _, server = opened()
    server.failures.keep(LaunchError("x"), "launch of f")
    server.failures.keep(KernelFaultError("illegal address"), "launch of g")
    assert server.failures.poisoned
    assert server.failures.take().message == "illegal address"
    for _ in range(2):
        later = server.failures.take()
        assert isinstance(later, KernelFaultError) and server.failures.poisoned
        assert later.message.startswith("an earlier launch failed") and later.message.endswith(
            "It was: illegal address"
        )
        assert "cuda.close()" in later.message and later.message.count("earlier") == 1
        assert later.operation == "launch of g" and later.details["earlier"] is True


def test_a_failure_of_a_call_is_that_calls():
    client, server = opened()
    bad, good = client.call(Opcode.SYNCHRONIZE, 0, 0), client.call(Opcode.MEMORY_INFO, 0)
    deliver(client.data_to_send(), server)
    first, second = events(server)
    deliver(server.fail(first.number, LaunchError("no", operation="launch of f")), client)
    deliver(server.reply(second.number, [1, 2]), client)
    with pytest.raises(LaunchError, match="no"):
        bad.result()
    assert good.result() == (1, 2)


def test_the_end_reaches_every_call_and_everything_later():
    client, _ = opened()
    calls = [client.call(Opcode.SYNCHRONIZE, 0, 0) for _ in range(3)]
    client.end(ConnectionLostError("cut"))
    for call in calls:
        with pytest.raises(ConnectionLostError):
            call.result()
    with pytest.raises(ConnectionLostError):
        client.post(Opcode.RELEASE, 0, 1)
    assert client.goodbye() == []


def test_what_ended_a_session_is_raised_afresh_each_time():
    """One exception raised again and again would grow a traceback that keeps every frame it went through, and their arrays."""
    client, _ = opened()
    call = client.call(Opcode.SYNCHRONIZE, 0, 0)
    client.end(DeviceMemoryError("full", requested=5, used=3, limit=4, operation="allocate"))
    raised = []
    for use in (call.result, call.result, lambda: client.post(Opcode.RELEASE, 0, 1), lambda: client.call(1, 0)) * 2:
        with pytest.raises(DeviceMemoryError) as caught:
            use()
        raised.append(caught.value)
    assert len({id(error) for error in raised}) == len(raised)
    for error in raised:
        assert error.args == ("full",) and error.requested == 5 and error.operation == "allocate"
        assert len(traceback.extract_tb(error.__traceback__)) <= 3 and error.__cause__ is error.__context__ is None
    assert client.error is not None and client.error.__traceback__ is None


def test_a_call_that_cannot_be_packed_leaves_nothing_behind():
    client, _ = opened()
    with pytest.raises(TypeError):
        client.call(Opcode.ECHO, 0, object())
    assert not client.waiting and not client.queued


def test_a_refusal_ends_the_session_before_it_opened():
    client, server = ClientSession(), ServerSession()
    deliver(client.hello(Hello()), server)
    server.hello()
    deliver(server.fail(0, BitfusionError("full")), client)
    assert client.error is not None and client.error.message == "full"
    with pytest.raises(BitfusionError, match="full"):
        _ = client.welcome


def test_before_the_hello_is_answered_there_is_no_welcome():
    with pytest.raises(SessionClosedError):
        _ = ClientSession().welcome


def test_full_and_wake():
    client, _ = opened()
    woken = []
    client.wake = lambda: woken.append(1)
    client.post(Opcode.RELEASE, 0, 1)
    assert woken == [1] and client.queued == 1 and not client.full
    client.wake = None
    while not client.full:
        client.post(Opcode.RELEASE, 0, 1)


def test_the_first_operations_leave_almost_at_once_and_later_batches_grow():
    client, server = opened()

    def posted_until_full() -> int:
        while not client.full:
            client.post(Opcode.RELEASE, 0, 1)
        count = client.queued
        deliver(client.data_to_send(), server)
        for batch in events(server):
            deliver(server.executed(len(batch.operations)), client)
        return count

    assert [posted_until_full() for _ in range(3)] == [2, 4, 8]
    client.call(Opcode.SYNCHRONIZE, 0, 1)
    client.data_to_send()
    assert posted_until_full() == 2  # after a call the worker has nothing to do


@pytest.mark.parametrize(
    ("opcode", "kind", "request_number", "fields", "payload_size", "words"),
    [
        (Opcode.SYNCHRONIZE, Kind.POST, 0, [0], 0, "came as a POST"),
        (Opcode.ALLOCATE, Kind.CALL, 1, [1, 1], 0, "came as a CALL"),
        (Opcode.SYNCHRONIZE, Kind.CALL, 0, [0], 0, "request 0"),
        (Opcode.ALLOCATE, Kind.POST, 0, [1, 1], 0, "travels in a batch"),
        (Opcode.WRITE_PAYLOAD, Kind.POST, 0, [1], 0, "carries 1 to"),
        (Opcode.WRITE_PAYLOAD, Kind.POST, 0, [1], limits.CHUNK_SIZE + 1, "carries 1 to"),
        (Opcode.ALLOCATE, Kind.POST, 0, [1, 1], 5, "travels in a batch"),
        (0x7F, Kind.POST, 0, [], 0, "not known"),
        (0xF0, Kind.CALL, 1, [], 0, "not known"),
        (Opcode.READ, Kind.CALL, 1, [1, 0], 0, "size must be in"),
    ],
)
def test_a_malformed_operation_is_the_clients_breach(opcode, kind, request_number, fields, payload_size, words):
    _, server = opened()
    metadata = codec.pack(fields)
    head = encode_header(
        kind, opcode=opcode, request=request_number, metadata_size=len(metadata), payload_size=payload_size
    )
    with pytest.raises(RemoteProtocolError, match=words):
        deliver([head + metadata], server)
        server.next_event()


@pytest.mark.parametrize("metadata", [{"a": 1}, 7, [[]] * (limits.BATCH_COUNT_MAX + 1)])
def test_a_malformed_batch_is_the_clients_breach(metadata):
    _, server = opened()
    packed = codec.pack(metadata)
    with pytest.raises(RemoteProtocolError, match="batch"):
        deliver([encode_header(Kind.POST, metadata_size=len(packed)) + packed], server)
        server.next_event()


@pytest.mark.parametrize(
    "changes",
    [
        {"gpus": "1"},
        {"gpus": True},
        {"memory": 1.5},
        {"fraction": "half"},
        {"fraction": float("nan")},
        {"user": "x" * 300},
        {"user": 7},
        {"token": 3},
        {"versions": 1},
        {"versions": ["a"]},
        {"versions": []},
        {"versions": [1] * 17},
        {"pid": 2**70},
    ],
)
def test_a_hello_is_checked_field_by_field(changes):
    plain = encode_hello(Hello()) | changes
    with pytest.raises(RemoteProtocolError, match=next(iter(changes))):
        decode_hello({key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()})


def test_names_in_a_hello_cannot_forge_lines_of_a_log():
    changes = {"user": "eve\n! all is lost", "hostname": "\x1b[2J", "program": "säge.py", "software": "1\u202e"}
    hello = decode_hello({**encode_hello(Hello()), **changes})
    assert (hello.user, hello.hostname, hello.program) == ("eve?! all is lost", "?[2J", "säge.py")
    assert hello.software == "1?"


def test_newer_peers_may_say_more():
    plain = codec.unpack(codec.pack(encode_hello(Hello()) | {"newer": 1}))
    assert decode_hello(plain) == Hello()
    again = decode_welcome(codec.unpack(codec.pack(encode_welcome(WELCOME) | {"newer": 1})))
    assert again.extra == {"newer": 1}


@pytest.mark.parametrize("cut", [0, 10, 32, 33, 500, 1031, 1032, 1500])
def test_an_abandoned_read_leaves_the_callers_memory_alone_and_the_session_in_step(cut):
    """Given up before, in the middle of, between and after its replies."""
    client, server = opened()
    target = bytearray(2000)
    call = client.call(Opcode.READ, 0, 1 << 45, 2000, into=memoryview(target))
    deliver(client.data_to_send(), server)
    events(server)
    ones = memoryview(b"\1" * 1000)
    replies = server.reply_piece(call.request, ones, more=True) + server.reply_piece(call.request, ones, more=False)
    data = b"".join(bytes(buffer) for buffer in replies)
    deliver([data[:cut]], client)
    client.abandon(call)
    target[:] = bytes(2000)
    deliver([data[cut:]], client)
    assert not any(target)
    second = client.call(Opcode.ECHO, 0, b"x")
    deliver(client.data_to_send(), server)
    events(server)
    deliver(server.reply(second.request, b"x"), client)
    assert second.result() == b"x" and client.error is None and not client.waiting
