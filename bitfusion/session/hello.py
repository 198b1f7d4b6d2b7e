"""What the two sides tell each other first (docs/reference/wire.md section 4): a hello asks for a lease or names one, a welcome grants it.

Owns the messages as typed data and the checks of what a peer put in them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum

from bitfusion import limits
from bitfusion.errors import RemoteProtocolError
from bitfusion.session import fields as given
from bitfusion.session.asked import Asked, decode_asked
from bitfusion.session.fields import TEXT_SIZE_MAX as TEXT_SIZE_MAX
from bitfusion.types import DeviceInfo
from bitfusion.version import WIRE_VERSIONS, __version__
from bitfusion.wire.operations import Field

VERSION_COUNT_MAX = 16
"""Wire versions in a hello: a refusal repeats them."""

TOKEN_SIZE_MAX = 4096


class Purpose(StrEnum):
    """What a connection is for: work on a GPU, or questions to the daemon about the pool."""

    SESSION = "session"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Hello(Asked):
    """A client says who it is. With ``lease`` and ``key`` its session is on GPU ``gpu`` of that lease, else on one it asks for here."""

    token: str | None = None
    user: str = ""
    group: str = ""
    hostname: str = ""
    program: str = ""
    pid: int = 0
    purpose: str = Purpose.SESSION
    lease: str | None = None
    key: str | None = field(default=None, repr=False)
    gpu: int = 0
    versions: tuple[int, ...] = WIRE_VERSIONS
    software: str = __version__


@dataclass(frozen=True, slots=True)
class Welcome:
    """The lease is granted: the session, its device, its range of addresses and the window of posted operations."""

    session_id: str
    version: int
    device: DeviceInfo
    memory_base: int
    memory_size: int
    memory_limit: int
    memory_chunk: int = limits.MEMORY_CHUNK_SIZE
    credit_count: int = limits.CREDIT_COUNT
    software: str = __version__
    extra: dict[str, Field] = field(default_factory=dict)
    """Fields a newer server adds; kept, not understood."""


@dataclass(frozen=True, slots=True)
class ControlWelcome:
    """The daemon answers: the connection's name in its log, and the server's name and version."""

    connection_id: str
    version: int
    server_id: str
    hostname: str
    software: str = __version__


def encode_hello(hello: Hello) -> dict[str, object]:
    """The hello as plain values."""
    return asdict(hello)


def decode_hello(value: Field) -> Hello:
    """Check what a client sent; RemoteProtocolError names the field. Unknown fields are passed over (a newer client)."""
    fields, where = given.a_map(value, "hello"), "hello"
    versions = fields.get("versions")
    if not isinstance(versions, tuple) or len(versions) > VERSION_COUNT_MAX or set(map(type, versions)) != {int}:
        raise RemoteProtocolError(f"hello: versions must be a list of 1 to {VERSION_COUNT_MAX} integers")
    purpose = given.text(fields, where, "purpose") or Purpose.SESSION
    if purpose not in list(Purpose):
        raise RemoteProtocolError(f"hello: purpose must be {' or '.join(Purpose)}, not {purpose[:40]!r}")
    return Hello(
        **asdict(decode_asked(value, where)),
        token=given.optional_text(fields, where, "token", TOKEN_SIZE_MAX),
        user=given.shown(fields, where, "user"),
        group=given.shown(fields, where, "group"),
        hostname=given.shown(fields, where, "hostname"),
        program=given.shown(fields, where, "program"),
        pid=given.integer(fields, where, "pid"),
        purpose=purpose,
        lease=given.optional_text(fields, where, "lease", limits.LEASE_TEXT_SIZE_MAX),
        key=given.optional_text(fields, where, "key", limits.LEASE_TEXT_SIZE_MAX),
        gpu=given.integer(fields, where, "gpu"),
        versions=tuple(int(item) for item in versions if isinstance(item, int)),
        software=given.shown(fields, where, "software"),
    )


def encode_welcome(welcome: Welcome | ControlWelcome) -> dict[str, object]:
    """The welcome as plain values."""
    plain = asdict(welcome)
    return {**plain.pop("extra", {}), **plain}


def decode_welcome(value: Field) -> Welcome:
    """Check what a server sent; RemoteProtocolError names the field."""
    fields = dict(given.a_map(value, "welcome"))
    device = _device(fields.pop("device", None))
    session_id = given.text(fields, "welcome", "session_id")
    software = given.text(fields, "welcome", "software")
    numbers = ("version", "memory_base", "memory_size", "memory_limit", "memory_chunk", "credit_count")
    values = {name: given.integer(fields, "welcome", name) for name in numbers}
    if values["memory_chunk"] <= 0 or values["credit_count"] <= 0:
        raise RemoteProtocolError("welcome: memory_chunk and credit_count must be positive")
    known = {"session_id", "software", *numbers}
    extra = {key: item for key, item in fields.items() if key not in known}
    return Welcome(session_id=session_id, software=software, device=device, extra=extra, **values)


def decode_control_welcome(value: Field) -> ControlWelcome:
    """Check what a server sent; RemoteProtocolError names the field."""
    fields, where = given.a_map(value, "control welcome"), "control welcome"
    if "server_id" not in fields:
        raise RemoteProtocolError(
            "the server does not know control connections: it is of an older release of bitfusion"
        )
    return ControlWelcome(
        connection_id=given.shown(fields, where, "connection_id"),
        version=given.integer(fields, where, "version"),
        server_id=given.shown(fields, where, "server_id"),
        hostname=given.shown(fields, where, "hostname"),
        software=given.shown(fields, where, "software"),
    )


def _device(value: Field) -> DeviceInfo:
    fields = given.a_map(value, "welcome: device")
    capability, attributes = fields.get("compute_capability"), fields.get("attributes")
    match capability, attributes:
        case (int(major), int(minor)), dict(table):
            integers = {str(key): item for key, item in table.items() if isinstance(item, int)}
        case _:
            raise RemoteProtocolError("welcome: device needs compute_capability and attributes")
    return DeviceInfo(
        kind=given.text(fields, "welcome: device", "kind"),
        name=given.text(fields, "welcome: device", "name"),
        uuid=given.text(fields, "welcome: device", "uuid"),
        memory_size=given.integer(fields, "welcome: device", "memory_size"),
        compute_capability=(major, minor),
        attributes=integers,
    )
