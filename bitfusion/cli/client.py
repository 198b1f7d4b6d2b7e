"""``bitfusion client``: run a command within a lease that ``request_gpus`` keeps in a file. The lease stays when the command ends."""

from __future__ import annotations

import argparse
from pathlib import Path

from bitfusion.cli import lease_file
from bitfusion.cli.leasing import environment, still_there
from bitfusion.cli.options import add_voice_options
from bitfusion.cli.voice import Voice
from bitfusion.cli.within import command_of, run_program


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``client``."""
    parser = commands.add_parser(
        "client",
        help="run a command within a lease of request_gpus",
        description="Run a command within a lease that `bitfusion request_gpus` keeps in a file.",
        usage="bitfusion client [-f FILE] [options] -- PROGRAM [ARGUMENT ...]",
    )
    parser.add_argument(
        "-f",
        "--file",
        type=Path,
        metavar="FILE",
        help="the lease file (default: the newest of yours in the temporary directory)",
    )
    add_voice_options(parser)
    parser.add_argument("program", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Run the command; its exit code. LeaseError for a lease that has ended, LeaseFileError; raises the ConnectError branch."""
    command = command_of(options.program, "client")
    path, saved = (options.file, lease_file.read(options.file)) if options.file else lease_file.newest()
    voice = Voice(options.quiet, options.verbose)
    voice.detail(f"lease {saved.id} of {path}")
    voice.running(command, still_there(path, saved))
    return run_program(command, {**environment(saved.server, saved.id, saved.key), "BITFUSION_IN_PROCESS": ""})
