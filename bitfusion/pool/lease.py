"""A lease: who holds how much of which GPU, and the table of its life. Owns no memory and no process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from bitfusion.errors import LocalProtocolError
from bitfusion.types import DeviceSpec, format_size


class LeaseState(Enum):
    """Where a lease stands. Its memory is charged to the GPU in every state but RELEASED."""

    GRANTED = auto()
    ACTIVE = auto()
    ENDING = auto()
    RELEASED = auto()


class LeaseEvent(Enum):
    """What happens to a lease."""

    START = auto()
    """A worker serves it."""
    END = auto()
    """The client has gone, or the appliance takes the lease back; the worker is told to stop."""
    RELEASE = auto()
    """The worker is gone and with it all memory, or there never was one."""


MOVES: Mapping[tuple[LeaseState, LeaseEvent], LeaseState] = {
    (LeaseState.GRANTED, LeaseEvent.START): LeaseState.ACTIVE,
    (LeaseState.GRANTED, LeaseEvent.END): LeaseState.ENDING,
    (LeaseState.GRANTED, LeaseEvent.RELEASE): LeaseState.RELEASED,
    (LeaseState.ACTIVE, LeaseEvent.END): LeaseState.ENDING,
    (LeaseState.ACTIVE, LeaseEvent.RELEASE): LeaseState.RELEASED,
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


@dataclass(frozen=True, slots=True)
class Lease:
    """What one session holds: a share of each of its GPUs."""

    id: str
    shares: tuple[Share, ...]
    state: LeaseState = LeaseState.GRANTED

    def __str__(self) -> str:
        return ", ".join(
            f"{format_size(share.memory)} of {share.device.name} {share.device.index}" for share in self.shares
        )
