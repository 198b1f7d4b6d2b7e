"""The wall around NVRTC: what the check of a text would let through by mistake reads no file, and takes no time or memory without end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitfusion import limits
from bitfusion.errors import KernelCompileError
from bitfusion.kernels import cuda_cpp, landlock
from tests.processes import has_ended

needs_landlock = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")

BOMB = "\n".join(
    ["#define B0 1+1+1+1+1+1+1+1+1+1", *(f"#define B{i} {'+'.join([f'B{i - 1}'] * 10)}" for i in range(1, 12))]
)
"""A macro of 10 to the 12th ones."""

ENDLESS = f"{BOMB}\n__device__ int endless = B11;\n"

PARENT = f"""
from bitfusion.kernels import cuda_cpp
print("ready", flush=True)
cuda_cpp.to_ptx({ENDLESS!r}, "mine.cu", (8, 0))
"""


def compiled(text: str) -> str:
    return cuda_cpp.to_ptx(text, "mine.cu", (8, 0))


@needs_landlock
@pytest.mark.parametrize(
    "line",
    [
        '#include "{place}/secret"',
        "#include <{place}/secret>",
        '#define FILE "{place}/secret"\n#include FILE',
        '#if __has_include("{place}/secret")\n#error word_of_the_file\n#endif\nnonsense',
        '#include "/proc/self/environ"',
        '#include "/proc/self/cwd/pyproject.toml"',
    ],
)
def test_no_file_is_read_but_headers(tmp_path, monkeypatch, line):
    (tmp_path / "secret").write_text("word_of_the_file")
    monkeypatch.setenv("SECRET", "word_of_the_environment")
    with pytest.raises(KernelCompileError, match="does not compile") as caught:
        compiled(line.format(place=tmp_path))
    assert "word_of" not in str(caught.value) and "[project]" not in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("CPU_MAX_S", 1, "was ended"),
        ("WALL_MAX_S", 1, "was ended"),
        ("ADDRESS_SIZE_MAX", 256 * limits.MIB, "out of memory"),
        ("ADDRESS_SIZE_MAX", 96 * limits.MIB, "cannot compile"),  # not even NVRTC fits
    ],
)
def test_a_bomb_is_ended(monkeypatch, limit, value, words):
    monkeypatch.setattr(cuda_cpp, limit, value)
    with pytest.raises(KernelCompileError, match=rf"^mine\.cu.*{words}"):
        compiled(ENDLESS)


def test_a_compile_ends_with_its_worker():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        child = _child_of(parent)
        descriptor = os.pidfd_open(child)
        parent.kill()
    assert has_ended(descriptor), "the compiler goes on without its worker"
    os.close(descriptor)


def test_a_kernel_without_landlock_is_warned_of(monkeypatch, caplog):
    monkeypatch.setattr(landlock, "version", lambda: 0)
    compiled("")
    assert "no Landlock" in caplog.text


def test_headers_of_every_kind_compile():
    text = "#include <cuda_fp16.h>\n#include <cuda/std/tuple>\n#include <cooperative_groups.h>\n"
    assert ".version" in compiled(f'{text}extern "C" __device__ int twice(int value) {{ return 2 * value; }}')


def _child_of(parent: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    while not (found := children.read_text().split()):
        assert parent.poll() is None
    return int(found[0])
