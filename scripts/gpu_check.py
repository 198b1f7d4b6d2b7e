"""On a machine with an NVIDIA GPU: run the tests marked ``gpu`` and the GPU benchmarks, and write what came out as one JSON.

Every part runs in a process of its own with a time limit; one that fails, hangs or lacks a package is recorded and the others go on.
Needs the packages of ``bitfusion[cuda]``; pytest for the tests. ``--devices virtual:1x32GiB`` rehearses all of it without a GPU. Exit
codes: 0 all parts done, 1 some failed, 3 no GPU (docs/guide/exit-codes.md).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # bitfusion need not be installed

NO_GPU = 3

NOTHING: Mapping[str, str] = {}

PACKAGES = (
    "bitfusion",
    "numpy",
    "numba",
    "numba-cuda",
    "cuda-bindings",
    "nvidia-ml-py",
    "llvmlite",
    "msgpack",
    "uvloop",
    "torch",
)

SERVER_MODULES = ("numpy", "msgpack", "uvloop", "numba", "numba.cuda", "llvmlite", "pynvml")
"""Without these there is no appliance, so nothing to check."""


@dataclass(frozen=True)
class Part:
    """Something to run: its command gets the file its figures go to; ``needs`` are modules it cannot do without."""

    name: str
    limit_s: float
    needs: tuple[str, ...]
    command: Callable[[argparse.Namespace, Path], list[str]]


def _bench(options: argparse.Namespace, out: Path) -> list[str]:
    quick = ["--quick"] if options.quick else []
    return [sys.executable, "-m", "benchmarks.gpu", out.stem, "--devices", options.devices, "--out", str(out), *quick]


def _pytest(options: argparse.Namespace, out: Path) -> list[str]:
    chosen = ["-m", "gpu"] if options.devices == "cuda" else ["-k", "virtual"]
    return [*_plain_pytest(out), *chosen, "tests/gpu"]


def _kernels(options: argparse.Namespace, out: Path) -> list[str]:
    """The tests of numba.cuda's language, on the devices that the environment names."""
    return [*_plain_pytest(out), "tests/cuda"]


def _plain_pytest(out: Path) -> list[str]:
    """Its plug-ins and the settings that need them may be missing here."""
    plain = [
        "-o",
        "addopts=",
        "-o",
        "filterwarnings=default",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
        "-q",
    ]
    return [sys.executable, "-m", "pytest", *plain, f"--junitxml={out}"]


def _compliance(options: argparse.Namespace, out: Path) -> list[str]:
    """A part of the tests that numba-cuda ships."""
    chosen = COMPLIANCE[:2] if options.quick else COMPLIANCE
    return [
        sys.executable,
        "-m",
        "tests.compliance.numba_cuda",
        *chosen,
        "--devices",
        options.devices,
        "-j",
        "4",
        "--seconds",
        "75",
        "--json",
        str(out),
    ]


COMPLIANCE = (
    *("doc_examples", "test_intrinsics", "test_warp_ops", "test_atomics", "test_math", "test_operator"),
    *("test_record_dtype", "test_sync", "test_cooperative_groups", "test_sm", "test_localmem", "test_constmem"),
    *("test_random", "test_vectorize", "test_gufunc", "test_reduction", "test_exception", "test_print"),
    *("test_cuda_ndarray", "test_cuda_array_slicing", "test_events", "test_streams"),
)
"""What of them: where a GPU could differ from the virtual one, and not what is about Numba's own insides."""

PARTS = (
    Part("tests", 90, ("pytest",), _pytest),
    Part("kernels", 90, ("pytest",), _kernels),
    Part("compliance", 150, ("pytest",), _compliance),
    Part("copies", 45, (), _bench),
    Part("launches", 20, (), _bench),
    Part("sessions", 20, (), _bench),
    Part("training", 60, (), _bench),
)
"""In all at most eight minutes, should every part hang."""

TESTS = ("tests", "kernels", "compliance")
"""The parts that give verdicts; the others give figures."""


def main() -> int:
    options = _options()
    reason = _no_gpu() if options.devices == "cuda" else ""
    if reason:
        print(
            f"no NVIDIA GPU to check here: {reason}\n(--devices virtual:1x32GiB rehearses everything else)",
            file=sys.stderr,
        )
        return NO_GPU
    missing = [module for module in SERVER_MODULES if not _have(module)]
    if missing:
        print(f"missing: {', '.join(missing)}; pip install 'bitfusion[cuda]'", file=sys.stderr)
        return 1
    result: dict[str, Any] = {"machine": _machine(options), "parts": {}}
    for part in PARTS:
        if part.name in TESTS and options.skip_tests:
            result["parts"][part.name] = {"status": "left out", "reason": "--skip-tests"}
        else:
            print(f"{part.name} ...", file=sys.stderr, flush=True)
            result["parts"][part.name] = _run(part, options)
    _write(result, options)
    for line in _table(result):
        print(line)
    return 1 if any(part["status"] == "failed" for part in result["parts"].values()) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the GPU tests and benchmarks on this machine's GPU.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: benchmarks/results/gpu-NAME.json")
    parser.add_argument("--skip-tests", action="store_true", help="only the benchmarks")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument(
        "--devices", default="cuda", metavar="SPEC", help="rehearse on other devices, such as virtual:1x32GiB"
    )
    return parser.parse_args()


def _have(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package it is in
        return False


def _no_gpu() -> str:
    """Why there is none; empty if there is one."""
    from bitfusion.device.discovery import find_gpus

    gpus, reason = find_gpus()
    return "" if gpus else reason


# one part


def _run(part: Part, options: argparse.Namespace) -> dict[str, Any]:
    """Run a part within its limit; its figures with ``status`` ok, failed or left out, and the reason."""
    missing = [module for module in part.needs if not _have(module)]
    if missing:
        return {"status": "left out", "reason": f"{', '.join(missing)} not installed"}
    with tempfile.TemporaryDirectory(prefix="bitfusion-check-") as folder:
        out = Path(folder, f"{part.name}.out")
        started = time.monotonic()
        code, said = _limited(part.command(options, out), part.limit_s, {"BITFUSION_TEST_DEVICES": options.devices})
        seconds = round(time.monotonic() - started, 1)
        figures = _figures(part, out)
    failed = code != 0 or not figures
    reason = f"no end within {part.limit_s:.0f} s" if code is None else f"exit code {code}"
    return {
        "status": "failed" if failed else "ok",
        "seconds": seconds,
        **({"reason": reason, "said": said[-4000:]} if failed else {}),
        **figures,
    }


def _limited(command: list[str], limit_s: float, environment: Mapping[str, str] = NOTHING) -> tuple[int | None, str]:
    """Exit code, None beyond the limit, and what it said. It and all it started end with it: they are a group of their own."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(paths)},
        )
        code: int | None = None
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if code is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        log.seek(0)
        return code, log.read().decode(errors="replace")


def _figures(part: Part, out: Path) -> dict[str, Any]:
    """What a part wrote; nothing where it came to no end."""
    if not out.exists():
        return {}
    if part.command in (_pytest, _kernels):
        return _junit(out)
    found: dict[str, Any] = json.loads(out.read_text())
    found.pop("outcomes", None)  # of a thousand tests: what counts is which failed
    return found


def _junit(path: Path) -> dict[str, Any]:
    """pytest's counts, and the failures with the first line of each (JUnit XML)."""
    root = ElementTree.parse(path).getroot()
    counts = {name: sum(int(suite.get(name, 0)) for suite in root.iter("testsuite")) for name in ("tests", "skipped")}
    failures = {
        f"{case.get('classname')}.{case.get('name')}": (problem.get("message") or "")[:500]
        for case in root.iter("testcase")
        for problem in (*case.findall("failure"), *case.findall("error"))
    }
    passed = counts["tests"] - counts["skipped"] - len(failures)
    return (
        {"passed": passed, "skipped": counts["skipped"], "failed": len(failures), "failures": failures}
        if passed
        else {}
    )


# the machine


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    """This machine, its GPU and the software; plain values."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), ""
    )
    return {
        "devices": options.devices,
        "gpu": _gpu() if options.devices == "cuda" else None,
        "cpu": cpu or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_size": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "quick": options.quick,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpu() -> dict[str, Any]:
    """The first GPU as NVML describes it; what it does not know is left out."""
    import pynvml as nvml

    from bitfusion.device.discovery import find_gpus

    spec = find_gpus()[0][0]
    found: dict[str, Any] = {"name": spec.name, "memory_size": spec.memory_size}
    nvml.nvmlInit()
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(spec.uuid)
    except nvml.NVMLError:
        handle = nvml.nvmlDeviceGetHandleByIndex(spec.index)
    asked: dict[str, Callable[[], Any]] = {
        "driver": nvml.nvmlSystemGetDriverVersion,
        "cuda_driver": nvml.nvmlSystemGetCudaDriverVersion_v2,
        "pcie_generation": lambda: nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle),
        "pcie_width": lambda: nvml.nvmlDeviceGetCurrPcieLinkWidth(handle),
        "memory_used": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used,
    }
    for name, ask in asked.items():
        try:
            found[name] = ask()
        except nvml.NVMLError:
            continue
    nvml.nvmlShutdown()
    return found


# what came out


def _write(result: dict[str, Any], options: argparse.Namespace) -> None:
    path = options.json
    if path is None:
        if options.devices != "cuda":
            return  # a rehearsal is nobody's result
        name = re.sub(r"[^a-z0-9]+", "-", result["machine"]["gpu"]["name"].lower()).strip("-")
        path = ROOT / "benchmarks" / "results" / f"gpu-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written: {path}", file=sys.stderr)


def _table(result: dict[str, Any]) -> Iterator[str]:
    """The figures in lines for people."""
    machine, parts = result["machine"], result["parts"]
    gpu = machine["gpu"]
    yield f"{gpu['name'] if gpu else machine['devices']}, {machine['cores']} cores of {machine['cpu']}, {machine['date']}"
    for name, part in parts.items():
        detail = part.get("reason") or f"{part['seconds']:.0f} s"
        yield f"{name:<10} {part['status']}: {detail}"
        for line in (
            LINES[name](part) if part["status"] == "ok" or name in TESTS else part.get("said", "").splitlines()[-3:]
        ):
            yield f"    {line}"


def _test_lines(part: dict[str, Any]) -> Iterator[str]:
    if "passed" in part:
        yield f"{part['passed']} passed, {part['failed']} failed, {part['skipped']} skipped"
    for name, message in part.get("failures", {}).items():
        yield f"{name}: {message.splitlines()[0] if message else ''}"[:160]


def _compliance_lines(part: dict[str, Any]) -> Iterator[str]:
    if "passed" in part:
        counts = (
            f"{part[name]} {name}"
            for name in ("passed", "failed", "error", "skipped", "not run", "left out")
            if name in part
        )
        yield f"{', '.join(counts)} of numba-cuda's own tests; {len(part['unlisted'])} that should not have failed"
    for name, reason in part.get("unlisted", {}).items():
        yield f"{name}: {reason}"[:160]


def _copy_lines(part: dict[str, Any]) -> Iterator[str]:
    yield f"{'size':>9} {'':>4} {'GB/s':>7} {'socket':>7} {'ratio':>6} {'pinned':>7} {'ratio':>6}"
    for row in part["rows"]:
        size = f"{row['size'] >> 20} MiB" if row["size"] >> 20 else f"{row['size'] >> 10} KiB"
        for way in ("h2d", "d2h"):
            keys = (f"{way}_gbps", f"socket_{way}_gbps", f"{way}_to_socket", f"pinned_{way}_gbps", f"{way}_to_pinned")
            rate, socket, to_socket, pinned, to_pinned = (_number(row.get(key)) for key in keys)
            yield f"{size:>9} {way:>4} {rate:>7} {socket:>7} {to_socket:>6} {pinned:>7} {to_pinned:>6}"


def _launch_lines(part: dict[str, Any]) -> Iterator[str]:
    for name in ("bitfusion", "numba"):
        if name in part:
            figures = part[name]
            yield f"{name:<9} {figures['posted_per_s']:>9,.0f}/s posted, {figures['call_us']['p50']:.1f} us with a wait"
    if "posted_ratio" in part:
        yield f"ratios    {part['posted_ratio']:.2f} posted, {part['call_ratio']:.2f} with a wait"


def _session_lines(part: dict[str, Any]) -> Iterator[str]:
    yield f"first kernel done after {part['first_kernel_ms']['p50']:.0f} ms"
    floor = f", cuMemAlloc in process {part['in_process_allocate_ms']:.1f}" if "in_process_allocate_ms" in part else ""
    size = part["allocated_size"] >> 20
    yield f"{size} MiB allocated in {part['allocate_ms']:.1f} ms, again in {part['again_ms']:.1f}{floor}"


def _training_lines(part: dict[str, Any]) -> Iterator[str]:
    for name in ("remote", "in_process", "numba"):
        if f"{name}_ms" in part:
            ratio = f", remote is {part[f'to_{name}']:.3f} of it" if f"to_{name}" in part else ""
            yield f"{name:<10} {part[f'{name}_ms']:.3f} ms a step, accuracy {part[f'{name}_accuracy']:.1%}{ratio}"
    if part["images"] != "digits":
        yield "scikit-learn is missing: images like the digits took their place"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


LINES: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "tests": _test_lines,
    "kernels": _test_lines,
    "compliance": _compliance_lines,
    "copies": _copy_lines,
    "launches": _launch_lines,
    "sessions": _session_lines,
    "training": _training_lines,
}


if __name__ == "__main__":
    sys.exit(main())
