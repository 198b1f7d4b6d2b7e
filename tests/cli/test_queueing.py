"""What somebody sees who waits in the queue: one line that changes on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios

import pyte
import pytest

from bitfusion.cli.queueing import place_text
from bitfusion.session.waiting import Waiting

TIMEOUT_S = 30

TELL = """
import os, signal, sys
from bitfusion.cli.queueing import Queueing
from bitfusion.session.waiting import Waiting
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
with Queueing(quiet='quiet' in sys.argv) as queueing:
    for place in (3, 3, 2, 1):
        queueing(Waiting(place, 5, 'Null device (null 0): 1 lease on it, 2 MiB of 64 GiB free' + ', and more' * 20))
        if sys.argv[1:] == ['stop'] and place == 2: signal.sigwait({signal.SIGUSR1})
sys.stderr.write('the end\\n')
"""


@pytest.mark.parametrize(
    ("waiting", "text"),
    [
        (Waiting(2, 5, "quota of user:ana"), "waiting, 2 of 5 in the queue: quota of user:ana"),
        (Waiting(1, 1, "", (("A", "full"), ("B", "alone"))), "waiting, 1 of 1 in the queue: A: full; B: alone"),
        (Waiting(1, 1), "waiting, 1 of 1 in the queue"),
        (Waiting(0, 0), "the lease is granted"),
    ],
)
def test_the_place(waiting, text):
    assert place_text(waiting) == text


@pytest.mark.parametrize(("argument", "places"), [("", [3, 2, 1]), ("quiet", [])])
def test_without_a_terminal_a_line_for_each_change(argument, places):
    done = subprocess.run([sys.executable, "-c", TELL, argument], capture_output=True, text=True, timeout=TIMEOUT_S)
    *lines, end = done.stderr.splitlines()
    assert [line.split(" in the queue: Null device")[0] for line in lines] == [
        f"bitfusion: waiting, {place} of 5" for place in places
    ]
    assert end == "the end" and "\x1b" not in done.stderr


def screen_of(terminal, screen, stream, until):
    while until(screen):
        stream.feed(os.read(terminal, 65536))


def test_on_a_terminal_one_line_that_is_gone_at_the_end():
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(sys.executable, [sys.executable, "-c", TELL, "stop"])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    screen = pyte.Screen(80, 24)
    stream = pyte.ByteStream(screen)
    screen_of(terminal, screen, stream, lambda screen: "2 of 5" not in screen.display[0])
    assert screen.display[0].startswith("bitfusion: waiting, 2 of 5 in the queue: Null device (null 0): 1 lease on it")
    assert not any(map(str.strip, screen.display[1:]))
    os.kill(pid, signal.SIGUSR1)
    screen_of(terminal, screen, stream, lambda screen: not any("the end" in line for line in screen.display))
    assert not any("waiting" in line for line in screen.display)
    os.waitpid(pid, 0)
    os.close(terminal)
