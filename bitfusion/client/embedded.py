"""The private appliance: started when nobody named a server, shared by this process's clients, stopped with the last of them.

It offers what BITFUSION_DEVICES says (the form of ``serve --devices``), by default this machine's GPUs or a virtual one, and holds
kernels to what BITFUSION_KERNEL_TIMEOUT and BITFUSION_CHECK say.

It cannot outlive us: it holds the reading end of a pipe whose writing end only this process has, and stops when that is closed, which
the kernel does even for a process that is killed.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

from bitfusion.client.settings import kernel_rules
from bitfusion.errors import UnreachableError, decode
from bitfusion.transport.address import Target, parse_target

READY_TIMEOUT_S = 60.0
"""A cold start imports numba and llvmlite; on a slow disk that takes seconds."""

STOP_TIMEOUT_S = 10.0
"""What an orderly stop may take before the appliance is killed: its workers scrub their memory first."""

HOOK_VARIABLE = "BITFUSION_HOOK"
"""Where ``bitfusion run`` has put its import hook; the appliance itself must see the real numba."""


class Appliance:
    """One running child process. ``devices`` None is what BITFUSION_DEVICES says, ``state_dir`` None the default place."""

    def __init__(self, devices: str | None = None, state_dir: Path | None = None) -> None:
        rules = kernel_rules()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        ready, ready_writer = os.pipe()
        lifeline, self._lifeline = os.pipe()
        devices = devices or os.environ.get("BITFUSION_DEVICES") or "auto"
        command = ["-P", "-m", "bitfusion", "serve", "--host", "127.0.0.1", "--port", "0", "--devices", devices]
        command += ["--check", rules.check]
        if rules.timeout_s is not None:
            command += ["--kernel-timeout", repr(rules.timeout_s)]
        if state_dir is not None:
            command += ["--state-dir", str(state_dir)]
        try:
            self.process = subprocess.Popen(
                [sys.executable, *command, "--ready-fd", str(ready_writer), "--lifeline-fd", str(lifeline)],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(ready_writer, lifeline),
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the program; we stop the appliance
            )
        except BaseException:
            os.close(self._lifeline)
            os.close(ready)
            self._log.close()
            raise
        finally:
            os.close(ready_writer)
            os.close(lifeline)
        try:
            self.target = self._wait_ready(ready)
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(ready)

    def _wait_ready(self, descriptor: int) -> Target:
        """The address, once the appliance has said that it is ready. The error that kept it from it; UnreachableError if it gave none."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        line = b""
        while poll.poll(max(deadline - time.monotonic(), 0) * 1000):
            part = os.read(descriptor, 4096)
            line += part
            if not part or line.endswith(b"\n"):
                break
        match _told(line):
            case {"address": str(address)}:
                return parse_target(address)
            case {"error": error}:
                reason = decode(error)
                raise type(reason)(f"the private appliance did not start: {reason.message}", **reason.details)
        raise UnreachableError(
            f"the private appliance did not start; run `bitfusion serve` to see why. It said: {self._said()}"
        )

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace").strip()[-2000:] or "nothing"

    def stop(self) -> None:
        """Stop it: asked first, killed after STOP_TIMEOUT_S."""
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        finally:
            os.close(self._lifeline)  # which stops it too, should an interrupt have ended the wait
            self._log.close()

    def forget(self) -> None:
        """In a forked child: it is the parent's."""
        os.close(self._lifeline)
        self._log.close()
        self.process.returncode = 0  # so that nobody here waits for it


def _told(line: bytes) -> object:
    """What the appliance told by its ready descriptor; None where it ended before it had told all."""
    try:
        return json.loads(line)
    except ValueError:
        return None


_lock = threading.RLock()
"""Re-entered where the garbage collector, in the middle of ``acquire``, finalises a client and so calls ``release``."""

_running: list[Appliance] = []
_clients = 0


def acquire() -> Target:
    """The address of this process's private appliance, started if need be; each ``acquire`` wants one ``release``."""
    global _clients
    with _lock:
        _clients += 1
        try:
            if _running and _running[0].process.poll() is not None:
                _running.pop().stop()
            if not _running:
                _running.append(Appliance())
        except BaseException:
            _clients -= 1
            raise
        return _running[0].target


def release() -> None:
    """One client fewer; the last one stops the appliance."""
    global _clients
    with _lock:
        _clients -= 1
        if _clients <= 0 and _running:
            _running.pop().stop()


def _environment() -> dict[str, str]:
    """Ours, without the import hook of ``bitfusion run``, and such that the child finds this package."""
    hook = os.environ.get(HOOK_VARIABLE)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != hook]
    package = str(Path(__file__).resolve().parents[2])
    if package not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):  # else it would hide Python's own
        paths.append(package)
    environment = {name: value for name, value in os.environ.items() if name not in (HOOK_VARIABLE, "BITFUSION_SERVER")}
    return {**environment, "PYTHONPATH": os.pathsep.join(paths)}


def _forget() -> None:
    """In a forked child: start over; the lock was taken before the fork so that nothing is half done."""
    global _clients
    _lock.release()
    _clients = 0
    while _running:
        _running.pop().forget()


def _unlock() -> None:
    _lock.release()


def _lock_whole() -> None:
    _lock.acquire()


os.register_at_fork(before=_lock_whole, after_in_parent=_unlock, after_in_child=_forget)
