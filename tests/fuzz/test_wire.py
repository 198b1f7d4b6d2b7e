"""Whatever bytes arrive, the core answers with events or with one of the errors listed here, and allocates within its limits."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from bitfusion import limits
from bitfusion.errors import RemoteProtocolError, VersionMismatchError
from bitfusion.session.client import ClientSession
from bitfusion.session.hello import Hello, decode_hello, encode_hello
from bitfusion.session.server import Request, ServerSession
from bitfusion.session.waiting import Waiting, decode_waiting, encode_waiting
from bitfusion.wire import codec
from bitfusion.wire.connection import Connection
from bitfusion.wire.frames import Frame, Kind, encode_header
from bitfusion.wire.operations import Opcode
from bitfusion.wire.states import Role, State

ALLOWED = (RemoteProtocolError, VersionMismatchError)

headers = st.builds(
    encode_header,
    st.sampled_from(Kind),
    opcode=st.sampled_from([0, *Opcode, 0x7F, 0xFF]),
    flags=st.integers(0, 255),
    stream=st.integers(0, 2**32 - 1),
    request=st.sampled_from([0, 1, 2, 2**32 - 1]),
    metadata_size=st.integers(0, 64),
    payload_size=st.integers(0, 64),
)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=40)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@st.composite
def frames(draw) -> bytes:
    metadata = codec.pack(draw(plain))
    kind = draw(st.sampled_from(sorted(set(Kind) - {Kind.HELLO, Kind.WELCOME, Kind.OUTPUT})))
    payload = draw(st.binary(max_size=100))
    head = encode_header(
        kind,
        opcode=draw(st.sampled_from([0, *Opcode])),
        request=draw(st.integers(0, 3)),
        metadata_size=len(metadata),
        payload_size=len(payload) if kind in (Kind.POST, Kind.REPLY) else 0,
    )
    return head + metadata + payload


streams = st.lists(st.binary(max_size=200) | headers | frames(), max_size=8).map(b"".join)


def deliver(data: bytes, end) -> bool:
    view = memoryview(data)
    while len(view):
        buffer = end.get_buffer()
        count = min(len(buffer), len(view))
        buffer[:count] = view[:count]
        end.buffer_updated(count)
        view = view[count:]
        yield


@settings(max_examples=300, deadline=None)
@given(streams, st.sampled_from(State))
def test_the_connection_survives_any_bytes(data, state):
    connection = Connection(Role.SERVER, state=state)
    try:
        for _ in deliver(data, connection):
            while (event := connection.next_event()) is not None:
                if isinstance(event, Frame) and event.payload_size:
                    connection.discard_payload()
    except ALLOWED:
        pass


@settings(max_examples=300, deadline=None)
@given(streams, st.booleans())
def test_the_server_session_survives_any_bytes(data, control):
    session = ServerSession(Connection(Role.SERVER, state=State.OPEN), control=control)
    try:
        for _ in deliver(data, session):
            while (event := session.next_event()) is not None:
                if isinstance(event, Request) and event.payload_size:
                    session.discard_payload()
    except ALLOWED:
        pass


@settings(max_examples=200, deadline=None)
@given(streams)
def test_the_greeting_survives_any_bytes(data):
    session = ServerSession()
    try:
        for _ in deliver(data, session):
            if session.hello() is not None:
                break
    except ALLOWED:
        pass


@settings(max_examples=300, deadline=None)
@given(streams, st.integers(0, 64))
def test_the_client_session_survives_any_bytes(data, size):
    session = ClientSession()
    session.hello(Hello())
    call = session.call(Opcode.READ, 0, 256, 64, into=memoryview(bytearray(size)))
    lease = session.request_lease({})
    for _ in deliver(data, session):
        if session.error is not None:
            assert call.done and lease.answered
            break


asked = st.dictionaries(
    st.sampled_from(["versions", *(item.name for item in dataclasses.fields(Hello))]), plain, max_size=6
)


@settings(max_examples=300, deadline=None)
@given(asked)
def test_a_hello_is_a_hello_or_a_breach(given_):
    for value in (given_, {"versions": (1,), **given_}):
        try:
            hello = decode_hello(codec.unpack(codec.pack(value)))
        except RemoteProtocolError:
            continue
        assert decode_hello(codec.unpack(codec.pack(encode_hello(hello)))) == hello


@settings(max_examples=200, deadline=None)
@given(plain | st.fixed_dictionaries({"position": st.integers(0, 9), "count": st.integers(0, 9), "reasons": plain}))
def test_a_place_in_the_queue_is_one_or_a_breach(value):
    try:
        waiting = decode_waiting(codec.unpack(codec.pack(value)))
    except RemoteProtocolError:
        return
    assert all(len(pair) == 2 for pair in waiting.reasons)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=300), st.text(max_size=300)), max_size=100), st.text(max_size=2000))
def test_a_place_with_any_reasons_fits_its_frame(reasons, reason):
    data = encode_waiting(Waiting(1, 2, reason, tuple(reasons)))
    assert len(data) <= limits.HELLO_SIZE_MAX
    assert len(decode_waiting(codec.unpack(data)).reasons) <= limits.WAITING_REASON_COUNT_MAX
