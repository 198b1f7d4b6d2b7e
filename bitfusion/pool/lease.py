"""A lease: who holds how much of which GPU, and the table of its life. Owns no memory and no process."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto
from fractions import Fraction

from bitfusion.errors import ConfigError, LocalProtocolError
from bitfusion.limits import MEMORY_CHUNK_SIZE
from bitfusion.pool.plain import boolean, integer, known, number, required, text
from bitfusion.pool.request import Holder, LeaseRequest
from bitfusion.types import DeviceSpec, format_size


class LeaseState(StrEnum):
    """Where a lease stands. Its memory is charged to the GPU in every state but RELEASED."""

    GRANTED = auto()
    """No session is on it."""
    ACTIVE = auto()
    """Sessions are on it, one or more."""
    WARNED = auto()
    """It has been idle for so long that its holder was told; it is taken back if nothing happens."""
    ENDING = auto()
    RELEASED = auto()


class LeaseEvent(StrEnum):
    """What happens to a lease."""

    START = auto()
    """The first session comes: a worker serves it."""
    STOP = auto()
    """The last session has gone."""
    WARN = auto()
    """The soft idle time is over."""
    WAKE = auto()
    """A session does something again."""
    END = auto()
    """The holder has gone, or the appliance takes the lease back; its workers are told to stop."""
    RELEASE = auto()
    """The workers are gone and with them all memory, or there never was one."""


MOVES: Mapping[tuple[LeaseState, LeaseEvent], LeaseState] = {
    (LeaseState.GRANTED, LeaseEvent.START): LeaseState.ACTIVE,
    (LeaseState.GRANTED, LeaseEvent.WARN): LeaseState.WARNED,
    (LeaseState.GRANTED, LeaseEvent.END): LeaseState.ENDING,
    (LeaseState.GRANTED, LeaseEvent.RELEASE): LeaseState.RELEASED,
    (LeaseState.ACTIVE, LeaseEvent.STOP): LeaseState.GRANTED,
    (LeaseState.ACTIVE, LeaseEvent.WARN): LeaseState.WARNED,
    (LeaseState.ACTIVE, LeaseEvent.END): LeaseState.ENDING,
    (LeaseState.ACTIVE, LeaseEvent.RELEASE): LeaseState.RELEASED,
    (LeaseState.WARNED, LeaseEvent.START): LeaseState.ACTIVE,
    (LeaseState.WARNED, LeaseEvent.STOP): LeaseState.GRANTED,
    (LeaseState.WARNED, LeaseEvent.WAKE): LeaseState.ACTIVE,
    (LeaseState.WARNED, LeaseEvent.END): LeaseState.ENDING,
    (LeaseState.WARNED, LeaseEvent.RELEASE): LeaseState.RELEASED,
    (LeaseState.ENDING, LeaseEvent.STOP): LeaseState.ENDING,
    (LeaseState.ENDING, LeaseEvent.RELEASE): LeaseState.RELEASED,
}
"""(state, event) -> state; a pair that is missing cannot happen."""


def apply(state: LeaseState, event: LeaseEvent) -> LeaseState:
    """The state after ``event``; LocalProtocolError if it cannot happen then."""
    try:
        return MOVES[state, event]
    except KeyError:
        raise LocalProtocolError(f"a lease that is {state.name} cannot {event.name}") from None


@dataclass(frozen=True, slots=True)
class Share:
    """A part of one GPU: ``memory`` bytes of ``device``, whole chunks."""

    device: DeviceSpec
    memory: int

    @classmethod
    def from_plain(cls, value: object) -> Share:
        """What ``asdict`` gave; ConfigError for anything else."""
        fields = known(cls, value)
        memory = integer(fields, "memory", MEMORY_CHUNK_SIZE)
        if memory % MEMORY_CHUNK_SIZE:
            raise ConfigError(f"a share has whole chunks of {format_size(MEMORY_CHUNK_SIZE)}, not {memory} bytes")
        return cls(_device(required(fields, "device")), memory)


@dataclass(frozen=True, slots=True)
class Lease:
    """A granted request: a share of each of its GPUs. Whoever has ``id`` and ``key`` may use it; the key is never shown.

    Plain data for the store: ``asdict``, with the key in it, and ``from_plain``.
    """

    id: str
    key: str = field(repr=False)
    holder: Holder
    request: LeaseRequest
    shares: tuple[Share, ...]
    state: LeaseState = LeaseState.GRANTED
    asked_at: float = 0.0
    """Unix seconds: how long it waited is ``granted_at`` less this."""
    granted_at: float = 0.0
    expires_at: float | None = None
    """Unix seconds; None: it has no end of its own."""
    held: bool = True
    """It ends with the connection that asked for it."""
    sessions: int = 0

    @property
    def memory(self) -> int:
        """Bytes of all its shares."""
        return sum(share.memory for share in self.shares)

    @property
    def worth(self) -> Fraction:
        """What it withholds from others, in GPUs: of each the part of its memory, all of one that nobody may share with it."""
        return sum((worth(share.memory, share.device, self.request.exclusive) for share in self.shares), Fraction())

    def admits(self, key: str) -> bool:
        """Whether ``key`` is the lease's, in a time that says nothing about it."""
        return hmac.compare_digest(key.encode(errors="surrogatepass"), self.key.encode())

    @classmethod
    def from_plain(cls, value: object) -> Lease:
        """What ``asdict`` gave; ConfigError for anything else."""
        fields = known(cls, value)
        shares = required(fields, "shares")
        if not isinstance(shares, tuple | list) or not shares:
            raise ConfigError("a lease has one share or more")
        state = text(fields, "state")
        if state not in list(LeaseState):
            raise ConfigError(f"a lease cannot be {state[:40]!r}")
        return cls(
            text(fields, "id"),
            text(fields, "key"),
            Holder.from_plain(required(fields, "holder")),
            LeaseRequest.from_plain(required(fields, "request")),
            tuple(map(Share.from_plain, shares)),
            LeaseState(state),
            number(fields, "asked_at"),
            number(fields, "granted_at"),
            None if fields.get("expires_at") is None else number(fields, "expires_at"),
            boolean(fields, "held"),
            integer(fields, "sessions"),
        )

    def __str__(self) -> str:
        return ", ".join(
            f"{format_size(share.memory)} of {share.device.name} {share.device.index}" for share in self.shares
        )


def worth(memory: int, device: DeviceSpec, exclusive: bool) -> Fraction:
    """What ``memory`` bytes of ``device`` withhold from others, in GPUs."""
    return Fraction(1) if exclusive else Fraction(memory, leasable(device))


def leasable(device: DeviceSpec) -> int:
    """Bytes of a GPU that can be leased: its memory in whole chunks."""
    return device.memory_size // MEMORY_CHUNK_SIZE * MEMORY_CHUNK_SIZE


def _device(value: object) -> DeviceSpec:
    fields = known(DeviceSpec, value)
    match fields.get("compute_capability"):
        case None:
            capability = None
        case [int(major), int(minor)]:
            capability = (major, minor)
        case other:
            raise ConfigError(f"compute_capability must be major and minor, not {other!r:.40}")
    return DeviceSpec(
        text(fields, "kind"),
        integer(fields, "index"),
        text(fields, "name"),
        text(fields, "uuid"),
        integer(fields, "memory_size", 1),
        capability,
    )
