"""Programs of a user, run as processes of their own: real ends, real signals, real forks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def running(source: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program with warnings as errors; its output is read by the test, and it is killed if it outlives the test."""
    names = {name: value for name, value in os.environ.items() if not name.startswith("BITFUSION_")}
    warnings = [
        "-W",
        "error",
        "-W",
        "ignore:This process",
    ]  # Python 3.12 warns of every fork with threads, which is what we test
    command = [sys.executable, *warnings, "-c", source, *arguments]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**names, **environment},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def output(source: str, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run a program to its end: exit code, standard output, standard error."""
    with running(source, *arguments, **environment) as process:
        said, complained = process.communicate(timeout=60)
        return process.returncode, said, complained
