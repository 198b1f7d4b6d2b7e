"""A lease: its life over the full product of states and events, its plain form, and its key, which nobody is shown."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, replace

import pytest

from bitfusion.errors import ConfigError, LocalProtocolError
from bitfusion.limits import GIB, MIB
from bitfusion.pool.filters import parse_filter
from bitfusion.pool.lease import MOVES, Lease, LeaseEvent, LeaseState, Share, apply
from bitfusion.pool.request import Holder, LeaseRequest
from tests.pool.gpus import gpu

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


KEY = "vT2kXqkS"
LEASE = Lease(
    "0123456789abcdef",
    KEY,
    Holder("ana", "lab", "pc7", "train.py", 4711),
    LeaseRequest(gpus=2, memory=512 * MIB, filters=(parse_filter("device.memory>=1GiB"),)),
    (Share(gpu(0), 512 * MIB), Share(replace(gpu(1), compute_capability=(8, 0)), 512 * MIB)),
    LeaseState.WARNED,
    100.5,
    200.5,
    300.5,
    False,
    3,
)


def test_plain_data() -> None:
    for lease in (LEASE, replace(LEASE, expires_at=None)):
        assert Lease.from_plain(asdict(lease)) == lease
        assert Lease.from_plain({**json.loads(json.dumps(asdict(lease))), "newer": {}}) == lease


CHANGES: list[tuple[dict[str, object], str]] = [
    ({"id": 5}, "id must be a string"),
    ({"key": None}, "key must be a string"),
    ({"holder": None}, "Holder is written as a map"),
    ({"request": {"gpus": 0}}, "gpus must be"),
    ({"shares": []}, "one share or more"),
    ({"shares": {}}, "one share or more"),
    ({"shares": [{"device": {}, "memory": 2 * MIB}]}, "kind is missing"),
    ({"shares": [{"device": asdict(gpu(0)), "memory": 2 * MIB + 1}]}, "whole chunks of 2 MiB"),
    ({"shares": [{"device": asdict(gpu(0)), "memory": 0}]}, "memory must be a whole number"),
    ({"shares": [{"device": {**asdict(gpu(0)), "compute_capability": [8]}, "memory": GIB}]}, "major and minor"),
    ({"state": "lost"}, "a lease cannot be 'lost'"),
    ({"granted_at": "noon"}, "granted_at must be a number"),
    ({"granted_at": float("nan")}, "granted_at must be a number"),
    ({"expires_at": -1}, "expires_at must be a number"),
    ({"held": 2}, "held must be true or false"),
    ({"sessions": -1}, "sessions must be a whole number"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_plain_data_that_is_no_lease(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Lease.from_plain({**asdict(LEASE), **change})


def test_what_is_missing_is_named() -> None:
    for name in ("id", "key", "holder", "request", "shares", "state", "granted_at", "held"):
        plain = asdict(LEASE)
        del plain[name]
        with pytest.raises(ConfigError, match=f"{name} is missing"):
            Lease.from_plain(plain)


def test_the_key_is_never_shown() -> None:
    assert KEY not in f"{LEASE} {LEASE!r} {LEASE.holder} {[LEASE]}"
    assert str(LEASE) == "512 MiB of Virtual GPU 0, 512 MiB of Virtual GPU 1"


def test_who_has_the_key() -> None:
    assert LEASE.admits(KEY)
    assert not any(map(LEASE.admits, ("", KEY[:-1], KEY + "x", KEY.lower(), "ключ", "\ud800")))


def test_what_a_lease_is_worth() -> None:
    assert (LEASE.memory, LEASE.worth) == (GIB, 1)
    assert replace(LEASE, request=LeaseRequest(gpus=2, exclusive=True)).worth == 2
