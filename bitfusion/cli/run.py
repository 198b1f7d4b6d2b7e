"""``bitfusion run``: run a program with a leased GPU. Checks the options and that a lease can be had, then gets out of the program's way.

Owns the options, the program's environment and its report; the process itself is ``cli/program.py``'s. The program opens its session
itself, on first use of ``numba.cuda`` (docs/guide/run.md).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitfusion.cli import program
from bitfusion.client import embedded
from bitfusion.client.client import connect
from bitfusion.client.settings import from_environment
from bitfusion.device.discovery import check_compilers
from bitfusion.errors import ConfigError
from bitfusion.transport.address import parse_target
from bitfusion.types import SIZE_MAX, format_size, parse_size

HOOK = str(Path(__file__).resolve().parents[1] / "hook")
"""The directory of the import hook."""

SUMMED = (
    "wall_s",
    "compute_s",
    "transfer_s",
    "wait_s",
    "other_s",
    "bytes_sent",
    "bytes_rcvd",
    "operations",
    "calls",
    "launches",
)
"""Figures of a session that are added up over all sessions of the program."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``run``."""
    parser = commands.add_parser(
        "run",
        help="run a program with a leased GPU",
        description="Run a program; numba.cuda in it uses a leased GPU, whether or not Numba or CUDA are installed here.",
        usage="bitfusion run [-n N] [-p FRACTION | -m SIZE] [--server HOST:PORT] [options] -- PROGRAM [ARGUMENT ...]",
    )
    parser.add_argument("-n", "--num_gpus", "--gpus", type=_count, metavar="N", help="GPUs to lease (default: 1)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "-p",
        "--partial",
        "--fraction",
        type=_fraction,
        metavar="FRACTION",
        help="share of each GPU's memory, above 0 and up to 1",
    )
    size.add_argument(
        "-m", "--memory", type=_memory, metavar="SIZE", help="memory of each GPU: a number of MiB, or with a unit: 2GiB"
    )
    parser.add_argument(
        "--server",
        type=_server,
        metavar="HOST:PORT",
        help="the appliance (default: $BITFUSION_SERVER, else a private one)",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write where the time went, as JSON, when the program ends"
    )
    parser.add_argument(
        "--in-process",
        action="store_true",
        help="no appliance: use a device of this machine in the program's own process",
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        metavar="DIR",
        help="where a private appliance, or the process itself, keeps compiled kernels",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of our own")
    parser.add_argument("program", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Run the program; its exit code."""
    command = options.program[1:] if options.program[:1] == ["--"] else options.program
    _check(options, command)
    settings = _lease(options)
    with _place(options) as place, _gathered(options.report) as lines:
        if not options.in_process:
            with _environment_set(settings | place):
                granted = _try_lease()
            if not options.quiet:
                print(f"bitfusion: {granted}", file=sys.stderr)
        ours = {"BITFUSION_IN_PROCESS": "", **settings, **place, **_hook(), "BITFUSION_REPORT": lines}
        others = {name: value for name, value in os.environ.items() if name not in ours}
        return program.run(command, {**others, **{name: value for name, value in ours.items() if value}})


def _check(options: argparse.Namespace, command: list[str]) -> None:
    """ConfigError for options that cannot work together."""
    if not command:
        raise ConfigError("run needs a program: bitfusion run -n 1 -p 0.5 -- python script.py")
    if options.in_process and options.server:
        raise ConfigError("--in-process uses no server; leave out one of the two")
    if options.state_dir and (options.server or (not options.in_process and os.environ.get("BITFUSION_SERVER"))):
        raise ConfigError("--state-dir is for a private appliance; a server has its own")
    if options.report:
        _check_writable(options.report)
    if options.in_process and _is_of_our_python(command[0]):
        check_compilers()
    settings = from_environment()
    gpus = options.num_gpus or settings.gpus
    if gpus > 1:  # refused here, and not for want of room: no waiting would help
        raise ConfigError(
            f"{gpus} GPUs were asked for, and this version leases one to a session: ask for 1 (-n, BITFUSION_GPUS); "
            "each process of the program has a session of its own"
        )


def _check_writable(report: Path) -> None:
    existed = report.exists()
    try:
        with report.open("ab"):
            pass
        if not existed:
            report.unlink()
    except OSError as error:
        raise ConfigError(f"the report cannot be written to {report}: {error.strerror or error}") from None


def _is_of_our_python(command: str) -> bool:
    """Whether it runs with the packages that we have; of another Python nothing is known before it runs."""
    found = shutil.which(command)
    return found is not None and Path(found).absolute().parent == Path(sys.executable).absolute().parent


def _lease(options: argparse.Namespace) -> dict[str, str]:
    """What is asked for, as the environment says it: an option takes the place of what is there; '' stands for nothing."""
    asked: dict[str, str] = {}
    if options.num_gpus:
        asked["BITFUSION_GPUS"] = str(options.num_gpus)
    if options.partial or options.memory:
        asked["BITFUSION_FRACTION"] = str(options.partial or "")
        asked["BITFUSION_MEMORY"] = str(options.memory or "")
    return asked


@contextmanager
def _place(options: argparse.Namespace) -> Iterator[dict[str, str]]:
    """Where the program's sessions go, as its environment says it; a private appliance lives as long as the block."""
    if options.in_process:
        yield {"BITFUSION_IN_PROCESS": "1", "BITFUSION_STATE_DIR": str(options.state_dir or "")}
    elif server := options.server or os.environ.get("BITFUSION_SERVER"):
        yield {"BITFUSION_SERVER": server}
    else:
        appliance = embedded.Appliance(state_dir=options.state_dir)
        try:
            yield {"BITFUSION_SERVER": str(appliance.target)}
        finally:
            appliance.stop()


@contextmanager
def _environment_set(values: dict[str, str]) -> Iterator[None]:
    """Our own environment as the program's will be, for the block."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _try_lease() -> str:
    """Open and close the lease that the program will ask for, so that it is not started in vain; what was granted, in words."""
    asked = from_environment()
    with connect(gpus=asked.gpus, memory=asked.memory, fraction=asked.fraction) as client:
        size, device = client.welcome.memory_limit, client.device
        return f"{format_size(size)} of {format_size(device.memory_size)} of {device.name}"


def _hook() -> dict[str, str]:
    """The import hook, before whatever is on PYTHONPATH, where an empty part stands for the current directory."""
    given = os.environ.get("PYTHONPATH")
    paths = [path for path in given.split(os.pathsep) if path != HOOK] if given else []
    return {"PYTHONPATH": os.pathsep.join([HOOK, *paths]), "BITFUSION_HOOK": HOOK}


# the report


@contextmanager
def _gathered(report: Path | None) -> Iterator[str]:
    """Where the program's sessions write their lines; at the end they become the report. Without one, a run around us may want them."""
    if report is None:
        yield os.environ.get("BITFUSION_REPORT", "")
        return
    with tempfile.TemporaryDirectory(prefix="bitfusion-") as place:
        lines, started = Path(place, "sessions"), time.perf_counter()
        lines.touch()
        yield str(lines)
        sessions = [json.loads(line) for line in lines.read_text().splitlines()]
        report.write_text(json.dumps(_summary(sessions, time.perf_counter() - started), indent=2) + "\n")


def _summary(sessions: list[dict[str, float]], program_s: float) -> dict[str, object]:
    """The figures of all sessions together, and each for itself."""
    totals: dict[str, object] = {name: sum(session[name] for session in sessions) for name in SUMMED}
    return {**totals, "program_s": program_s, "sessions": sessions}


# options


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of GPUs")
    return int(text)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share of a GPU: above 0 and up to 1, for instance 0.5")
    return value


_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


def _memory(text: str) -> int:
    try:
        size = parse_size(f"{text} MiB" if _NUMBER.fullmatch(text) else text)
    except ConfigError:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} cannot be: write a number of MiB, or one with a unit such as 2GiB, up to {format_size(SIZE_MAX)}"
        ) from None
    if not size:
        raise argparse.ArgumentTypeError("a lease needs some memory")
    return size


def _server(text: str) -> str:
    try:
        return str(parse_target(text))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(error.message) from None
