"""CUDA C++ to PTX by NVRTC, which needs no driver, in a confined process (``nvrtc``). The caller has looked at the text (``linking``)."""

from __future__ import annotations

import logging
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from io import FileIO

from cuda import pathfinder

from bitfusion import limits
from bitfusion.errors import KernelCompileError
from bitfusion.kernels import landlock
from bitfusion.kernels.nvrtc import EXIT_OK, EXIT_REFUSED, EXIT_UNABLE, PTX_SIZE_MAX
from bitfusion.kernels.places import without_places

log = logging.getLogger(__name__)

INCLUDES = ("cudart", "cccl")
"""NVIDIA's header directories, as cuda.pathfinder names them."""

CPU_MAX_S = 60
"""Processor time of one compile. libcu++'s largest headers together take 1 to 2 s."""

WALL_MAX_S = 2 * CPU_MAX_S
"""Time of one compile by the clock, on a machine that is busy with others."""

ADDRESS_SIZE_MAX = 4 * limits.GIB
"""Address space of one compile; libcu++'s headers take below 1 GiB of it."""

ENVIRONMENT = frozenset(
    {"PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "HOME", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CONDA_PREFIX"}
)
"""What Python and cuda.pathfinder look for their files by; the compiler's process gets no other variable."""


def to_ptx(text: str, name: str, capability: tuple[int, int], folders: Sequence[str] = ()) -> str:
    """Relocatable device code as PTX. ``folders`` are further places of headers. KernelCompileError with NVRTC's words."""
    if not landlock.version():
        log.warning("this kernel has no Landlock: only the check of its text keeps CUDA C++ from opening files")
    folders = [*_own_folders(), *folders]
    try:
        code, output = _run([f"compute_{capability[0]}{capability[1]}", *folders], text.encode())
    except OSError as error:  # no process, no memory or no descriptor left
        raise KernelCompileError(f"{name}: the compiler of CUDA C++ could not be started: {error}") from None
    if code == EXIT_OK:
        return output.decode(errors="replace")
    said = without_places(output.decode(errors="replace"), folders)
    if code == EXIT_REFUSED:
        raise KernelCompileError(f"{name} does not compile: {re.sub('linked[.]cu', lambda _: name, said)}")
    if code == EXIT_UNABLE:
        raise KernelCompileError(f"{name}: this appliance cannot compile CUDA C++: {said}")
    raise KernelCompileError(
        f"{name}: the compiler of CUDA C++ was ended ({_why(code)}): it may take {CPU_MAX_S} s of processor time, {WALL_MAX_S} s by"
        f" the clock and {ADDRESS_SIZE_MAX // limits.MIB} MiB, for {PTX_SIZE_MAX // limits.MIB} MiB of PTX at most"
    )


def _run(arguments: Sequence[str], text: bytes) -> tuple[int, bytes]:
    """The exit code of a compile and its output. Both texts are files in memory, so neither side waits for the other."""
    command = [sys.executable, "-P", "-m", "bitfusion.kernels.nvrtc", str(os.getpid()), str(CPU_MAX_S)]
    environment = {name: value for name, value in os.environ.items() if name in ENVIRONMENT}
    with _memory_file() as source, _memory_file() as output:
        source.write(text)
        source.seek(0)
        with subprocess.Popen(
            [*command, str(ADDRESS_SIZE_MAX), *arguments],
            stdin=source,
            stdout=output,
            stderr=subprocess.DEVNULL,
            env=environment,
        ) as process:
            _wait(process)
        return process.returncode, os.pread(output.fileno(), PTX_SIZE_MAX, 0)


def _memory_file() -> FileIO:
    return FileIO(os.memfd_create("bitfusion-cuda-cpp"), "r+")


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Until it ends, or it is killed for the time it takes. ``Popen.wait`` with a limit would look every 50 ms."""
    descriptor = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(WALL_MAX_S * 1000):
            log.warning("! a compile of CUDA C++ was ended after %.0f s", WALL_MAX_S)
    finally:
        process.kill()  # harmless where it has ended
        os.close(descriptor)


def _why(code: int) -> str:
    return signal.strsignal(-code) or f"signal {-code}" if code < 0 else f"exit code {code}"


def _own_folders() -> list[str]:
    found = (pathfinder.locate_nvidia_header_directory(place) for place in INCLUDES)
    return [str(place.abs_path) for place in found if place is not None]
