"""Runs one test module in a process of its own against an appliance, and goes on after a test that takes the process with it."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.compliance.numba_cuda import modules
from tests.compliance.numba_cuda.outcome import Outcome, Verdict

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
HOOK = str(ROOT / "bitfusion" / "hook")

TEST_LIMIT_S = 180
"""For one test, and for loading a module: the slowest known takes 20 s on a busy machine."""

MODULE_LIMIT_S = 600
"""For all tests of a module: the longest takes two minutes on a busy machine."""

OUTPUT_MAX = 4000
"""Bytes of what a process said that are kept with a test that ended it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the sessions go."""

    address: str
    memory: str = "2GiB"
    """Of each session; the largest array of the tests has 1.8 GB."""

    def environment(self) -> dict[str, str]:
        """That of a program under ``bitfusion run``, and the harness; no settings of ours or Numba's but these."""
        paths = [HOOK, str(HERE / "harness"), str(ROOT)]
        ours = {
            "BITFUSION_HOOK": HOOK,
            "BITFUSION_SERVER": self.address,
            "BITFUSION_MEMORY": self.memory,
            "PYTHONPATH": os.pathsep.join(paths),
        }
        others = ((name, value) for name, value in os.environ.items() if not name.startswith(("BITFUSION_", "NUMBA_")))
        return dict(others) | ours


def _nobody(_: Outcome) -> None:
    """Who is told where nobody asks."""


def run(
    name: str, place: Place, left_out: frozenset[str] = frozenset(), seen: Callable[[Outcome], None] = _nobody
) -> list[Outcome]:
    """All tests of a module but those left out; ``seen`` is told of each as it ends. Never raises for what a test does."""
    outcomes: list[Outcome] = []
    deadline = time.monotonic() + MODULE_LIMIT_S
    while True:
        finished = False
        for outcome in _process(name, place, left_out | {each.test for each in outcomes}, deadline):
            if outcome is None:
                finished = True
            else:
                outcomes.append(outcome)
                seen(outcome)
        if finished or not outcomes or outcomes[-1].test == name:
            return outcomes


def _process(name: str, place: Place, left_out: frozenset[str], deadline: float) -> Iterator[Outcome | None]:
    """What one process reports; None at the module's end. A test during which it ends, or does not, is an error."""
    reader, writer = os.pipe()
    with tempfile.TemporaryDirectory(prefix="bitfusion-test-") as folder, tempfile.TemporaryFile() as output:
        command = [sys.executable, "-P", str(HERE / "program.py"), str(writer), modules.full(name), *sorted(left_out)]
        process = subprocess.Popen(
            command,
            pass_fds=[writer],
            cwd=folder,
            env=place.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        os.close(writer)
        current: str | None = None
        late = False
        try:
            with os.fdopen(reader) as lines:
                for said in _lines(lines, deadline):
                    if said["verdict"] == "started":
                        current = said["test"]
                    elif said["verdict"] == "done":
                        yield None
                        return
                    else:
                        current = None
                        yield Outcome(**{**said, "verdict": Verdict(said["verdict"])})
                        if said["test"] == name:
                            yield None
                            return
        except TimeoutError:
            late = True
        finally:
            _end(process)
        output.seek(max(0, output.seek(0, os.SEEK_END) - OUTPUT_MAX))
        how = "no end within its time limit" if late else _ending(process.returncode)
        yield Outcome(current or name, Verdict.ERROR, 0.0, how, output.read().decode(errors="replace"))


def _lines(stream: IO[str], deadline: float) -> Iterator[dict[str, Any]]:
    """Each line as it comes. TimeoutError if one takes longer than a test may, or all longer than a module may."""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        rest = b""
        while True:
            if not selector.select(min(TEST_LIMIT_S, deadline - time.monotonic())):
                raise TimeoutError
            data = os.read(stream.fileno(), 1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            yield from map(json.loads, lines)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for its end, and end what it has started and left."""
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _ending(code: int) -> str:
    return f"its process ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
