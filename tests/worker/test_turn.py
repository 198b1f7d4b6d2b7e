"""Turns on a GPU by weight and cap, between real processes over one ledger. A kernel is a sleep: what is shared is time, not cores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from bitfusion.pool.ledger import Ledger
from bitfusion.worker.turn import Turn

PROGRAM = """
import sys, time
from bitfusion.pool.ledger import Ledger
from bitfusion.worker.turn import Turn
descriptor, row, kernel_s, gap_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
turn = Turn(Ledger(descriptor), row, lambda: None)
print("ready", flush=True)
sys.stdin.readline()
while True:
    turn.take()
    time.sleep(kernel_s)
    turn.give()
    if gap_s:
        time.sleep(gap_s)
"""
MEASURED_S = 1.0


@pytest.fixture
def ledger():
    ledger = Ledger.create()
    yield ledger
    ledger.close()


class Busy:
    """A process that keeps its lease's GPU busy with kernels of ``kernel_s`` seconds and pauses of ``gap_s`` between them."""

    def __init__(self, ledger, number, *, weight=100, cap=0, kernel_s=0.003, gap_s=0.0, lease=None):
        self.lease = ledger.open_lease(number, 1 << 30, weight, cap) if lease is None else lease
        self.row = ledger.open_session(self.lease)
        self.ledger = ledger
        command = [sys.executable, "-c", PROGRAM, str(ledger.descriptor), str(self.row), str(kernel_s), str(gap_s)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[ledger.descriptor]
        )
        ledger.sessions["pid"][self.row] = self.process.pid
        assert self.process.stdout.readline() == "ready\n"

    @property
    def device_s(self):
        return int(self.ledger.leases["device_ns"][self.lease]) / 1e9

    def begin(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.ledger.close_session(self.row)


def measure(processes, seconds=MEASURED_S):
    """The device time each got in a period in which all were busy."""
    for process in processes:
        process.begin()
    try:
        wait_for(lambda: all(process.device_s for process in processes))
        before = [process.device_s for process in processes]
        time.sleep(seconds)  # the period that is measured
        return [process.device_s - at_first for process, at_first in zip(processes, before, strict=True)]
    finally:
        for process in processes:
            process.end()


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("weights", "kernels_s", "gaps_s"),
    [
        ((100, 100), (0.003, 0.003), (0, 0)),
        ((100, 300), (0.003, 0.003), (0, 0)),
        ((100, 200), (0.010, 0.002), (0, 0)),  # long kernels earn nothing
        ((100, 200), (0.005, 0.005), (0, 0.0005)),  # nor does it cost to need a moment between launches
        ((100, 200, 400), (0.004, 0.002, 0.003), (0, 0, 0)),
    ],
)
def test_device_time_follows_the_weights(ledger, weights, kernels_s, gaps_s):
    rows = zip(weights, kernels_s, gaps_s, strict=True)
    got = measure(
        [
            Busy(ledger, number, weight=weight, kernel_s=kernel_s, gap_s=gap_s)
            for number, (weight, kernel_s, gap_s) in enumerate(rows, 1)
        ]
    )
    for time_s, weight in zip(got, weights, strict=True):
        assert time_s / sum(got) == pytest.approx(weight / sum(weights), rel=0.1), got


def test_sessions_of_one_lease_share_its_part(ledger):
    first = Busy(ledger, 1)
    second = Busy(ledger, 1, lease=first.lease)
    other = Busy(ledger, 2)
    shared, _, alone = measure([first, second, other])
    assert shared == pytest.approx(alone, rel=0.1)


def test_who_is_idle_leaves_the_gpu_to_others_and_saves_nothing_up(ledger):
    idle, busy = Busy(ledger, 1, weight=1000), Busy(ledger, 2, kernel_s=0.001)
    (got,) = measure([busy], 0.3)
    assert got > 0.2
    late = Busy(ledger, 3)
    mine, others = measure([idle, late])
    assert mine / others == pytest.approx(10, rel=0.15)


@pytest.mark.parametrize("company", [False, True])
def test_a_cap_holds_even_when_nobody_waits(ledger, company):
    capped = Busy(ledger, 1, cap=20, kernel_s=0.002)
    others = [Busy(ledger, 2)] if company else []
    capped.begin()
    wait_for(lambda: capped.device_s > 0.1)  # what it may save up is spent
    before = capped.device_s
    time.sleep(MEASURED_S)
    got = capped.device_s - before
    for process in [capped, *others]:
        process.end()
    assert got == pytest.approx(0.2 * MEASURED_S, rel=0.1)


def test_who_dies_in_its_turn_holds_nobody_up(ledger):
    holder = Busy(ledger, 1, kernel_s=60)
    waiter = Busy(ledger, 2, kernel_s=0.001)
    holder.begin()
    wait_for(lambda: ledger.header["holder"][0] == holder.row + 1)
    waiter.begin()
    wait_for(lambda: ledger.header["waiting"][0] == 1)
    os.kill(holder.process.pid, signal.SIGKILL)
    holder.process.wait()
    wait_for(lambda: waiter.device_s > 0)  # by itself: nobody has closed the row
    holder.end()
    assert ledger.header["open"][0] == 1
    waiter.end()
    assert ledger.header["open"][0] == 0 and ledger.header["waiting"][0] == 0


def test_a_wait_can_be_aborted(ledger):
    lease = ledger.open_lease(1, 1 << 30, cap=1)
    turn = Turn(ledger, ledger.open_session(lease), lambda: None)
    turn.take()
    ledger.leases["allowed_ns"][lease] = time.monotonic_ns() + 3600 * 10**9
    turn.give()
    turn.abort()
    turn.take()
    assert ledger.header["waiting"][0] == 0


def test_what_is_launched_ends_before_the_gpu_is_given_on(ledger):
    drained = []
    turn = Turn(ledger, ledger.open_session(ledger.open_lease(1, 1)), lambda: drained.append(1))
    turn.take()
    turn.give()
    assert not drained  # alone: nobody is waiting for it
    ledger.open_session(ledger.open_lease(2, 1))
    turn.take()
    ledger.header["waiting"] = 1
    turn.give()
    assert drained
