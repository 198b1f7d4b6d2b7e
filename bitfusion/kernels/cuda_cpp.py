"""CUDA C++ to PTX by NVRTC, which needs no driver. The caller has looked at the text (``linking``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from cuda import pathfinder
from cuda.bindings import nvrtc

from bitfusion.errors import KernelCompileError
from bitfusion.kernels.places import without_places

INCLUDES = ("cudart", "cccl")
"""NVIDIA's header directories, as cuda.pathfinder names them."""


def to_ptx(text: str, name: str, capability: tuple[int, int], folders: Sequence[str] = ()) -> str:
    """Relocatable device code as PTX. ``folders`` are further places of headers. KernelCompileError with NVRTC's words."""
    try:
        _, program = _asked(nvrtc.nvrtcCreateProgram(text.encode(), b"linked.cu", 0, [], []))
        try:
            return _compiled(program, name, capability, [*_own_folders(), *folders])
        finally:
            nvrtc.nvrtcDestroyProgram(program)
    except RuntimeError as error:  # of the bindings, where there is no NVRTC library
        raise KernelCompileError(f"{name}: this appliance cannot compile CUDA C++: {error}") from None


def _compiled(program: object, name: str, capability: tuple[int, int], folders: Sequence[str]) -> str:
    options = _options(capability, folders)
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        _, size = _asked(nvrtc.nvrtcGetProgramLogSize(program))
        said = without_places(_text(nvrtc.nvrtcGetProgramLog, program, size), folders)
        raise KernelCompileError(f"{name} does not compile: {re.sub('linked[.]cu', lambda _: name, said)}")
    _, size = _asked(nvrtc.nvrtcGetPTXSize(program))
    return _text(nvrtc.nvrtcGetPTX, program, size)


def _text(get: Any, program: object, size: Any) -> str:
    buffer = bytes(size + 1)  # it is written into, and Python has one object for all texts of one byte
    _asked(get(program, buffer))
    text: str = buffer.decode(errors="replace")
    return text.rstrip("\0")


def _own_folders() -> list[str]:
    found = (pathfinder.locate_nvidia_header_directory(place) for place in INCLUDES)
    return [place.abs_path for place in found if place is not None]


def _options(capability: tuple[int, int], folders: Sequence[str]) -> list[bytes]:
    arch = f"--gpu-architecture=compute_{capability[0]}{capability[1]}"
    options = [
        arch,
        "--relocatable-device-code=true",
        "--disable-warnings",
        *(f"--include-path={place}" for place in folders),
    ]
    return [option.encode() for option in options]


def _asked(answer: tuple[object, ...]) -> tuple[object, ...]:
    """An answer of NVRTC's, which starts with its status. KernelCompileError for a failure."""
    if answer[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise KernelCompileError(f"NVRTC failed: {answer[0]}")
    return answer
