"""The zygote: a process that has imported the compilers once and forks a worker for every lease in milliseconds.

The daemon asks over a socket pair (one msgpack message a packet, descriptors beside it); the zygote answers with the worker's pid and
later with its exit status. It opens no device, starts no thread and keeps none of the descriptors it passes on. When the
daemon goes, the zygote goes; the workers notice by their own lifelines.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn, cast

import msgpack

from bitfusion.pool.ledger import Ledger
from bitfusion.worker.process import EXIT_FAULT, OBJECTS, Assignment, work

log = logging.getLogger(__name__)

MESSAGE_SIZE_MAX = 64 * 1024
"""One request: a hello (16 KiB at most) with the lease around it."""

DESCRIPTOR_COUNT = 3
"""With a request: the client's connection, the worker's lifeline, the GPU's ledger."""


class Zygote:
    """Forks workers as the daemon asks, and reports their ends."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until the daemon closes its end."""
        self._send({"ready": os.getpid()})
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._control:
                    if not self._serve():
                        return
                else:
                    self._reap(key.fd, key.data)

    def _serve(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_SIZE_MAX, DESCRIPTOR_COUNT)
        if not message:
            return False
        request = msgpack.unpackb(message)
        try:
            pid = self._fork(Assignment(**request["assignment"]), descriptors)
        except OSError as error:
            log.warning("! no worker: %s", error)
            self._send({"failed": request["id"], "reason": error.strerror or str(error)})
            return True
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
        self._send({"spawned": request["id"], "pid": pid})
        return True

    def _fork(self, assignment: Assignment, descriptors: list[int]) -> int:
        """The pid of a new worker. OSError where the machine has no process or no descriptors left for it."""
        if len(descriptors) != DESCRIPTOR_COUNT:  # the kernel drops what does not fit (unix(7), SCM_RIGHTS)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        pid = os.fork()
        if pid == 0:
            self._become_worker(assignment, *descriptors)
        return pid

    def _become_worker(self, assignment: Assignment, connection: int, lifeline: int, ledger: int) -> NoReturn:
        """In the child: drop what is the zygote's, serve the session, and never return."""
        code = EXIT_FAULT
        try:
            for key in list(self._selector.get_map().values()):
                if key.fileobj is not self._control:
                    os.close(key.fd)
            self._selector.close()
            self._control.close()
            gc.enable()
            code = work(assignment, socket.socket(fileno=connection), lifeline, Ledger(ledger))
        except BaseException:
            log.exception("! the worker failed")
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _reap(self, descriptor: int, pid: int) -> None:
        self._selector.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        self._send({"exited": pid, "code": os.waitstatus_to_exitcode(status)})

    def _send(self, message: dict[str, int | str]) -> None:
        try:
            self._control.send(cast(bytes, msgpack.packb(message)))
        except OSError:
            sys.exit(0)  # the daemon has gone; nobody is left to tell


def warm(kinds: list[str], cache_dir: Path | None) -> None:
    """Import and prepare all that workers of these device kinds need, so that they share its memory."""
    from bitfusion.device.open import warm as warm_device

    for kind in kinds:
        warm_device(kind, cache_dir)
    if set(kinds) != {"null"}:
        from bitfusion.kernels.compiler import warm as warm_compiler

        warm_compiler()


def main() -> None:
    """``python -m bitfusion.worker.zygote FD LEVEL CACHE KIND...``, started by the daemon; CACHE may be empty."""
    descriptor, level, cache, *kinds = sys.argv[1:]
    os.umask(0o077)  # what workers keep in the caches is their user's alone
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the daemon, which ends us in order
    logging.basicConfig(level=level, format="%(asctime)s %(process)d %(name)s %(message)s")
    warm(kinds, Path(cache) / OBJECTS if cache else None)
    gc.collect()
    gc.freeze()  # a collection in a worker would otherwise touch, and so copy, every page it shares
    gc.disable()
    Zygote(socket.socket(fileno=int(descriptor))).run()


if __name__ == "__main__":
    main()
