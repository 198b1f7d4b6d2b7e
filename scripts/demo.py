"""``make demo``: train a small network on a leased GPU, then without a network, and show where the time went.

Starts an appliance as a process of its own, runs ``bitfusion run -n 1 -p 0.5 -- python examples/train_digits.py`` against it, runs the
same script on a device in its own process, and stops the appliance. What it makes is kept in ``.demo``: the kernel cache, so that
a second run starts faster, and the loss curve. Exit code 0 if all of it worked.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / ".demo"
SCRIPT = "examples/train_digits.py"
ACCURACY_MIN = 0.95

QUIET = {"NUMBA_DISABLE_PERFORMANCE_WARNINGS": "1"}
"""The network is small, and so are its grids, of which Numba warns."""

SHARES = (
    ("  the device computes", "compute_s"),
    ("  data moves", "transfer_s"),
    ("  waiting otherwise", "wait_s"),
    ("  the script itself", "other_s"),
)
"""Rows of the table: parts of the session's time, by their keys in the report (docs/guide/run.md)."""

console = Console(highlight=False)


@contextmanager
def appliance():
    """The address of an appliance that runs as long as the block does."""
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "bitfusion", "serve", "--port", "0", "--state-dir", str(PLACE / "state")]
    process = subprocess.Popen([*command, "--ready-fd", str(writer)], pass_fds=[writer], cwd=ROOT)
    os.close(writer)
    try:
        with open(reader) as ready:
            line = ready.readline()
        if not line:
            sys.exit(f"the appliance did not start (exit code {process.wait()})")
        yield json.loads(line)["address"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def train(name: str, *how: str) -> dict[str, float]:
    """Run the script by ``bitfusion run``; its figures together with the session's report."""
    figures, report = PLACE / f"{name}.json", PLACE / f"{name}-report.json"
    command = ["-m", "bitfusion", "run", *how, "--report", str(report), "--"]
    program = ["python", SCRIPT, "--json", str(figures), "--plot", str(PLACE / f"{name}.png")]
    console.print(f"\n[bold]$ bitfusion run {shlex.join(how)} -- {shlex.join(program[:2])}[/bold]", soft_wrap=True)
    started = time.perf_counter()
    finished = subprocess.run(
        [sys.executable, *command, sys.executable, *program[1:]], cwd=ROOT, env=os.environ | QUIET
    )
    if finished.returncode:
        sys.exit(f"{SCRIPT} failed (exit code {finished.returncode})")
    total_s = time.perf_counter() - started
    return {**json.loads(figures.read_text()), **json.loads(report.read_text()), "total_s": total_s}


def show(remote: dict[str, float], local: dict[str, float]) -> None:
    """The two runs side by side."""
    table = Table(title="The same script, the same kernels", title_justify="left")
    table.add_column("")
    table.add_column("leased GPU", justify="right")
    table.add_column("same process, no network", justify="right")
    table.add_row("test accuracy", f"{remote['accuracy']:.1%}", f"{local['accuracy']:.1%}")
    table.add_row("training step", f"{remote['step_ms']:.2f} ms", f"{local['step_ms']:.2f} ms")
    table.add_row("ratio", f"{remote['step_ms'] / local['step_ms']:.3f}", "1")
    for name, key in SHARES:
        table.add_row(name, share(remote, key), share(local, key))
    table.add_row("session", f"{remote['wall_s']:.2f} s", f"{local['wall_s']:.2f} s")
    table.add_row("whole run", f"{remote['total_s']:.1f} s", f"{local['total_s']:.1f} s")
    console.print()
    console.print(table)
    console.print("Shares are of the session: from the first use of the GPU, kernels compiled or loaded, to its end.")


def show_cache(remote: dict[str, float]) -> None:
    """The first epoch, which makes or loads the kernels, beside that of the run that filled the cache."""
    first, now = PLACE / "first.json", remote["first_epoch_ms"]
    if first.exists():
        before = json.loads(first.read_text())["first_epoch_ms"]
        console.print(
            f"First epoch: {now:.0f} ms with the kernels from the cache; {before:.0f} ms when they were compiled"
            f" ({before / now:.0f} times as long)."
        )
    else:
        first.write_text(json.dumps({"first_epoch_ms": now}))
        console.print(
            f"First epoch: {now:.0f} ms, for the kernels were compiled. Run it again: they are in the cache now."
        )


def share(run: dict[str, float], key: str) -> str:
    """A part of the session's time in per cent."""
    return f"{run[key] / run['wall_s']:.1%}"


def main() -> int:
    PLACE.mkdir(exist_ok=True)
    with appliance() as address:
        remote = train("remote", "--server", address, "-n", "1", "-p", "0.5")
    local = train("local", "--in-process", "--state-dir", str(PLACE / "state"))
    show(remote, local)
    show_cache(remote)
    console.print(f"Loss curve: {(PLACE / 'remote.png').relative_to(ROOT)}")
    if remote["accuracy"] < ACCURACY_MIN:
        console.print(f"[red]the accuracy is below {ACCURACY_MIN:.0%}[/red]")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
