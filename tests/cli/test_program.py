"""``cli/program.py`` watching a connection while a program runs; the rest of it is in test_run.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

TIMEOUT_S = 30

WATCH = """
import os, socket, sys
from bitfusion.cli import program
sock = socket.socket(fileno=int(sys.argv[1]))
def look():
    try:
        print(sock.recv(100, socket.MSG_DONTWAIT), flush=True)
    except BlockingIOError:
        pass
code = program.run(sys.argv[2:], os.environ, program.Watched(sock.fileno(), look))
print('code', code, flush=True)
"""


@pytest.fixture
def watching():
    """The command that watches, and the other end of what it watches."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield (
            ours,
            lambda *command: subprocess.Popen(
                [sys.executable, "-c", WATCH, str(theirs.fileno()), *command],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ),
        )


def test_what_comes_is_looked_at_while_the_program_runs(watching):
    ours, start = watching
    ours.send(b"early")
    with start("sh", "-c", "read x; exit 7") as process:
        assert process.stdout.readline() == "b'early'\n"
        for number in range(3):
            ours.send(b"news %d" % number)
            assert process.stdout.readline() == f"b'news {number}'\n"
        ours.shutdown(socket.SHUT_RDWR)
        assert process.stdout.readline() == "b''\n"
        out, _ = process.communicate("\n", TIMEOUT_S)
    assert out.endswith("code 7\n") and process.returncode == 0


def test_news_at_the_programs_very_end_do_no_harm(watching):
    ours, start = watching
    with start("sh", "-c", "kill -STOP $PPID; exit 3") as process:
        os.waitpid(process.pid, os.WUNTRACED)
        ours.send(b"news")
        process.send_signal(subprocess.signal.SIGCONT)
        out, _ = process.communicate(timeout=TIMEOUT_S)
    assert out.splitlines()[-1] == "code 3" and process.returncode == 0


def test_the_programs_signals_are_as_they_were(watching):
    _, start = watching
    with start("sh", "-c", "sed -n 's/^SigBlk:.//p; s/^SigIgn:.//p' /proc/self/status") as process:
        out, _ = process.communicate(timeout=TIMEOUT_S)
    assert int(out.split()[0], 16) == 0
