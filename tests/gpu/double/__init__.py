"""Builds the doubles of NVIDIA's driver and NVML (cuda.c, nvml.c) and gives the environment in which a process finds them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def find_header() -> Path | None:
    """NVIDIA's cuda.h, as its wheels bring it."""
    spec = importlib.util.find_spec("nvidia")
    places = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return next((header for place in places for header in sorted(Path(place).glob("**/include/cuda.h"))), None)


def build(folder: Path) -> dict[str, str]:
    """Compile both into ``folder``; environment variables for a process that is to use them. Skips where that cannot be done."""
    compiler, header = shutil.which("cc"), find_header()
    if compiler is None or header is None or importlib.util.find_spec("cuda.bindings") is None:
        pytest.skip("the double of the CUDA driver needs a C compiler, cuda.h and cuda-bindings")
    for source, name in ("cuda.c", "libcuda.so.1"), ("nvml.c", "libnvidia-ml.so.1"):
        command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", f"-Wl,-soname,{name}", f"-I{header.parent}"]
        subprocess.run([*command, str(HERE / source), "-o", str(folder / name)], check=True)
    paths = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {"LD_LIBRARY_PATH": os.pathsep.join(paths)}
