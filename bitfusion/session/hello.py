"""What the two sides tell each other first (docs/reference/wire.md section 4): the hello asks for a lease, the welcome grants it.

Owns the two messages as typed data and the checks of what a peer put in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from bitfusion import limits
from bitfusion.errors import RemoteProtocolError
from bitfusion.types import DeviceInfo
from bitfusion.version import WIRE_VERSIONS, __version__
from bitfusion.wire.operations import Field

TEXT_SIZE_MAX = 256
"""Characters of a name in the hello: it is shown to others."""

VERSION_COUNT_MAX = 16
"""Wire versions in a hello: a refusal repeats them."""


@dataclass(frozen=True, slots=True)
class Hello:
    """A client asks for a lease of ``gpus`` GPUs with ``memory`` bytes or a ``fraction`` of each; neither is a whole GPU."""

    gpus: int = 1
    memory: int | None = None
    fraction: float | None = None
    token: str | None = None
    user: str = ""
    hostname: str = ""
    program: str = ""
    pid: int = 0
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


def encode_hello(hello: Hello) -> dict[str, object]:
    """The hello as plain values."""
    return asdict(hello)


def decode_hello(value: Field) -> Hello:
    """Check what a client sent; RemoteProtocolError names the field. Unknown fields are passed over (a newer client)."""
    fields = _map(value, "hello")
    versions = fields.get("versions")
    if not isinstance(versions, tuple) or len(versions) > VERSION_COUNT_MAX or set(map(type, versions)) != {int}:
        raise RemoteProtocolError(f"hello: versions must be a list of 1 to {VERSION_COUNT_MAX} integers")
    fraction = fields.get("fraction")
    if fraction is not None and (not isinstance(fraction, int | float) or math.isnan(fraction)):
        raise RemoteProtocolError("hello: fraction must be a number")
    memory = fields.get("memory")
    if memory is not None and type(memory) is not int:
        raise RemoteProtocolError("hello: memory must be a number of bytes")
    return Hello(
        gpus=_integer(fields, "hello", "gpus"),
        memory=memory,
        fraction=None if fraction is None else float(fraction),
        token=None if fields.get("token") is None else _text(fields, "hello", "token", 4096),
        user=_shown(fields, "user"),
        hostname=_shown(fields, "hostname"),
        program=_shown(fields, "program"),
        pid=_integer(fields, "hello", "pid"),
        versions=tuple(int(item) for item in versions if isinstance(item, int)),
        software=_shown(fields, "software"),
    )


def encode_welcome(welcome: Welcome) -> dict[str, object]:
    """The welcome as plain values."""
    plain = asdict(welcome)
    return {**plain.pop("extra"), **plain}


def decode_welcome(value: Field) -> Welcome:
    """Check what a server sent; RemoteProtocolError names the field."""
    fields = dict(_map(value, "welcome"))
    device = _device(fields.pop("device", None))
    session_id = _text(fields, "welcome", "session_id")
    software = _text(fields, "welcome", "software")
    numbers = ("version", "memory_base", "memory_size", "memory_limit", "memory_chunk", "credit_count")
    values = {name: _integer(fields, "welcome", name) for name in numbers}
    if values["memory_chunk"] <= 0 or values["credit_count"] <= 0:
        raise RemoteProtocolError("welcome: memory_chunk and credit_count must be positive")
    known = {"session_id", "software", *numbers}
    extra = {key: item for key, item in fields.items() if key not in known}
    return Welcome(session_id=session_id, software=software, device=device, extra=extra, **values)


def _device(value: Field) -> DeviceInfo:
    fields = _map(value, "welcome: device")
    capability, attributes = fields.get("compute_capability"), fields.get("attributes")
    match capability, attributes:
        case (int(major), int(minor)), dict(table):
            integers = {str(key): item for key, item in table.items() if isinstance(item, int)}
        case _:
            raise RemoteProtocolError("welcome: device needs compute_capability and attributes")
    return DeviceInfo(
        kind=_text(fields, "welcome: device", "kind"),
        name=_text(fields, "welcome: device", "name"),
        uuid=_text(fields, "welcome: device", "uuid"),
        memory_size=_integer(fields, "welcome: device", "memory_size"),
        compute_capability=(major, minor),
        attributes=integers,
    )


def _map(value: Field, where: str) -> Mapping[str, Field]:
    if not isinstance(value, dict):
        raise RemoteProtocolError(f"{where} must be a map")
    return value


def _integer(fields: Mapping[str, Field], where: str, name: str) -> int:
    value = fields.get(name, 0)
    if type(value) is not int or not -(2**63) <= value < 2**64:
        raise RemoteProtocolError(f"{where}: {name} must be an integer")
    return value


def _shown(fields: Mapping[str, Field], name: str) -> str:
    """A name that goes into logs and listings: what could forge a line of one, or move a terminal's cursor, becomes "?"."""
    return "".join(letter if letter.isprintable() else "?" for letter in _text(fields, "hello", name))


def _text(fields: Mapping[str, Field], where: str, name: str, size_max: int = TEXT_SIZE_MAX) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str) or len(value) > size_max:
        raise RemoteProtocolError(f"{where}: {name} must be a string of at most {size_max} characters")
    return value
