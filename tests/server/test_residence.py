"""Who is moved to the host for whom, on an oversubscribed GPU: a pure choice over the ledger."""

from __future__ import annotations

import pytest

from bitfusion.pool.ledger import Ledger
from bitfusion.server.residence import IDLE_NS, QUANTUM_NS, Choice, choose

NOW = 10**12
CAPACITY = 100


@pytest.fixture
def ledger():
    ledger = Ledger.create(CAPACITY)
    ledger.open_lease(1, CAPACITY)
    yield ledger
    ledger.close()


def session(ledger, mapped, *, idle_ns=0, wants=0, waited_ns=0, placed_ns=10 * QUANTUM_NS, **row):
    """A session's row: bytes mapped, and since when it is idle, waits, has its memory."""
    number = ledger.open_session(0)
    values = {
        "used": mapped,
        "last_ns": NOW - idle_ns,
        "wants": wants,
        "wants_since": NOW - waited_ns if wants else 0,
        "mapped_since": NOW - placed_ns,
        **row,
    }
    for name, value in values.items():
        ledger.sessions[name][number] = value
    ledger.header["mapped"] += mapped
    return number


def test_nobody_waits(ledger):
    session(ledger, 100, idle_ns=IDLE_NS)
    assert choose(ledger, NOW) == Choice()


def test_the_longest_idle_goes_first_and_no_more_than_needed(ledger):
    short, long, middle = (session(ledger, 30, idle_ns=IDLE_NS * factor) for factor in (2, 9, 5))
    session(ledger, 0, wants=50)
    assert choose(ledger, NOW) == Choice((long, middle))
    assert choose(ledger, NOW, frozenset({long, middle})) == Choice()
    assert choose(ledger, NOW, frozenset({long})) == Choice((middle,))
    assert short == 0


def test_who_is_not_idle_yet_is_looked_at_again(ledger):
    session(ledger, 100, idle_ns=IDLE_NS // 2)
    session(ledger, 0, wants=50)
    assert choose(ledger, NOW) == Choice(look_s=IDLE_NS / 2e9)


@pytest.mark.parametrize("state", ["busy_since", "waits_since"])
def test_the_busy_keep_their_place_for_a_quantum(ledger, state):
    row = session(ledger, 100, idle_ns=IDLE_NS, **{state: NOW - IDLE_NS})
    waiter = session(ledger, 0, wants=50, waited_ns=QUANTUM_NS // 2)
    assert choose(ledger, NOW) == Choice(look_s=QUANTUM_NS / 2e9)
    ledger.sessions["wants_since"][waiter] = NOW - QUANTUM_NS
    assert choose(ledger, NOW) == Choice((row,))
    ledger.sessions["mapped_since"][row] = NOW - QUANTUM_NS // 4
    assert choose(ledger, NOW) == Choice(look_s=QUANTUM_NS * 0.75e-9)


def test_what_is_on_the_host_already_is_no_room(ledger):
    away = session(ledger, 60, idle_ns=9 * IDLE_NS, saved=60)
    ledger.header["mapped"] -= 60
    there = session(ledger, 100, idle_ns=IDLE_NS)
    session(ledger, 0, wants=10)
    assert choose(ledger, NOW) == Choice((there,)) and away == 0


def test_those_who_wait_for_each_other_are_told_the_youngest_first(ledger):
    session(ledger, 50, wants=20, waited_ns=200)
    youngest = session(ledger, 50, wants=20, waited_ns=100)
    assert choose(ledger, NOW) == Choice(refused=youngest)


def test_who_waited_longest_is_served_first(ledger):
    idle = session(ledger, 100, idle_ns=IDLE_NS)
    session(ledger, 0, wants=1, waited_ns=100)
    session(ledger, 0, wants=90, waited_ns=200)
    assert choose(ledger, NOW) == Choice((idle,))
