"""The life of a connection as one table (docs/reference/wire.md section 4).

An illegal move is a missing key. The client speaks first and waits for the welcome, or the failure that refuses it, before it sends
anything else; meanwhile it may hear how its request stands in the queue. After that posts and calls go one way, replies, failures,
credits, output and news of the queue the other; goodbye ends it, and the end of the connection confirms that all it held is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

from bitfusion.errors import LocalProtocolError, RemoteProtocolError
from bitfusion.wire.frames import Kind


class Role(Enum):
    """Which end of the connection this is."""

    __hash__ = object.__hash__  # every frame looks these up; Enum's own is a Python function

    CLIENT = auto()
    SERVER = auto()


class State(Enum):
    """Where a connection stands; both ends use the same names."""

    __hash__ = object.__hash__

    START = auto()
    GREETED = auto()
    OPEN = auto()
    ENDING = auto()
    CLOSED = auto()


MOVES: Mapping[tuple[State, Role, Kind], State] = {
    (State.START, Role.CLIENT, Kind.HELLO): State.GREETED,
    (State.GREETED, Role.SERVER, Kind.WELCOME): State.OPEN,
    (State.START, Role.SERVER, Kind.FAILURE): State.CLOSED,
    (State.GREETED, Role.SERVER, Kind.FAILURE): State.CLOSED,
    (State.GREETED, Role.SERVER, Kind.WAITING): State.GREETED,
    (State.OPEN, Role.CLIENT, Kind.POST): State.OPEN,
    (State.OPEN, Role.CLIENT, Kind.CALL): State.OPEN,
    (State.OPEN, Role.CLIENT, Kind.GOODBYE): State.ENDING,
    (State.OPEN, Role.SERVER, Kind.REPLY): State.OPEN,
    (State.OPEN, Role.SERVER, Kind.FAILURE): State.OPEN,
    (State.OPEN, Role.SERVER, Kind.CREDIT): State.OPEN,
    (State.OPEN, Role.SERVER, Kind.OUTPUT): State.OPEN,
    (State.OPEN, Role.SERVER, Kind.WAITING): State.OPEN,
    (State.ENDING, Role.SERVER, Kind.REPLY): State.ENDING,
    (State.ENDING, Role.SERVER, Kind.FAILURE): State.ENDING,
    (State.ENDING, Role.SERVER, Kind.CREDIT): State.ENDING,
    (State.ENDING, Role.SERVER, Kind.OUTPUT): State.ENDING,
    (State.ENDING, Role.SERVER, Kind.WAITING): State.ENDING,
}
"""(state, who sends, kind) -> state."""


def sent(state: State, role: Role, kind: Kind) -> State:
    """The state after this side sent ``kind``; LocalProtocolError if it may not."""
    try:
        return MOVES[state, role, kind]
    except KeyError:
        raise LocalProtocolError(f"a {role.name.lower()} may not send {kind.name} when {state.name}") from None


def rcvd(state: State, role: Role, kind: Kind) -> State:
    """The state after the peer, whose role is ``role``, sent ``kind``; RemoteProtocolError if it may not."""
    try:
        return MOVES[state, role, kind]
    except KeyError:
        raise RemoteProtocolError(f"the {role.name.lower()} sent {kind.name} when {state.name}") from None
