"""The virtual GPU's speed: kernels beside the same maths in ``numba.njit(parallel=True)`` and in NumPy, all in one run.

``python -m benchmarks.virtual_gpu``. Every answer is compared with NumPy's before anything is timed. Times are of whole
launches, and what is compared takes turns, so the ratios hold on a shared machine too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.virtual.cases import MAKERS, Case, make_case
from benchmarks.virtual.gpu import Assembly, Gpu, to_ptx
from benchmarks.virtual.report import plot, show
from bitfusion.cli.bench.machine import cpu, versions
from bitfusion.cli.bench.measure import Seconds, interleave
from bitfusion.device.virtual.layout import CompileOptions
from bitfusion.kernels.compiler import warm

CHECKS = {
    "checked": CompileOptions(),
    "unchecked": CompileOptions(bounds_check=False, shared_check=False, watchdog=False),
    "global_checks": CompileOptions(shared_check=False),
}
"""Options of the compiler that are compared: the default, without any check, and without that of shared memory."""

ROUNDS, QUICK_ROUNDS = 21, 2
COMPILES, QUICK_COMPILES = 5, 1


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    warm()
    cases = []
    for name in options.only or MAKERS:
        case = make_case(name, options.quick)
        cases.append(measure(case, options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS), options.quick))
        show([cases[-1]], heading=len(cases) == 1)
    figures = {"machine": _machine(options.quick), "cases": cases}
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.plot:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(figures, options.plot)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.virtual_gpu", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--only", type=_names, help=f"some of {','.join(MAKERS)}")
    parser.add_argument("--rounds", type=int, help=f"turns of everything that is compared (default {ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="small data and few rounds: whether it runs, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them (png, svg or pdf)")
    return parser


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in MAKERS]:
        raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are {', '.join(MAKERS)}")
    return names


def measure(case: Case, rounds: int, quick: bool) -> dict[str, Any]:
    """The figures of one case, in milliseconds."""
    assembly = to_ptx(case)
    gpus = {name: Gpu(options) for name, options in CHECKS.items()}
    try:
        tasks: dict[str, Callable[[], object]] = {}
        for name, gpu in gpus.items():
            launch, answer = gpu.prepare(case, assembly)
            launch()
            case.check(answer(), name)
            tasks[name] = launch
        case.check(case.njit(), "njit")
        tasks |= {"njit": case.njit, "numpy": case.numpy}
        times = dict(zip(tasks, interleave(list(tasks.values()), rounds=rounds), strict=True))
    finally:
        for gpu in gpus.values():
            gpu.close()
    return {
        "name": case.name,
        "what": case.what,
        "ms": {name: _spread(sample) for name, sample in times.items()},
        "ratio": {name: median(times["checked"]) / median(times[name]) for name in ("unchecked", "njit", "numpy")},
        "compile_ms": _compiling(case, assembly, QUICK_COMPILES if quick else COMPILES),
    }


def _spread(sample: Seconds) -> dict[str, float]:
    best, p50, p99 = np.percentile(sample, [0, 50, 99]) * 1e3
    return {"best": float(best), "p50": float(p50), "p99": float(p99)}


def _compiling(case: Case, assembly: Assembly, count: int) -> dict[str, float]:
    """Medians of making PTX of the kernel, machine code of the PTX, and of loading that from the disk."""
    return {
        "ptx": median(to_ptx(case).seconds for _ in range(count)) * 1e3,
        "code": median(_loading(assembly, None) for _ in range(count)) * 1e3,
        "disk": _from_disk(assembly, count) * 1e3,
    }


def _from_disk(assembly: Assembly, count: int) -> float:
    with tempfile.TemporaryDirectory() as directory:
        _loading(assembly, Path(directory))
        return median(_loading(assembly, Path(directory)) for _ in range(count))


def _loading(assembly: Assembly, cache_dir: Path | None) -> float:
    """Seconds from PTX to a function that can be launched."""
    gpu = Gpu(cache_dir=cache_dir)
    started = time.perf_counter()
    gpu.load(assembly)
    seconds = time.perf_counter() - started
    gpu.close()
    return seconds


def _machine(quick: bool) -> Mapping[str, object]:
    return {
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions(),
        "quick": quick,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    main()
