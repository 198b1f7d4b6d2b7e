"""The life of a lease over the full product of states and events."""

from __future__ import annotations

import itertools

import pytest

from bitfusion.errors import LocalProtocolError
from bitfusion.pool.lease import MOVES, LeaseEvent, LeaseState, apply

EXPECTED = {
    ("GRANTED", "START"): "ACTIVE",
    ("GRANTED", "WARN"): "WARNED",
    ("GRANTED", "END"): "ENDING",
    ("GRANTED", "RELEASE"): "RELEASED",
    ("ACTIVE", "STOP"): "GRANTED",
    ("ACTIVE", "WARN"): "WARNED",
    ("ACTIVE", "END"): "ENDING",
    ("ACTIVE", "RELEASE"): "RELEASED",
    ("WARNED", "START"): "ACTIVE",
    ("WARNED", "STOP"): "GRANTED",
    ("WARNED", "WAKE"): "ACTIVE",
    ("WARNED", "END"): "ENDING",
    ("WARNED", "RELEASE"): "RELEASED",
    ("ENDING", "STOP"): "ENDING",
    ("ENDING", "RELEASE"): "RELEASED",
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(LeaseState, LeaseEvent)))
def test_every_pair(state: LeaseState, event: LeaseEvent) -> None:
    expected = EXPECTED.get((state.name, event.name))
    if expected is None:
        with pytest.raises(LocalProtocolError, match=f"{state.name} cannot {event.name}"):
            apply(state, event)
    else:
        assert apply(state, event) is LeaseState[expected]


def test_every_state_can_end_and_nothing_follows_the_end() -> None:
    for state in LeaseState:
        moves = {event for before, event in MOVES if before is state}
        assert (LeaseEvent.RELEASE in moves) == (state is not LeaseState.RELEASED)
