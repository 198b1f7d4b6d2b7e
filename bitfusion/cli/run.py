"""``bitfusion run``: run a program with leased GPUs. Leases them, gets out of the program's way, and gives them back.

Owns the options and the program's environment; the process itself is ``cli/program.py``'s. Every process of the program that uses
``numba.cuda`` opens a session of its own on the lease (docs/guide/run.md).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitfusion.cli.options import add_request_options, add_server_options, add_voice_options, servers
from bitfusion.cli.report import check_writable, gathered
from bitfusion.cli.voice import Voice
from bitfusion.cli.within import command_of, name_of, run_program
from bitfusion.errors import ConfigError

OF_A_POOL = ("exclusive", "filter", "weight", "cap", "lifetime", "timeout", "no_wait", "priority")
"""Options that mean nothing where there is only this process."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``run``."""
    parser = commands.add_parser(
        "run",
        help="run a program with leased GPUs",
        description="Run a program; numba.cuda in it uses leased GPUs, whether or not Numba or CUDA are installed here.",
        usage="bitfusion run [-n N] [-p FRACTION | -m SIZE] [--server HOST:PORT] [options] -- PROGRAM [ARGUMENT ...]",
    )
    add_request_options(parser)
    add_server_options(parser, default="a private one")
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
    add_voice_options(parser)
    parser.add_argument("program", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Run the program; its exit code."""
    command = command_of(options.program, "run -n 1 -p 0.5")
    _check(options, command)
    with gathered(options.report) as lines:
        if options.in_process:
            return run_program(command, {**_asked(options), **_in_process(options), "BITFUSION_REPORT": lines})
        with _appliance(options) as places:
            return _run_leased(options, command, places, lines)


def _run_leased(options: argparse.Namespace, command: list[str], places: list[str], lines: str) -> int:
    from bitfusion.cli.holding import Holding
    from bitfusion.cli.leasing import environment, lease_from, wanted
    from bitfusion.client.settings import from_environment

    with _environment_set(_asked(options)):
        settings = from_environment()
    voice = Voice(options.quiet, options.verbose)
    asked = wanted(options, settings.gpus, settings.memory, settings.fraction)
    server, control, lease = lease_from(places, asked, voice, held=True, program=name_of(command))
    told = {**environment(server, lease.id, lease.key), "BITFUSION_IN_PROCESS": "", "BITFUSION_REPORT": lines}
    with Holding(server, control, lease, voice) as holding:
        voice.running(command, lease)
        return run_program(command, told, holding.watched)


def _check(options: argparse.Namespace, command: list[str]) -> None:
    """ConfigError for options that cannot work together."""
    if options.in_process and (options.server or options.server_list):
        raise ConfigError("--in-process uses no server; leave out one of the two")
    if options.state_dir and not options.in_process and _server_named(options):
        raise ConfigError("--state-dir is for a private appliance; a server has its own")
    if options.report:
        check_writable(options.report)
    if options.in_process:
        _check_in_process(options, command)
    else:
        from bitfusion.cli.leasing import conditions

        conditions(options.filter)  # before a private appliance is started for nothing


def _check_in_process(options: argparse.Namespace, command: list[str]) -> None:
    from bitfusion.client.settings import from_environment
    from bitfusion.device.discovery import check_compilers

    if _is_of_our_python(command[0]):
        check_compilers()
    settings = from_environment()
    if (options.num_gpus or settings.gpus) > 1:
        raise ConfigError("--in-process has one device: ask for 1 GPU (-n, BITFUSION_GPUS)")
    for name in OF_A_POOL:
        if getattr(options, name):
            raise ConfigError(f"--in-process has no pool: leave out --{name.replace('_', '-')}")


def _server_named(options: argparse.Namespace) -> bool:
    return bool(options.server or options.server_list or os.environ.get("BITFUSION_SERVER"))


def _is_of_our_python(command: str) -> bool:
    """Whether it runs with the packages that we have; of another Python nothing is known before it runs."""
    found = shutil.which(command)
    return found is not None and Path(found).absolute().parent == Path(sys.executable).absolute().parent


def _asked(options: argparse.Namespace) -> dict[str, str]:
    """What is asked for, as the environment says it: an option takes the place of what is there; '' stands for nothing."""
    asked: dict[str, str] = {}
    if options.num_gpus:
        asked["BITFUSION_GPUS"] = str(options.num_gpus)
    if options.partial or options.memory:
        asked["BITFUSION_FRACTION"] = str(options.partial or "")
        asked["BITFUSION_MEMORY"] = str(options.memory or "")
    return asked


def _in_process(options: argparse.Namespace) -> dict[str, str]:
    return {"BITFUSION_IN_PROCESS": "1", "BITFUSION_STATE_DIR": str(options.state_dir or "")}


@contextmanager
def _appliance(options: argparse.Namespace) -> Iterator[list[str]]:
    """The servers to ask; a private appliance lives as long as the block."""
    if _server_named(options):
        yield servers(options)
        return
    from bitfusion.client.embedded import Appliance

    appliance = Appliance(state_dir=options.state_dir)
    try:
        yield [str(appliance.target)]
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
