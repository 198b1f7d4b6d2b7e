"""The futex: who waits is woken from another process, and never sleeps through a change."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time

import pytest

from bitfusion.pool.futex import Futex

WAITS = """
import mmap, sys
from bitfusion.pool.futex import Futex
futex = Futex(mmap.mmap(int(sys.argv[1]), 4096), 8)
print("ready", flush=True)
futex.wait(0, 60_000_000_000)
print(futex.value, flush=True)
"""


@pytest.fixture
def memory():
    descriptor = os.memfd_create("futex")
    os.truncate(descriptor, 4096)
    mapped = mmap.mmap(descriptor, 4096)
    yield mapped, descriptor
    mapped.close()
    os.close(descriptor)


def test_another_process_wakes_who_waits(memory):
    mapped, descriptor = memory
    futex = Futex(mapped, 8)
    with subprocess.Popen(
        [sys.executable, "-c", WAITS, str(descriptor)], stdout=subprocess.PIPE, text=True, pass_fds=[descriptor]
    ) as process:
        assert process.stdout.readline() == "ready\n"
        futex.add()
        futex.wake()  # too early or not: the word has changed, so nobody sleeps
        assert process.stdout.readline() == "1\n"
    futex.close()


def test_a_wait_has_an_end(memory):
    futex = Futex(memory[0], 8)
    started = time.monotonic()
    futex.wait(0, 20_000_000)
    assert time.monotonic() - started >= 0.02
    futex.wait(1, 60_000_000_000)  # has changed: no wait at all
    assert time.monotonic() - started < 30
    futex.close()


def test_an_unknown_machine_is_told(memory, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "abacus")
    with pytest.raises(OSError, match="abacus"):
        Futex(memory[0], 8)


def test_it_wraps_around(memory):
    futex = Futex(memory[0], 8)
    memory[0][8:12] = b"\xff" * 4
    futex.add()
    assert futex.value == 0
    futex.close()
