"""The command line: runs modules against one appliance, and prints what passed, what did not, and why.

    python -m tests.compliance.numba_cuda doc_examples
    python -m tests.compliance.numba_cuda cudapy.test_warp_ops 'cudadrv.test_cuda_*' -v
    python -m tests.compliance.numba_cuda my_package.tests.test_mine

Exit codes: 0 nothing failed that is not on the list (skipped.toml), 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from tests.appliance import Appliance
from tests.compliance.numba_cuda import modules, processes, skipped
from tests.compliance.numba_cuda.outcome import BAD, Outcome, Verdict, counted

DEVICES = "virtual:1x32GiB"
"""Room for many sessions; a virtual GPU takes memory as it is used."""


def main() -> int:
    options = _options()
    names = modules.chosen(options.names or list(modules.FOLDERS))
    if options.list:
        print("\n".join(names))
        return 0
    results = _run(names, options)
    every = [outcome for name in names for outcome in results[name]]
    entries = skipped.read()
    for outcome in every:
        _tell(outcome, entries, options)
    print(_line("all", every))
    unlisted = {
        outcome.test: outcome.reason
        for outcome in every
        if outcome.verdict in BAD and skipped.listed(outcome, entries) is None
    }
    untrue = _untrue(results, entries) if _is_default(options) else {}
    for name, why in (*unlisted.items(), *untrue.items()):
        print(f"{'not on the list' if name in unlisted else 'must leave the list'}: {name}: {why}")
    if options.shrink:
        skipped.shrink(untrue)
        print(f"{len(untrue)} entries taken off the list; it has {len(skipped.read())}")
    if options.json:
        _write(options.json, every, unlisted)
    return 1 if unlisted or (untrue and not options.shrink) else 0


def _untrue(results: dict[str, list[Outcome]], entries: list[skipped.Entry]) -> dict[str, str]:
    return {
        name: why
        for module, outcomes in results.items()
        for name, why in skipped.untrue(module, outcomes, entries).items()
    }


def _run(names: list[str], options: argparse.Namespace) -> dict[str, list[Outcome]]:
    """The outcomes of every module; the ones that take long are started first."""
    results: dict[str, list[Outcome]] = {}
    with _place(options) as place, _Progress(len(names)) as progress, ThreadPoolExecutor(options.jobs) as pool:
        ends = time.monotonic() + options.seconds

        def one(name: str) -> list[Outcome]:
            in_time = time.monotonic() < ends
            return processes.run(name, place, seen=progress.seen) if in_time else [Outcome(name, Verdict.LEFT_OUT)]

        order = sorted(names, key=modules.weight, reverse=True)
        running = {pool.submit(one, name): name for name in order}
        try:
            for done in as_completed(running):
                results[running[done]] = done.result()
                progress.module(running[done], results[running[done]])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return results


def _is_default(options: argparse.Namespace) -> bool:
    """Whether the list speaks of this device: on a real GPU, more may pass."""
    return options.devices == DEVICES and not options.server


def _write(path: Path, outcomes: list[Outcome], unlisted: dict[str, str]) -> None:
    counts = Counter(str(outcome.verdict) for outcome in outcomes)
    result = {**counts, "unlisted": unlisted, "outcomes": [asdict(outcome) for outcome in outcomes]}
    path.write_text(json.dumps(result, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.compliance.numba_cuda", description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", help="folders, modules or patterns of numba-cuda's, or any module of yours (default: all)"
    )
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count(), metavar="N", help="processes at a time")
    parser.add_argument("-v", "--verbose", action="store_true", help="with the tracebacks")
    parser.add_argument("--listed", action="store_true", help="also what fails as skipped.toml says")
    parser.add_argument("--seconds", type=float, default=math.inf, metavar="S", help="start no module after that")
    parser.add_argument("--shrink", action="store_true", help="take what does not fail any more off skipped.toml")
    parser.add_argument("--list", action="store_true", help="only name the modules")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every outcome")
    parser.add_argument("--devices", default=DEVICES, metavar="SPEC", help=f"of the appliance (default: {DEVICES})")
    parser.add_argument("--server", metavar="HOST:PORT", help="an appliance that runs already")
    parser.add_argument("--state-dir", type=Path, metavar="DIR", help="keep compiled kernels there, for the next run")
    return parser.parse_args()


@contextmanager
def _place(options: argparse.Namespace) -> Iterator[processes.Place]:
    """Where the sessions go: the server given, or an appliance for this run."""
    if options.server:
        yield processes.Place(options.server)
        return
    with (
        tempfile.TemporaryDirectory(prefix="bitfusion-compliance-") as folder,
        Appliance(options.devices, (options.state_dir or Path(folder)).absolute()) as appliance,
    ):
        yield processes.Place(appliance.address)


class _Progress:
    """A line for each module as it ends; on a terminal, a bar below them."""

    def __init__(self, count: int) -> None:
        self._count, self._done, self._tests = count, 0, 0
        self._lock = threading.Lock()
        self._bar = sys.stderr.isatty()

    def seen(self, outcome: Outcome) -> None:
        with self._lock:
            self._tests += 1
            self._draw()

    def module(self, name: str, outcomes: list[Outcome]) -> None:
        with self._lock:
            self._done += 1
            self._clear()
            print(_line(name, outcomes), flush=True)
            self._draw()

    def _draw(self) -> None:
        if self._bar:
            filled = 30 * self._done // self._count
            print(
                f"\r[{'#' * filled:<30}] {self._done}/{self._count} modules, {self._tests} tests",
                end="",
                file=sys.stderr,
                flush=True,
            )

    def _clear(self) -> None:
        if self._bar:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._clear()


def _line(name: str, outcomes: list[Outcome]) -> str:
    return f"{name:<44} {sum(outcome.seconds for outcome in outcomes):>6.1f} s  {counted(outcomes)}"


def _tell(outcome: Outcome, entries: list[skipped.Entry], options: argparse.Namespace) -> None:
    """What did not pass, and why it is on the list; what is listed only if asked for."""
    entry = skipped.listed(outcome, entries)
    if outcome.verdict not in BAD or (entry and not (options.listed or options.verbose)):
        return
    print(f"{outcome.verdict:<8} {outcome.test}: {outcome.reason}")
    if entry:
        print(f"         {entry.kind}: {entry.reason}")
    if options.verbose and outcome.detail:
        print("".join(f"    {line}\n" for line in outcome.detail.splitlines()))


if __name__ == "__main__":
    sys.exit(main())
