"""From ``bitfusion run`` to the program's first line, beside the same program started directly."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import numpy as np

from benchmarks.sharing.place import offered
from bitfusion.cli.bench.measure import spread

PROGRAM = ["/bin/echo", "hello"]
"""Its first line costs nothing, so that what is measured is ours."""


def measure(rounds: int) -> dict[str, Any]:
    """Milliseconds to the first line, median and p99, on a warm appliance."""
    with offered("virtual:1x8GiB") as address:
        run = [sys.executable, "-m", "bitfusion", "run", "--server", address, "-m", "64", "--quiet", "--", *PROGRAM]
        python = [sys.executable, "-c", "print('hello')"]
        commands = {"run": run, "python": python, "direct": PROGRAM}
        for command in commands.values():
            _first_line_s(command)
        taken = np.array([[_first_line_s(command) for command in commands.values()] for _ in range(rounds)])
        return {
            f"{name}_ms": {"p50": spread(column, 1e3).p50, "p99": spread(column, 1e3).p99}
            for name, column in zip(commands, taken.T, strict=True)
        }


def _first_line_s(command: list[str]) -> float:
    """Seconds until the first line. Its end does not count, but is waited for, so that the next has the machine."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"hello\n"
        return time.perf_counter() - started
