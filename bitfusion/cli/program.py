"""A program as our child, as if it had been started directly: its exit code, its signals, its terminal, its descriptors.

It stays in our process group, so what the terminal sends (Ctrl-C, Ctrl-Z, hang-up) reaches it without us; signals sent to us alone are
passed on. When it stops, we stop, so that the shell sees the job stop. Other threads must have all these signals blocked.

A signal that a process sends to the whole group is passed on as well, and so comes twice: nothing in it says whom else it was sent to.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from bitfusion.cli.exit_codes import ExitCode

PASSED_ON = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGTSTP,
        signal.SIGCONT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGWINCH,
        signal.SIGALRM,
    }
)

STOPS = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
"""A program stopped by SIGSTOP was meant alone; whoever sent it will continue it."""

SI_KERNEL = 0x80
"""``si_code`` of signals that the kernel itself sends, the terminal's among them (include/uapi/asm-generic/siginfo.h)."""


LOOK_INTERVAL_S = 2.0
"""Only for a process in which a thread of somebody else's has taken the SIGCHLD; otherwise nothing waits for this."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A socket that is looked at while the program runs: ``look`` is called when something may have come; it must not wait."""

    descriptor: int
    look: Callable[[], None]


def run(command: list[str], environment: Mapping[str, str], watched: Watched | None = None) -> int:
    """Run ``command`` to its end; its exit code, 128 + N if signal N ended it, NOT_FOUND or NOT_EXECUTABLE."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would take the exit code with it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON | {signal.SIGCHLD, signal.SIGIO})
    try:
        try:
            pid = _start(command, environment, before)
        except OSError as error:
            print(f"bitfusion: {command[0]}: {_meant(command[0]) or error.strerror}", file=sys.stderr)
            return ExitCode.NOT_FOUND if isinstance(error, FileNotFoundError) else ExitCode.NOT_EXECUTABLE
        with _told_by_signal(watched):
            return _attend(pid, watched)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _meant(name: str) -> str:
    """What to write instead, where a file was given that is there but is no command."""
    if not os.path.isfile(name):
        return ""
    if name.endswith(".py"):
        return f"not a command; did you mean `python {name}`?"
    return "" if os.sep in name else f"not a command; did you mean `./{name}`?"


def _start(command: list[str], environment: Mapping[str, str], mask: set[int | signal.Signals]) -> int:
    """Its own signals are as ours were: Python ignores two that programs expect to end them."""
    return os.posix_spawnp(
        command[0], command, environment, setsigmask=mask, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ]
    )


@contextmanager
def _told_by_signal(watched: Watched | None) -> Iterator[None]:
    """SIGIO comes when the socket has news (fcntl(2), O_ASYNC), so that one wait is enough for it and for the program."""
    if watched is None:
        yield
        return
    flags = fcntl.fcntl(watched.descriptor, fcntl.F_GETFL)
    fcntl.fcntl(watched.descriptor, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(watched.descriptor, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        watched.look()  # what came before
        yield
    finally:
        fcntl.fcntl(watched.descriptor, fcntl.F_SETFL, flags)
        signal.sigtimedwait({signal.SIGIO}, 0)  # one that is still pending would end us once it is not blocked


def _attend(pid: int, watched: Watched | None) -> int:
    """Pass signals on until the program has ended."""
    while True:
        info = signal.sigtimedwait(PASSED_ON | {signal.SIGCHLD, signal.SIGIO}, LOOK_INTERVAL_S)
        if info is not None and info.si_signo == signal.SIGIO:
            if watched is not None:
                watched.look()
        elif info is None or info.si_signo == signal.SIGCHLD:
            code = _look(pid)
            if code is not None:
                return code
        elif info.si_code != SI_KERNEL:
            os.kill(pid, info.si_signo)


def _look(pid: int) -> int | None:
    """The exit code, if it has ended; if it has stopped, we stop with it."""
    while True:
        found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if not found:
            return None
        if os.WIFSTOPPED(status):
            if os.WSTOPSIG(status) in STOPS:
                os.kill(os.getpid(), signal.SIGSTOP)
            continue
        return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
