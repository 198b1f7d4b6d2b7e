"""NVRTC in a process of its own, which can read CUDA's headers and no other file, for a minute, in bounded memory.

``python -m bitfusion.kernels.nvrtc PARENT SECONDS SIZE ARCHITECTURE FOLDER...``: CUDA C++ on standard input; PTX on standard output, or
what the exit code says. Once the text is being compiled, nothing more can be imported (``cuda_cpp`` is the caller).
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitfusion.kernels import landlock

EXIT_OK, EXIT_REFUSED, EXIT_UNABLE = 0, 3, 4
"""The PTX follows; the text does not compile, and the compiler's log follows; this machine cannot compile, and the reason follows."""

PTX_SIZE_MAX = 64 * 1024 * 1024
"""Bytes of PTX or of a log. The PTX of a source of 256 KiB that is no trick has a few MiB."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: Sequence[str]) -> int:
    """Compile standard input; the exit code."""
    parent, seconds, size, architecture, *folders = arguments
    _end_with(int(parent))
    _bound(int(seconds), int(size))
    text = sys.stdin.buffer.read()
    try:
        library = _load()
        confine([*folders, library])
    except (ImportError, RuntimeError, OSError) as error:
        code, output = EXIT_UNABLE, str(error).encode()
    else:
        code, output = compiled(text, architecture, folders)
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
    return code


def _end_with(parent: int) -> None:
    """Go when the caller's thread goes, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it went before
        sys.exit(EXIT_UNABLE)


def _bound(seconds: int, size: int) -> None:
    """Processor time and address space; and the output, which is a file in memory."""
    for limit, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, size),
        (resource.RLIMIT_FSIZE, PTX_SIZE_MAX),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


def _load() -> str:
    """Load NVRTC; the directory of its libraries, one of which it loads when it first compiles. RuntimeError where there is none."""
    from cuda import pathfinder
    from cuda.bindings import nvrtc

    place = pathfinder.load_nvidia_dynamic_lib("nvrtc").abs_path
    nvrtc.nvrtcVersion()
    if place is None:
        raise RuntimeError("it is not known where the NVRTC library is")
    return str(Path(place).resolve().parent)


def confine(places: Sequence[str]) -> None:
    """Read below ``places`` only, where the kernel has Landlock. OSError where that fails, or other threads would not be confined."""
    if not landlock.version():
        return
    if len(os.listdir("/proc/self/task")) != 1:
        raise OSError("the compiler's process has other threads, which cannot be confined")
    landlock.read_only(places)


def compiled(text: bytes, architecture: str, folders: Sequence[str]) -> tuple[int, bytes]:
    """Relocatable device code as PTX, or NVRTC's log, and the exit code that says which."""
    from cuda.bindings import nvrtc

    _, program = nvrtc.nvrtcCreateProgram(text, b"linked.cu", 0, [], [])
    options = [
        f"--gpu-architecture={architecture}",
        "--relocatable-device-code=true",
        "--disable-warnings",
        *(f"--include-path={place}" for place in folders),
    ]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        return EXIT_REFUSED, log or str(status).encode()
    return EXIT_OK, _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program)


def _text(get_size: Any, get: Any, program: object) -> bytes:
    _, size = get_size(program)
    buffer = bytes(size + 1)  # it is written into, and Python has one object for all texts of one byte
    get(program, buffer)
    return buffer.rstrip(b"\0")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
