"""The operations a session can carry, each with its fields: the table both sides check every message against.

An operation travels as a msgpack array ``[opcode, stream, *fields]``. It is *posted* (no answer; a failure surfaces at the
next call) or *called* (answered by a reply or a failure). Owns the table and the check; what an operation does is the worker's.
The sections of docs/reference/wire.md that describe them: 5 (posted) and 6 (called).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import TypeAlias

from bitfusion import limits
from bitfusion.errors import RemoteProtocolError

Field: TypeAlias = int | bytes | str | float | bool | None | tuple["Field", ...] | dict[str, "Field"]


class Opcode(IntEnum):
    """Numbers of the operations. Posted ones are below 0x80, called ones from 0x80 on."""

    ALLOCATE = 0x01
    RELEASE = 0x02
    WRITE = 0x03
    WRITE_PAYLOAD = 0x04
    COPY = 0x05
    FILL = 0x06
    LAUNCH = 0x10
    FUNCTION_UNLOAD = 0x11
    SOURCE = 0x12
    MODULE_UNLOAD = 0x13
    STREAM_CREATE = 0x20
    STREAM_DESTROY = 0x21
    STREAM_WAIT = 0x22
    EVENT_CREATE = 0x28
    EVENT_DESTROY = 0x29
    EVENT_RECORD = 0x2A

    READ = 0x80
    SYNCHRONIZE = 0x81
    STREAM_QUERY = 0x82
    EVENT_SYNCHRONIZE = 0x83
    EVENT_QUERY = 0x84
    EVENT_ELAPSED = 0x85
    MEMORY_INFO = 0x86
    KERNEL_LOAD = 0x90
    MODULE_LOAD = 0x91
    FUNCTION_LOAD = 0x92
    KERNEL_COMPILE = 0x93
    FUNCTION_OCCUPANCY = 0x94
    ECHO = 0xA0
    METRICS = 0xA1

    LEASE_REQUEST = 0xC0
    LEASE_RELEASE = 0xC1
    LEASE_SHOW = 0xC2
    LEASE_CANCEL = 0xC3
    POOL_LIST = 0xC8
    POOL_DEALLOC = 0xC9
    QUOTA_LIST = 0xD0
    QUOTA_SET = 0xD1
    HISTORY = 0xD8
    HEALTH = 0xE0

    @property
    def called(self) -> bool:
        """Whether the operation is answered."""
        return self >= 0x80


@dataclass(frozen=True, slots=True)
class Int:
    """An integer field in [low, high]."""

    high: int
    low: int = 0


@dataclass(frozen=True, slots=True)
class Bin:
    """A byte string field of low..high bytes."""

    high: int
    low: int = 0


@dataclass(frozen=True, slots=True)
class Text:
    """A string field of at most ``high`` characters."""

    high: int


@dataclass(frozen=True, slots=True)
class Tree:
    """A nested value (arrays, maps, scalars), which the operation itself checks: signatures, options, sources."""


Kind: TypeAlias = Int | Bin | Text | Tree

U32 = 2**32 - 1
U64 = 2**64 - 1

ADDRESS = Int(U64)
SIZE = Int(2**48, 1)
HANDLE = Int(U32)
HASH = Bin(32, 32)
LEASE = Text(limits.LEASE_TEXT_SIZE_MAX)

CONFIG = Struct("<7I")
"""A launch configuration: grid x, y, z; block x, y, z; dynamic shared memory in bytes."""

FIELDS: Mapping[Opcode, Mapping[str, Kind]] = {
    Opcode.ALLOCATE: {"address": ADDRESS, "size": SIZE},
    Opcode.RELEASE: {"address": ADDRESS},
    Opcode.WRITE: {"address": ADDRESS, "data": Bin(limits.INLINE_SIZE_MAX)},
    Opcode.WRITE_PAYLOAD: {"address": ADDRESS},
    Opcode.COPY: {"target": ADDRESS, "source": ADDRESS, "size": SIZE},
    Opcode.FILL: {"address": ADDRESS, "size": SIZE, "pattern": Bin(limits.PATTERN_SIZE_MAX, 1)},
    Opcode.LAUNCH: {"function": HANDLE, "config": Bin(28, 28), "arguments": Bin(limits.ARGUMENTS_SIZE_MAX)},
    Opcode.FUNCTION_UNLOAD: {"function": HANDLE},
    Opcode.SOURCE: {"hash": HASH, "source": Bin(limits.SOURCE_SIZE_MAX, 1)},
    Opcode.MODULE_UNLOAD: {"module": HANDLE},
    Opcode.STREAM_CREATE: {"created": HANDLE},
    Opcode.STREAM_DESTROY: {"destroyed": HANDLE},
    Opcode.STREAM_WAIT: {"event": HANDLE},
    Opcode.EVENT_CREATE: {"event": HANDLE, "timing": Int(1)},
    Opcode.EVENT_DESTROY: {"event": HANDLE},
    Opcode.EVENT_RECORD: {"event": HANDLE},
    Opcode.READ: {"address": ADDRESS, "size": SIZE},
    Opcode.SYNCHRONIZE: {"everything": Int(1)},
    Opcode.STREAM_QUERY: {},
    Opcode.EVENT_SYNCHRONIZE: {"event": HANDLE},
    Opcode.EVENT_QUERY: {"event": HANDLE},
    Opcode.EVENT_ELAPSED: {"start": HANDLE, "end": HANDLE},
    Opcode.MEMORY_INFO: {},
    Opcode.KERNEL_LOAD: {"function": HANDLE, "hash": HASH, "signature": Tree(), "options": Tree()},
    Opcode.MODULE_LOAD: {"module": HANDLE, "image": Bin(limits.IMAGE_SIZE_MAX, 1)},
    Opcode.FUNCTION_LOAD: {"function": HANDLE, "module": HANDLE, "name": Text(limits.NAME_SIZE_MAX)},
    Opcode.KERNEL_COMPILE: {"hash": HASH, "signature": Tree(), "options": Tree(), "wanted": Tree()},
    Opcode.FUNCTION_OCCUPANCY: {"function": HANDLE, "threads": Int(2**31 - 1), "shared_size": Int(2**31 - 1)},
    Opcode.ECHO: {"data": Bin(limits.INLINE_SIZE_MAX)},
    Opcode.METRICS: {},
    Opcode.LEASE_REQUEST: {"asked": Tree()},
    Opcode.LEASE_RELEASE: {"lease": LEASE, "key": LEASE},
    Opcode.LEASE_SHOW: {"lease": LEASE, "key": LEASE},
    Opcode.LEASE_CANCEL: {"asked": HANDLE},
    Opcode.POOL_LIST: {},
    Opcode.POOL_DEALLOC: {"which": Tree()},
    Opcode.QUOTA_LIST: {},
    Opcode.QUOTA_SET: {"quota": Tree()},
    Opcode.HISTORY: {"which": Tree()},
    Opcode.HEALTH: {},
}
"""Fields after ``[opcode, stream]``, in order."""


def _rule(kind: Kind) -> tuple[type, int, int] | None:
    match kind:
        case Int(high, low):
            return (int, low, high)
        case Bin(high, low):
            return (bytes, low, high)
        case Text(high):
            return (str, 0, high)
        case Tree():
            return None


RULES: Mapping[int, tuple[tuple[type, int, int] | None, ...]] = {
    opcode: tuple(_rule(kind) for kind in fields.values()) for opcode, fields in FIELDS.items()
}
"""The table again, as the check reads it: (type, lowest, highest) of a value or of a length, None for a tree."""

CONTROL_MIN = 0xC0
"""The first opcode of those that are a control connection's (docs/reference/wire.md section 6.2)."""

SESSION_RULES = {opcode: rules for opcode, rules in RULES.items() if opcode < CONTROL_MIN}
CONTROL_RULES = {opcode: rules for opcode, rules in RULES.items() if opcode >= CONTROL_MIN or opcode == Opcode.ECHO}


def check(
    opcode: int,
    fields: tuple[Field, ...],
    table: Mapping[int, tuple[tuple[type, int, int] | None, ...]] = SESSION_RULES,
) -> None:
    """Check ``fields`` against the table before anything believes them; RemoteProtocolError names the field.

    ``table`` says of which kind of connection: SESSION_RULES or CONTROL_RULES.
    """
    rules = table.get(opcode)
    if rules is None or len(fields) != len(rules):
        raise RemoteProtocolError(_shape_fault(opcode, len(fields), table is CONTROL_RULES))
    for value, rule in zip(fields, rules, strict=True):
        if rule is None:
            continue
        cls, low, high = rule
        if type(value) is not cls or not low <= (value if cls is int else len(value)) <= high:  # type: ignore[operator, arg-type]  # cls says which
            raise RemoteProtocolError(_field_fault(opcode, fields))


def _shape_fault(opcode: int, count: int, control: bool) -> str:
    if opcode not in RULES:
        return f"operation {opcode:#x} is not known"
    if opcode not in (CONTROL_RULES if control else SESSION_RULES):
        here, there = ("control", "session") if control else ("session", "control")
        return f"{Opcode(opcode).name} belongs on a {there} connection, not on a {here} connection"
    return f"{Opcode(opcode).name} takes {len(RULES[opcode])} fields, not {count}"


def _field_fault(opcode: int, fields: tuple[Field, ...]) -> str:
    """Which field of the operation does not fit; asked only once one is known not to."""
    for (name, kind), value in zip(FIELDS[Opcode(opcode)].items(), fields, strict=True):
        rule = _rule(kind)
        if rule is None:
            continue
        cls, low, high = rule
        if type(value) is not cls:
            return f"{Opcode(opcode).name}: {name} must be {cls.__name__}, not {type(value).__name__}"
        size = value if isinstance(value, int) else len(value)  # type: ignore[arg-type]  # or it would not be cls
        if not low <= size <= high:
            return f"{Opcode(opcode).name}: {name} must be in {low}..{high}, not {size}"
    return f"{Opcode(opcode).name}: a field does not fit"
