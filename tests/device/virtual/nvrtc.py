"""CUDA C++ for tests, compiled to PTX by NVRTC with the headers of NVIDIA's wheels."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import nvidia
from cuda.bindings import nvrtc

_INCLUDE = [path / "cu13" / "include" for path in map(Path, nvidia.__path__)]


@cache
def compile_cpp(source: str, architecture: int = 80, *options: str) -> str:
    """The PTX of a program; AssertionError with NVRTC's log for mistakes in it."""
    result, program = nvrtc.nvrtcCreateProgram(source.encode(), b"test.cu", 0, [], [])
    assert not int(result)
    includes = [f"-I{directory}" for path in _INCLUDE for directory in (path, path / "cccl")]
    arguments = [
        f"-arch=compute_{architecture}",
        "-std=c++17",
        "-default-device",
        "--device-int128",
        *includes,
        *options,
    ]
    (failed,) = nvrtc.nvrtcCompileProgram(program, len(arguments), [argument.encode() for argument in arguments])
    _, size = nvrtc.nvrtcGetProgramLogSize(program)
    log = bytes(size + 1)  # NVRTC writes into it, and Python has one object for all texts of one byte
    nvrtc.nvrtcGetProgramLog(program, log)
    assert not int(failed), log.decode()
    _, size = nvrtc.nvrtcGetPTXSize(program)
    text = bytes(size + 1)
    nvrtc.nvrtcGetPTX(program, text)
    nvrtc.nvrtcDestroyProgram(program)
    return text.rstrip(b"\0").decode()
