"""What a listing costs with many sessions: the daemon's answer beside an echo on the same connection, and the whole command."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from typing import Any

from benchmarks.sharing.place import offered
from bitfusion.cli.bench.measure import interleave, spread
from bitfusion.client.client import connect
from bitfusion.client.control import open_control


def measure(sessions: int, rounds: int) -> dict[str, Any]:
    """Milliseconds, median and p99."""
    with offered("virtual:1x8GiB") as address, ExitStack() as stack:
        for _ in range(sessions):
            stack.enter_context(connect(address, memory="16MiB"))
        control = stack.enter_context(open_control(address))
        command = [sys.executable, "-m", "bitfusion", "smi", "--server", address, "--json"]
        bare = [sys.executable, "-c", "pass"]
        answer, echo = interleave([control.list, lambda: control.echo(b"x" * 64)], rounds=rounds)
        smi, python = interleave([lambda: _run(command), lambda: _run(bare)], rounds=max(rounds // 5, 3))
        named = {"answer": answer, "echo": echo, "smi": smi, "python": python}
        return {"sessions": sessions} | {
            f"{name}_ms": {"p50": spread(times, 1e3).p50, "p99": spread(times, 1e3).p99}
            for name, times in named.items()
        }


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
