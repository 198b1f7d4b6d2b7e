"""What a worker gives up before it reads a byte of its client: rights it never needs, and the machine's memory.

A hostile kernel can take over a worker of the virtual GPU, and a compile can ask for any amount of memory (docs/design/security.md).
None of this needs privileges. It bounds the damage; it is no sandbox, and other sessions' files and processes belong to the same user.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
from pathlib import Path

from bitfusion.limits import GIB

log = logging.getLogger(__name__)

HOST_SIZE_MAX = 8 * GIB
"""Private host memory a session may add to that of an idle worker: compilers, modules and tables. Numba and LLVM need far below 1 GiB."""

HOST_SIZE_PER_CORE = GIB
"""And for every core: a thread's stack and the blocks it holds, with 512 KiB of local memory for each of 1024 threads at most."""

OUT_OF_MEMORY_SCORE = 500
"""Of 1000: when memory runs out, the kernel ends a worker, which costs one session, and not the daemon."""

CORE_SIZE = 1
"""A core file would put the client's memory on the disk. 1 and not 0: only 1 also stops a core_pattern that is a pipe (Linux,
fs/coredump.c).
"""

_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h


def confine(device_kind: str) -> None:
    """Give up what the calling process will not need; for a worker whose device is open and that has no threads yet.

    A worker of a CUDA device keeps its memory limit and its right to gain privileges: the driver maps what it likes, and may run
    ``nvidia-modprobe``, and a kernel there runs on the GPU and not in this process.
    """
    _lower(resource.RLIMIT_CORE, CORE_SIZE)
    _volunteer()
    if device_kind != "cuda":
        cores = len(os.sched_getaffinity(0))
        _lower(resource.RLIMIT_DATA, _data_size() + HOST_SIZE_MAX + cores * HOST_SIZE_PER_CORE)
        _keep_privileges()


def _lower(limit: int, value: int) -> None:
    """Set both limits, but never above what there is."""
    _, hard = resource.getrlimit(limit)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))


def _volunteer() -> None:
    """Be ended before others when the machine runs out of memory (proc(5), oom_score_adj)."""
    path = Path("/proc/self/oom_score_adj")
    try:
        path.write_text(str(min(int(path.read_text()) + OUT_OF_MEMORY_SCORE, 1000)))
    except OSError as error:  # a container without /proc, or with a read-only one
        log.info("the order of the out-of-memory killer stays as it is: %s", error)


def _data_size() -> int:
    """Bytes that RLIMIT_DATA counts now: private writable mappings (proc(5), status, VmData)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:")), 0)


def _keep_privileges() -> None:
    """No program that this process runs has more rights than it (prctl(2), PR_SET_NO_NEW_PRIVS)."""
    if ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        log.info("the kernel does not know PR_SET_NO_NEW_PRIVS")
