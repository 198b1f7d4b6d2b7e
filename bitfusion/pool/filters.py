"""Filters: which GPUs a request may be given. Parses ``device.memory>=16GiB`` and holds a GPU and its server against it.

The keys are VMware Bitfusion's and some of ours. What a GPU does not tell (a virtual one has no driver) matches nothing.
"""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from fnmatch import fnmatchcase
from functools import lru_cache

from bitfusion.errors import ConfigError
from bitfusion.limits import FILTER_SIZE_MAX
from bitfusion.pool.plain import known, text
from bitfusion.types import DeviceSpec, ServerSpec, format_size, parse_size

FORM = "write KEY=VALUE, or != >= <= > < in place of =: 'device.memory>=16GiB', device.name=*V100*"


class Kind(Enum):
    """What is compared, and how."""

    TEXT = auto()
    """``=`` takes shell-style patterns; capitals do not matter."""
    SIZE = auto()
    """Bytes, written as a number of MiB, as Bitfusion's, or with a unit."""
    VERSION = auto()
    """Numbers with dots between; 12 is 12.0. ``=`` takes patterns."""
    NUMBER = auto()
    FLAG = auto()
    """true or false."""


Fact = str | int | bool | None
"""What a GPU or its server says of itself; None is not known."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a filter: what its values are and where a GPU's is found."""

    kind: Kind
    fact: Callable[[DeviceSpec, ServerSpec], Fact]


KEYS: Mapping[str, Key] = {
    "server.addr": Key(Kind.TEXT, lambda device, server: server.addr),
    "server.hostname": Key(Kind.TEXT, lambda device, server: server.hostname),
    "server.has-rdma": Key(Kind.FLAG, lambda device, server: server.has_rdma),
    "server.cuda-version": Key(Kind.VERSION, lambda device, server: server.cuda_version),
    "server.driver-version": Key(Kind.VERSION, lambda device, server: server.driver_version),
    "device.id": Key(Kind.NUMBER, lambda device, server: device.index),
    "device.index": Key(Kind.NUMBER, lambda device, server: device.index),
    "device.name": Key(Kind.TEXT, lambda device, server: device.name),
    "device.kind": Key(Kind.TEXT, lambda device, server: device.kind),
    "device.uuid": Key(Kind.TEXT, lambda device, server: device.uuid),
    "device.phy-memory": Key(Kind.SIZE, lambda device, server: device.memory_size),
    "device.memory": Key(Kind.SIZE, lambda device, server: device.memory_size),
    "device.compute_capability": Key(Kind.VERSION, lambda device, server: _dotted(device.compute_capability)),
}
"""Bitfusion's ``device.id`` and ``device.phy-memory`` are our ``device.index`` and ``device.memory``."""

OPERATORS: Mapping[str, Callable[[int | tuple[int, ...], int | tuple[int, ...]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}

ORDERLESS = ("=", "!=")
"""What texts and flags can be compared with."""

FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}

_FORM = re.compile(r"\s*([A-Za-z][A-Za-z0-9._-]*)\s*(>=|<=|!=|==|=|>|<)\s*(.*?)\s*", re.DOTALL)
_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,7}")
_NUMBER = re.compile(r"[0-9]{1,9}")
_BARE = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?")
_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition. Checked as it is made: ConfigError says which keys, comparisons and values there are."""

    key: str
    operator: str
    value: str

    def __post_init__(self) -> None:
        if self.key not in KEYS:
            near = difflib.get_close_matches(self.key, KEYS, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(f"there is no filter {self.key[:40]!r}; {hint}The keys: {', '.join(sorted(KEYS))}")
        if self.operator not in OPERATORS:
            raise ConfigError(f"filter {self.key}: there is no comparison {self.operator[:10]!r}; {FORM}")
        kind = KEYS[self.key].kind
        if kind in (Kind.TEXT, Kind.FLAG) and self.operator not in ORDERLESS:
            raise ConfigError(f"filter {self}: {self.key} has no order; compare it with = or !=")
        if not self.value or len(str(self)) > FILTER_SIZE_MAX:
            raise ConfigError(f"filter {self.key}: the value must have 1 to some {FILTER_SIZE_MAX} characters; {FORM}")
        if _sought(kind, self.operator, self.value) is None:
            raise ConfigError(f"filter {self}: {self.value!r} is not {_FORMS[kind]}")

    @classmethod
    def from_plain(cls, value: object) -> Filter:
        """What ``asdict`` gave, or the text; ConfigError for anything else."""
        if isinstance(value, str):
            return parse_filter(value)
        fields = known(cls, value)
        return cls(text(fields, "key"), text(fields, "operator"), text(fields, "value"))

    def refuse(self, device: DeviceSpec, server: ServerSpec) -> str | None:
        """Why a GPU does not do; None if it does."""
        key = KEYS[self.key]
        fact = key.fact(device, server)
        if fact is None:
            return f"its {self.key} is not known, {self} is asked for"
        if _holds(key.kind, self.operator, self.value, fact):
            return None
        shown = (
            format_size(fact)
            if key.kind is Kind.SIZE and isinstance(fact, int)
            else str(fact).lower()
            if key.kind is Kind.FLAG
            else fact
        )
        return f"its {self.key} is {shown}, {self} is asked for"

    def __str__(self) -> str:
        return f"{self.key}{self.operator}{self.value}"


_FORMS = {
    Kind.TEXT: "a text",
    Kind.SIZE: "a size: write a number of MiB, or one with a unit such as 16GiB",
    Kind.VERSION: "a version: write numbers with dots between, such as 12.4 (with = also a pattern, 12.*)",
    Kind.NUMBER: "a whole number",
    Kind.FLAG: "true or false",
}


def parse_filter(condition: str) -> Filter:
    """The filter that ``condition`` says; ConfigError says what is wrong with it."""
    match = _FORM.fullmatch(condition) if len(condition) <= FILTER_SIZE_MAX else None
    if match is None:
        raise ConfigError(f"{condition[:60]!r} is not a filter; {FORM}")
    return Filter(match[1], "=" if match[2] == "==" else match[2], match[3])


@lru_cache(maxsize=1024)
def _sought(kind: Kind, comparison: str, value: str) -> int | tuple[int, ...] | str | None:
    """The value in the form that is compared, a text for a pattern; None if it is not of its kind."""
    match kind:
        case Kind.TEXT:
            return value.casefold()
        case Kind.SIZE:
            try:
                return parse_size(f"{value} MiB" if _BARE.fullmatch(value) else value)
            except ConfigError:
                return None
        case Kind.VERSION:
            if _PATTERN.search(value) and comparison in ORDERLESS:
                return value
            return _version(value) if _VERSION.fullmatch(value) else None
        case Kind.NUMBER:
            return int(value) if _NUMBER.fullmatch(value) else None
        case Kind.FLAG:
            return FLAGS.get(value.casefold())


def _holds(kind: Kind, comparison: str, value: str, fact: str | int | bool) -> bool:
    sought = _sought(kind, comparison, value)
    assert sought is not None  # checked when the filter was made
    if isinstance(sought, str):
        return fnmatchcase(str(fact).casefold(), sought) == (comparison == "=")
    found = _version(fact) if isinstance(fact, str) else fact
    return OPERATORS[comparison](found, sought)


def _version(value: str) -> tuple[int, ...]:
    """The numbers in front, without zeros at the end: 12.0 is 12, and a suffix (560.35-rc1) does not count."""
    match = _VERSION.match(value)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _dotted(version: tuple[int, int] | None) -> str | None:
    return None if version is None else f"{version[0]}.{version[1]}"
