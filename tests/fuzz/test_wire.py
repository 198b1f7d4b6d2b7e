"""Whatever bytes arrive, the core answers with events or with one of the errors listed here, and allocates within its limits."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bitfusion.errors import RemoteProtocolError, VersionMismatchError
from bitfusion.session.client import ClientSession
from bitfusion.session.hello import Hello
from bitfusion.session.server import Request, ServerSession
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
    kind = draw(st.sampled_from([Kind.POST, Kind.CALL, Kind.GOODBYE, Kind.REPLY, Kind.FAILURE, Kind.CREDIT]))
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
@given(streams)
def test_the_server_session_survives_any_bytes(data):
    session = ServerSession(Connection(Role.SERVER, state=State.OPEN))
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
    for _ in deliver(data, session):
        if session.error is not None:
            assert call.done
            break
