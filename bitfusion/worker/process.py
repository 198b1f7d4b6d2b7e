"""One worker process from fork to exit: opens its device, welcomes the client, serves it, and leaves nothing behind.

Watches two descriptors from a thread of its own, because the loop may be inside a long kernel: the client's connection and
the daemon's lifeline. When the client goes, running kernels are aborted and the connection is given up, and a worker that cannot stop is
ended by force; when the daemon goes, the worker goes with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from bitfusion import limits
from bitfusion.device.base import Device
from bitfusion.device.open import open_device
from bitfusion.errors import BitfusionError, DeviceError
from bitfusion.pool.ledger import Ledger
from bitfusion.session.hello import Welcome
from bitfusion.session.server import ServerSession
from bitfusion.transport.address import prepare
from bitfusion.types import DeviceSpec, KernelRules
from bitfusion.version import WIRE_VERSION
from bitfusion.wire.connection import Connection
from bitfusion.wire.states import Role, State
from bitfusion.worker.account import LedgerAccount
from bitfusion.worker.confinement import confine
from bitfusion.worker.executor import Executor
from bitfusion.worker.kernels import Kernels
from bitfusion.worker.memory import SessionMemory
from bitfusion.worker.service import Service
from bitfusion.worker.stdout import Stdout
from bitfusion.worker.turn import Turn

log = logging.getLogger(__name__)

RANGE_FACTOR = 4
"""Addresses reserved per byte of lease: room for the client's allocator to live with fragmentation. Addresses cost nothing."""

STOP_TIMEOUT_S = 5.0
"""How long a worker may take to end after its client or its daemon has gone; a kernel's abort takes milliseconds."""

OBJECTS, KERNELS = "objects", "kernels"
"""Under the cache directory: machine code of the virtual GPU, and PTX of kernels."""

ROOM, EVICT = b"R", b"E"
"""On the lifeline: a worker asks for room on an oversubscribed GPU; the daemon asks a worker to move its memory to the host."""

EXIT_OK, EXIT_FAULT, EXIT_DEVICE, EXIT_STUCK = 0, 70, 71, 72


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the daemon tells a worker: whom to serve and with what."""

    session_id: str
    spec: dict[str, str | int]
    row: int
    """The session's in the GPU's ledger."""
    memory_limit: int
    cache_dir: str | None
    rules: dict[str, float | str | None] = field(default_factory=dict)


def work(assignment: Assignment, connection: socket.socket, lifeline: int, ledger: Ledger) -> int:
    """Serve one session; the exit code of the process."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    connection.setblocking(False)
    prepare(connection)
    return uvloop.run(_serve(assignment, connection, lifeline, ledger))


async def _serve(assignment: Assignment, connection: socket.socket, lifeline: int, ledger: Ledger) -> int:
    session = ServerSession(Connection(Role.SERVER, state=State.GREETED))
    try:
        device, memory = _open(assignment, ledger, lifeline)
    except DeviceError as error:
        log.exception("! session %s: the device did not open", assignment.session_id)
        connection.setblocking(True)
        connection.sendall(b"".join(session.fail(0, error)))
        return EXIT_DEVICE
    confine(device.spec.kind)
    turn = _turn(assignment, device, ledger)
    executor = Executor(device, memory, Kernels(_cache_dir(assignment, KERNELS)), session.metrics, turn)
    service = Service(session, executor, Stdout() if device.spec.kind == "cuda" else None)
    loop = asyncio.get_running_loop()
    watch = Watch(device, service, loop, connection.fileno(), lifeline)
    loop.set_exception_handler(_fault)
    await loop.connect_accepted_socket(lambda: service.stream, connection)
    service.stream.send(session.welcome(_welcome(assignment, device, memory)))
    log.info("session %s opened on %s", assignment.session_id, device.spec.name)
    await service.closed.wait()
    watch.stop()
    _close(device)
    log.info("session %s ended: %s", assignment.session_id, session.metrics)
    return EXIT_OK


def _fault(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """A callback of the loop failed: the session's state is unknown, so the process ends and the server tells the client."""
    loop.default_exception_handler(context)
    os._exit(EXIT_FAULT)


def _open(assignment: Assignment, ledger: Ledger, lifeline: int) -> tuple[Device, SessionMemory]:
    spec = DeviceSpec(**assignment.spec)  # type: ignore[arg-type]  # asdict of one
    rules = KernelRules(**assignment.rules)  # type: ignore[arg-type]  # asdict of one
    device = open_device(spec, cache_dir=_cache_dir(assignment, OBJECTS), rules=rules)
    limit = assignment.memory_limit // limits.MEMORY_CHUNK_SIZE * limits.MEMORY_CHUNK_SIZE
    size = max(limit * RANGE_FACTOR, limits.GIB)
    account = LedgerAccount(ledger, assignment.row, lambda: _say(lifeline, ROOM))
    return device, SessionMemory(device, device.reserve(size), size, limit, account)


def _say(lifeline: int, word: bytes) -> None:
    with contextlib.suppress(OSError):  # the daemon has gone, which the watch notices
        os.write(lifeline, word)


def _drain(device: Device) -> None:
    """Until the device does nothing more for this session. A failure is sticky: the session's next call reports it."""
    with contextlib.suppress(DeviceError):
        device.synchronize(None)


def _turn(assignment: Assignment, device: Device, ledger: Ledger) -> Turn | None:
    """The session's turns on its GPU; a null device has no time to share."""
    ledger.sessions["pid"][assignment.row] = os.getpid()
    return None if device.spec.kind == "null" else Turn(ledger, assignment.row, lambda: _drain(device))


def _cache_dir(assignment: Assignment, name: str) -> Path | None:
    return None if assignment.cache_dir is None else Path(assignment.cache_dir) / name


def _welcome(assignment: Assignment, device: Device, memory: SessionMemory) -> Welcome:
    return Welcome(
        session_id=assignment.session_id,
        version=WIRE_VERSION,
        device=device.info,
        memory_base=memory.base,
        memory_size=memory.size,
        memory_limit=memory.limit,
    )


def _close(device: Device) -> None:
    try:
        device.close()
    except BitfusionError as error:  # a poisoned context refuses to close; the process's end frees it
        log.info("the device was closed by force: %s", error)


class Watch:
    """Notices from a thread that the client or the daemon has gone."""

    def __init__(
        self, device: Device, service: Service, loop: asyncio.AbstractEventLoop, connection: int, lifeline: int
    ) -> None:
        self._device = device
        self._service = service
        self._loop = loop
        self._connection = os.dup(connection)
        self._lifeline = lifeline
        self._stopped = threading.Event()
        self._wake, self._waker = os.pipe()
        threading.Thread(target=self._watch, name="bitfusion-watch", daemon=True).start()

    def stop(self) -> None:
        """The session has ended in order."""
        self._stopped.set()
        os.close(self._waker)

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._connection, select.POLLRDHUP)
        poll.register(self._lifeline, select.POLLIN)
        poll.register(self._wake, 0)
        while True:
            ready = dict(poll.poll())
            if self._stopped.is_set():
                return
            if ready != {self._lifeline: select.POLLIN}:
                break
            if os.read(self._lifeline, 1) == EVICT:
                self._loop.call_soon_threadsafe(self._service.evict)
        if ready.get(self._lifeline, 0) & select.POLLHUP:
            log.info("the daemon has gone, so has this worker")
            os._exit(EXIT_OK)  # at once: a kernel that is aborted would still be answered, with the wrong reason
        self._device.abort()
        self._service.abort()
        # in the middle of an answer that nobody takes, the loop reads nothing and so does not learn of the end
        self._loop.call_soon_threadsafe(self._service.stream.abort)
        if not self._stopped.wait(STOP_TIMEOUT_S):
            log.warning("! the device did not stop within %.0f s of its client's end", STOP_TIMEOUT_S)
            os._exit(EXIT_STUCK)
