"""The frame: a fixed 32-byte header, metadata and payload (docs/reference/wire.md section 2).

Owns the layout of the header and the checks a header must pass before anything is allocated for it. Little-endian::

    offset  size  field
         0     2  magic "BF"
         2     1  version
         3     1  kind
         4     1  opcode         0 where the kind has none
         5     1  flags
         6     2  reserved, 0    room for the number of a bulk connection
         8     4  stream
        12     4  request        the call's id; in a credit, the number of executed operations
        16     4  metadata size
        20     4  reserved, 0
        24     8  payload size
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import NamedTuple

from bitfusion import limits
from bitfusion.errors import LocalProtocolError, RemoteProtocolError, VersionMismatchError
from bitfusion.version import WIRE_VERSION, WIRE_VERSIONS
from bitfusion.wire.operations import Field

MAGIC = b"BF"
HEADER = Struct("<2sBBBBHIIIIQ")
HEADER_SIZE = HEADER.size


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    WELCOME = 2
    POST = 3
    CALL = 4
    REPLY = 5
    FAILURE = 6
    CREDIT = 7
    GOODBYE = 8
    OUTPUT = 9
    WAITING = 10


class Flag(IntEnum):
    """Bits of the flags field. Not an IntFlag, whose ``&`` is a Python function and is asked for every reply."""

    MORE = 1
    """A reply: further replies to the same request follow."""


KINDS = {int(kind): kind for kind in Kind}
_METADATA_SIZES_MAX = {
    Kind.HELLO: limits.HELLO_SIZE_MAX,
    Kind.WELCOME: limits.HELLO_SIZE_MAX,
    Kind.OUTPUT: limits.OUTPUT_METADATA_SIZE_MAX,
    Kind.WAITING: limits.HELLO_SIZE_MAX,
}
SIZES_MAX = {
    kind: (
        _METADATA_SIZES_MAX.get(kind, limits.METADATA_SIZE_MAX),
        limits.PAYLOAD_SIZE_MAX if kind in (Kind.POST, Kind.REPLY) else 0,
    )
    for kind in Kind
}
"""The most bytes of metadata and of payload that a header of each kind may announce."""
FLAGS_KNOWN = int(Flag.MORE)


class Frame(NamedTuple):
    """One frame as it was received, its metadata decoded. The payload, if any, follows through the connection.

    A tuple, as all that is made for every frame: a frozen dataclass takes three times as long to make, and half of what is left is the
    class's own ``__new__``, so those places call ``tuple``'s.
    """

    kind: Kind
    opcode: int = 0
    flags: int = 0
    stream: int = 0
    request: int = 0
    metadata: Field = None
    payload_size: int = 0


class Header(NamedTuple):
    """The header of a frame whose sizes have been checked."""

    kind: Kind
    opcode: int
    flags: int
    stream: int
    request: int
    metadata_size: int
    payload_size: int


def encode_header(
    kind: Kind,
    opcode: int = 0,
    flags: int = 0,
    stream: int = 0,
    request: int = 0,
    metadata_size: int = 0,
    payload_size: int = 0,
) -> bytes:
    """The 32 bytes of a header. LocalProtocolError where we would break the limits ourselves."""
    if metadata_size > limits.METADATA_SIZE_MAX or payload_size > limits.PAYLOAD_SIZE_MAX:
        raise LocalProtocolError(
            f"a {kind.name} frame with {metadata_size} bytes of metadata and {payload_size} of payload is over the limits"
        )
    return HEADER.pack(MAGIC, WIRE_VERSION, kind, opcode, flags, 0, stream, request, metadata_size, 0, payload_size)


def decode_header(buffer: memoryview, start: int = 0) -> Header:
    """Check and decode the 32 bytes at ``start``; RemoteProtocolError says what is wrong with them."""
    magic, version, kind, opcode, flags, zero1, stream, request, metadata_size, zero2, payload_size = (
        HEADER.unpack_from(buffer, start)
    )
    if magic != MAGIC:
        check_magic(buffer[start : start + HEADER_SIZE])
    if version not in WIRE_VERSIONS:
        raise VersionMismatchError(
            f"the peer speaks wire version {version}, this side {WIRE_VERSIONS}: install the same release of bitfusion on both"
        )
    name = KINDS.get(kind)
    if name is None:
        raise RemoteProtocolError(f"frame kind {kind} is not known")
    if flags & ~FLAGS_KNOWN or zero1 or zero2:
        raise RemoteProtocolError(f"reserved bits are set in the header of a {name.name} frame")
    metadata_max, payload_max = SIZES_MAX[name]
    if metadata_size > metadata_max or payload_size > payload_max:  # before anything is allocated
        raise RemoteProtocolError(_size_fault(name, metadata_size, payload_size))
    return tuple.__new__(Header, (name, opcode, flags, stream, request, metadata_size, payload_size))


def check_magic(rcvd: memoryview) -> None:
    """Check as much of the magic as is there; RemoteProtocolError shows what came, which as a rule names the other service.

    For what is less than a header: a service of another kind may say less than that, and then wait or hang up.
    """
    if not MAGIC.startswith(rcvd[: len(MAGIC)]):
        raise RemoteProtocolError(
            f"this is not the bitfusion protocol: a frame begins with {MAGIC!r}, not with {bytes(rcvd[:HEADER_SIZE])!r}"
        )


def _size_fault(kind: Kind, metadata_size: int, payload_size: int) -> str:
    """Which size of a header is over its limit; asked only once one is known to be."""
    metadata_max, payload_max = SIZES_MAX[kind]
    if metadata_size > metadata_max:
        return f"a {kind.name} frame announces {metadata_size} bytes of metadata, over {metadata_max}"
    if payload_max:
        return f"a {kind.name} frame announces {payload_size} bytes of payload, over {payload_max}"
    return f"a {kind.name} frame carries no payload, but announces {payload_size} bytes"
