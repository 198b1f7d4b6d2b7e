"""Kernels whose text a program makes itself: it is remembered, and the right one of many is found."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from bitfusion.errors import KernelSourceError
from bitfusion.kernels import executed, gate, source

executed.watch()


def made(text, name="kernel", *, compiled=None):
    names = {}
    exec(text if compiled is None else compiled(text), names)
    return names[name]


def captured_text(function):
    (accepted,) = gate.accept(source.capture(function).data)
    return accepted.source.text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def kernel(x):\n    x[0] = 1\n", "def kernel(x):\n    x[0] = 1\n"),
        ("\n\nA = 1\ndef kernel(x):\n    x[0] = A", "def kernel(x):\n    x[0] = A"),
        ("if True:\n    def kernel(x):\n        x[0] = 2\n", "    def kernel(x):\n        x[0] = 2\n"),
        (
            "def make():\n    def kernel(x):\n        x[0] = 3\n    return kernel\nkernel = make()\n",
            "    def kernel(x):\n        x[0] = 3\n",
        ),
        ("kernel = lambda x: x + 1\n", "def kernel(x): return (x + 1)"),
    ],
)
@pytest.mark.parametrize("compiled", [None, lambda text: compile(text, "<made here>", "exec"), str.encode])
def test_the_text_of_exec_is_found(text, found, compiled):
    assert captured_text(made(text, compiled=compiled)).strip() == found.strip()


def test_of_many_texts_with_one_name_the_right_one_is_found():
    kernels = [made(f"def kernel(x):\n    x[0] = {number}\n") for number in range(20)]
    for number, kernel in enumerate(kernels):
        assert f"x[0] = {number}\n" in captured_text(kernel)


def test_a_text_that_is_no_longer_kept(monkeypatch):
    monkeypatch.setattr(executed, "TEXTS_SIZE_MAX", 1000)
    kernel = made("def kernel(x):\n    x[0] = 123456\n")
    for number in range(100):
        made(f"def kernel(x):\n    x[0] = -{number}\n")
    assert executed._size <= 1000
    with pytest.raises(KernelSourceError, match="source of 'kernel' is not available"):
        source.capture(kernel)


def test_files_are_not_kept(tmp_path):
    before = executed._size
    made("def kernel(x): pass", compiled=lambda text: compile(text, str(tmp_path / "kernel.py"), "exec"))
    assert executed._size == before


def test_future_statements_around_exec_make_no_difference():
    code = """
from __future__ import annotations
from bitfusion.kernels import executed, source
executed.watch()
names = {}
exec("def kernel(x: int):\\n    x[0] = 1\\n", names)
print(source.capture(names["kernel"]).name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "kernel\n"


def test_threads_that_compile_disturb_neither_each_other_nor_the_count(monkeypatch):
    """An audit hook that raises fails the program's own compile."""
    monkeypatch.setattr(executed, "TEXTS_SIZE_MAX", 300)
    texts = [f"def kernel(x):\n    return {number}\n" for number in range(20)]
    failures = []

    def compile_all():
        try:
            for _ in range(100):
                for text in texts:
                    compile(text, "<threads>", "exec")
        except Exception as error:
            failures.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=compile_all) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not failures
    assert executed._size == sum(len(text) for _, text in executed._texts) <= 300
