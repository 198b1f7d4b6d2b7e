"""Golden byte vectors: what every kind of frame looks like on the wire, for ever (docs/reference/wire.md section 8)."""

from __future__ import annotations

import pytest

from bitfusion.errors import DeviceMemoryError, encode
from bitfusion.wire import codec
from bitfusion.wire.connection import Connection
from bitfusion.wire.frames import Flag, Frame, Kind
from bitfusion.wire.operations import CONFIG, Opcode
from bitfusion.wire.states import Role, State

BASE = 0x2000_0000_0000
LAUNCH = [Opcode.LAUNCH, 2, 7, CONFIG.pack(4, 1, 1, 256, 1, 1, 0), bytes(8)]
FULL = encode(DeviceMemoryError("full", requested=3, used=2, limit=4))
ASKED = {
    "gpus": 2,
    "memory": None,
    "fraction": 0.5,
    "exclusive": False,
    "filters": ("device.memory>=16GiB",),
    "wait": None,
    "held": True,
}

VECTORS = {
    "hello": (
        Role.CLIENT,
        State.START,
        Frame(Kind.HELLO, metadata={"versions": (1,), "gpus": 1, "fraction": 0.5}),
        b"",
        "4246010100000000000000000000000024000000000000000000000000000000"
        "83a876657273696f6e739101a46770757301a86672616374696f6ecb3fe0000000000000",
    ),
    "hello of a control connection": (
        Role.CLIENT,
        State.START,
        Frame(Kind.HELLO, metadata={"versions": (1,), "purpose": "control"}),
        b"",
        "424601010000000000000000000000001c000000000000000000000000000000"
        "82a876657273696f6e739101a7707572706f7365a7636f6e74726f6c",
    ),
    "place in the queue": (
        Role.SERVER,
        State.GREETED,
        Frame(
            Kind.WAITING,
            metadata={"position": 2, "count": 3, "reason": "full", "reasons": (("V0", "no room"),)},
        ),
        b"",
        "4246010a00000000000000000000000033000000000000000000000000000000"
        "84a8706f736974696f6e02a5636f756e7403a6726561736f6ea466756c6ca7726561736f6e739192a25630a76e6f20726f6f6d",
    ),
    "place of a request on a control connection": (
        Role.SERVER,
        State.OPEN,
        Frame(Kind.WAITING, request=9, metadata={"position": 1, "count": 1, "reason": "", "reasons": ()}),
        b"",
        "4246010a00000000000000000900000023000000000000000000000000000000"
        "84a8706f736974696f6e01a5636f756e7401a6726561736f6ea0a7726561736f6e7390",
    ),
    "request for a lease": (
        Role.CLIENT,
        State.OPEN,
        Frame(Kind.CALL, opcode=Opcode.LEASE_REQUEST, request=3, metadata=(ASKED,)),
        b"",
        "42460104c0000000000000000300000057000000000000000000000000000000"
        "9187a46770757302a66d656d6f7279c0a86672616374696f6ecb3fe0000000000000a96578636c7573697665c2a766696c7465727391b46465766963652e6d656d6f72793e3d3136476942a477616974c0a468656c64c3",
    ),
    "release of a lease": (
        Role.CLIENT,
        State.OPEN,
        Frame(Kind.CALL, opcode=Opcode.LEASE_RELEASE, request=4, metadata=("cafe", "secret")),
        b"",
        "42460104c100000000000000040000000d00000000000000000000000000000092a463616665a6736563726574",
    ),
    "welcome": (
        Role.SERVER,
        State.GREETED,
        Frame(Kind.WELCOME, metadata={"session_id": "cafe", "version": 1}),
        b"",
        "424601020000000000000000000000001a000000000000000000000000000000"
        "82aa73657373696f6e5f6964a463616665a776657273696f6e01",
    ),
    "batch": (
        Role.CLIENT,
        State.OPEN,
        Frame(
            Kind.POST,
            metadata=((Opcode.ALLOCATE, 0, BASE, 1024), (Opcode.FILL, 2, BASE, 1024, b"\0"), tuple(LAUNCH)),
        ),
        b"",
        "424601030000000000000000000000004e000000000000000000000000000000"
        "93940100cf0000200000000000cd0400950602cf0000200000000000cd0400c40100"
        "95100207c41c04000000010000000100000000010000010000000100000000000000c4080000000000000000",
    ),
    "write": (
        Role.CLIENT,
        State.OPEN,
        Frame(Kind.POST, opcode=Opcode.WRITE_PAYLOAD, stream=2, metadata=(BASE,), payload_size=8),
        b"payload!",
        "424601030400000002000000000000000a00000000000000080000000000000091cf00002000000000007061796c6f616421",
    ),
    "call": (
        Role.CLIENT,
        State.OPEN,
        Frame(Kind.CALL, opcode=Opcode.READ, stream=2, request=9, metadata=(BASE, 8)),
        b"",
        "424601048000000002000000090000000b00000000000000000000000000000092cf000020000000000008",
    ),
    "reply": (
        Role.SERVER,
        State.OPEN,
        Frame(Kind.REPLY, request=9, payload_size=8),
        b"payload!",
        "42460105000000000000000009000000000000000000000008000000000000007061796c6f616421",
    ),
    "reply with more to come": (
        Role.SERVER,
        State.OPEN,
        Frame(Kind.REPLY, flags=Flag.MORE, request=9, payload_size=3),
        b"pay",
        "4246010500010000000000000900000000000000000000000300000000000000706179",
    ),
    "reply with a value": (
        Role.SERVER,
        State.OPEN,
        Frame(Kind.REPLY, request=10, metadata=(1, 2)),
        b"",
        "4246010500000000000000000a00000003000000000000000000000000000000920102",
    ),
    "failure": (
        Role.SERVER,
        State.OPEN,
        Frame(Kind.FAILURE, request=10, metadata=(FULL[0], FULL[1], FULL[2])),
        b"",
        "4246010600000000000000000a00000020000000000000000000000000000000"
        "9333a466756c6c83a972657175657374656403a47573656402a56c696d697404",
    ),
    "credit": (
        Role.SERVER,
        State.OPEN,
        Frame(Kind.CREDIT, request=4096),
        b"",
        "4246010700000000000000000010000000000000000000000000000000000000",
    ),
    "output": (
        Role.SERVER,
        State.OPEN,
        Frame(Kind.OUTPUT, metadata=(1, b"hi\n")),
        b"",
        "42460109000000000000000000000000070000000000000000000000000000009201c40368690a",
    ),
    "goodbye": (
        Role.CLIENT,
        State.OPEN,
        Frame(Kind.GOODBYE),
        b"",
        "4246010800000000000000000000000000000000000000000000000000000000",
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_a_frame_is_these_bytes(name):
    role, state, frame, payload, golden = VECTORS[name]
    metadata = codec.pack(frame.metadata) if frame.metadata is not None else b""
    buffers = Connection(role, state=state).send(
        frame.kind,
        metadata,
        opcode=frame.opcode,
        flags=frame.flags,
        stream=frame.stream,
        request=frame.request,
        payload=memoryview(payload) if payload else None,
    )
    assert b"".join(bytes(buffer) for buffer in buffers).hex() == golden


@pytest.mark.parametrize("name", VECTORS)
def test_these_bytes_are_that_frame(name):
    role, state, frame, payload, golden = VECTORS[name]
    receiver = Connection(Role.SERVER if role is Role.CLIENT else Role.CLIENT, state=state)
    data = bytes.fromhex(golden)
    receiver.get_buffer()[: len(data)] = data
    receiver.buffer_updated(len(data))
    assert receiver.next_event() == frame
    target = bytearray(len(payload))
    if payload:
        receiver.receive_into(memoryview(target))
        receiver.next_event()
    assert target == payload
