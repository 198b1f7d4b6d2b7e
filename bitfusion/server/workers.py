"""Workers as the server sees them: asks the zygote to fork them and learns of their ends.

Owns the zygote process and the lifelines: a socket pair per worker whose one end the worker holds. It closes when the worker dies,
however it dies; when we close ours, the worker ends. Owns no leases and no client connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgpack

from bitfusion.errors import BitfusionError, ConnectError
from bitfusion.worker.process import EVICT, Assignment
from bitfusion.worker.zygote import MESSAGE_SIZE_MAX

log = logging.getLogger(__name__)

ZYGOTE_START_TIMEOUT_S = 120.0
"""Importing and warming the compilers takes seconds, on a cold disk and a loaded machine tens of them."""

WORKER_STOP_TIMEOUT_S = 8.0
"""Longer than the worker's own STOP_TIMEOUT_S, after which it has ended itself."""

STATUS_TIMEOUT_S = 1.0
"""How long after a worker's end its exit status may take to arrive from the zygote."""

WORDS_SIZE = 64
"""Bytes read from a lifeline at a time: each is a word of its own, and all say the same."""

SECRET = re.compile("TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|KEY", re.IGNORECASE)
"""In the name of a variable that workers never see: clients' kernels run there (docs/design/security.md)."""


@dataclass(slots=True)
class Worker:
    """One worker process. ``ended`` gets its exit code: negative for a signal, None where nobody could learn it."""

    pid: int
    lifeline: socket.socket
    ended: asyncio.Future[int | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    asks_for_room: Callable[[], None] | None = None
    """Called when its session waits for room on an oversubscribed GPU."""

    def dismiss(self) -> None:
        """Ask the worker to end, by the end of its lifeline; ours is closed once it has."""
        with contextlib.suppress(OSError):  # it is ending by itself
            self.lifeline.shutdown(socket.SHUT_RDWR)

    async def stop(self) -> None:
        """Ask the worker to end, wait until it has, and kill it should it stay."""
        self.dismiss()
        if not (await asyncio.wait([self.ended], timeout=WORKER_STOP_TIMEOUT_S))[0]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            await asyncio.wait([self.ended])

    def evict(self) -> None:
        """Ask the worker to move its session's memory to the host."""
        with contextlib.suppress(OSError):
            self.lifeline.send(EVICT)


class Workers:
    """All workers of one server, and the zygote they come from."""

    def __init__(self, kinds: list[str], cache_dir: Path | None, log_level: str = "WARNING") -> None:
        self._kinds = kinds
        self._cache_dir = cache_dir
        self._log_level = log_level
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._ready: asyncio.Future[None] | None = None
        self._numbers = itertools.count(1)
        self._spawning: dict[int, tuple[asyncio.Future[Worker], socket.socket]] = {}
        self._workers: dict[int, Worker] = {}
        self._restart: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def ready(self) -> bool:
        """Whether a worker could be started now."""
        return self._control is not None and self._ready is not None and self._ready.done()

    async def start(self) -> None:
        """Start the zygote and wait until it is warm; ConnectError if it does not come up."""
        ours = self._launch()
        loop = asyncio.get_running_loop()
        self._control, self._ready = ours, loop.create_future()
        loop.add_reader(ours, self._control_readable)
        try:
            async with asyncio.timeout(ZYGOTE_START_TIMEOUT_S):
                await self._ready
        except TimeoutError:
            raise ConnectError(f"the zygote did not come up within {ZYGOTE_START_TIMEOUT_S:.0f} s") from None

    def _launch(self) -> socket.socket:
        """Start the zygote's process; our end of its control socket."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        cache = "" if self._cache_dir is None else str(self._cache_dir)
        command = [sys.executable, "-P", "-m", "bitfusion.worker.zygote", str(theirs.fileno()), self._log_level, cache]
        with theirs:
            self._process = subprocess.Popen(
                [*command, *self._kinds], pass_fds=[theirs.fileno()], env=_environment(), stdin=subprocess.DEVNULL
            )
        ours.setblocking(False)
        return ours

    async def spawn(self, assignment: Assignment, connection: socket.socket, ledger: int) -> Worker:
        """A new worker that serves ``connection`` and shares its GPU's ``ledger`` (a descriptor). ConnectError if it cannot be had."""
        if self._control is None:
            self._restart_zygote()
            raise ConnectError("no worker can be started at the moment; try again")
        try:
            spawned = self._ask(self._control, assignment, connection, ledger)
        except OSError as error:  # no descriptors left, or the zygote does not keep up
            raise ConnectError(f"no worker could be started: {error.strerror or error}; try again") from None
        return await spawned

    def _ask(
        self, control: socket.socket, assignment: Assignment, connection: socket.socket, ledger: int
    ) -> asyncio.Future[Worker]:
        """Send the zygote a request; what it answers decides the future."""
        number = next(self._numbers)
        message = msgpack.packb({"id": number, "assignment": asdict(assignment)})
        assert len(message) <= MESSAGE_SIZE_MAX
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                ours.setblocking(False)
                socket.send_fds(control, [message], [connection.fileno(), theirs.fileno(), ledger])
            except OSError:
                ours.close()
                raise
        spawned: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self._spawning[number] = (spawned, ours)
        return spawned

    async def stop(self) -> None:
        """End every worker and the zygote; those that do not go in time are killed by their pid."""
        self._closing = True
        if self._restart is not None:
            self._restart.cancel()
        workers = list(self._workers.values())
        for worker in workers:
            worker.dismiss()
        try:
            async with asyncio.timeout(WORKER_STOP_TIMEOUT_S):
                for worker in workers:
                    await worker.ended
        except TimeoutError:
            for worker in workers:
                if not worker.ended.done():
                    with contextlib.suppress(
                        ProcessLookupError
                    ):  # it has gone, and with it the zygote that would say so
                        os.kill(worker.pid, signal.SIGKILL)
        self._drop_zygote()
        for number in list(self._spawning):
            self._failed(number, ConnectError("the appliance is stopping"))

    def _drop_zygote(self) -> None:
        if self._control is not None:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(WORKER_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _control_readable(self) -> None:
        """A packet from the zygote, or its end."""
        assert self._control is not None
        try:
            message = self._control.recv(MESSAGE_SIZE_MAX)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            self._zygote_died()
            return
        match msgpack.unpackb(message):
            case {"ready": _} if self._ready is not None and not self._ready.done():
                self._ready.set_result(None)
            case {"spawned": number, "pid": pid}:
                self._spawned(number, pid)
            case {"failed": number, "reason": reason}:
                self._failed(number, ConnectError(f"no worker could be started: {reason}; try again"))
            case {"exited": pid, "code": code}:
                self._exited(pid, code)

    def _zygote_died(self) -> None:
        """Workers live on; a new zygote takes the place of the old one."""
        if self._process is not None:
            self._process.kill()  # of no use without its socket; nobody waits for it to end in its own way
        self._drop_zygote()
        was_ready = self._ready is not None and self._ready.done()
        error = ConnectError("the zygote died; its log has the reason")
        if self._ready is not None and not was_ready:
            self._ready.set_exception(error)
        for number in list(self._spawning):
            self._failed(number, error)
        if was_ready:
            log.warning("! the zygote died and is started again")
            self._restart_zygote()

    def _restart_zygote(self) -> None:
        """Start another, unless that is under way or all is ending."""
        if not self._closing and (self._restart is None or self._restart.done()):
            self._restart = asyncio.get_running_loop().create_task(self._start_again())

    async def _start_again(self) -> None:
        try:
            await self.start()
            log.info("the new zygote is ready")
        except (BitfusionError, OSError) as error:
            log.error("! no session can be opened until there is a zygote again; the next one asks for it: %s", error)

    def _spawned(self, number: int, pid: int) -> None:
        spawned, lifeline = self._spawning.pop(number)
        worker = self._workers[pid] = Worker(pid, lifeline)
        asyncio.get_running_loop().add_reader(lifeline, self._lifeline_readable, worker)
        if spawned.done():  # whoever asked has given up
            worker.dismiss()
        else:
            spawned.set_result(worker)

    def _failed(self, number: int, error: ConnectError) -> None:
        spawned, lifeline = self._spawning.pop(number)
        lifeline.close()
        if not spawned.done():
            spawned.set_exception(error)

    def _exited(self, pid: int, code: int | None) -> None:
        worker = self._workers.pop(pid, None)
        if worker is None:
            return
        if worker.lifeline.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(worker.lifeline)
            worker.lifeline.close()
        if not worker.ended.done():
            worker.ended.set_result(code)

    def _lifeline_readable(self, worker: Worker) -> None:
        """A worker asks for room; or its end has closed: it is dead, or dying, and its status comes from the zygote."""
        try:
            words = worker.lifeline.recv(WORDS_SIZE)
        except BlockingIOError:
            return
        except OSError:
            words = b""
        if words:
            if worker.asks_for_room is not None:
                worker.asks_for_room()
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(worker.lifeline)
        loop.call_later(STATUS_TIMEOUT_S, self._lost, worker)

    def _lost(self, worker: Worker) -> None:
        """Nobody has told its status; by now its pid may be another's."""
        if self._workers.get(worker.pid) is worker:
            self._exited(worker.pid, None)


def _environment() -> dict[str, str]:
    """The zygote's, and so every worker's: ours without secrets, and such that it finds this package and starts no threads."""
    environment = {name: value for name, value in os.environ.items() if not SECRET.search(name)}
    environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # no threads before a fork
    # without -P, any random.py where we were started would be taken for Python's
    package = str(Path(__file__).resolve().parents[2])
    if package not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), package]))
    return environment
