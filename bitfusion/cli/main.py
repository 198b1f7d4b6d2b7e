"""``bitfusion VERB ...``: finds the verb, runs it, turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from bitfusion.cli.exit_codes import ExitCode, exit_code
from bitfusion.errors import BitfusionError
from bitfusion.version import __version__

VERBS = ("serve", "run", "bench")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the verb that is asked for. SystemExit, as argparse does it, for help and for what cannot be."""
    asked = [verb for verb in VERBS if verb in arguments[:1]]  # a client has not the packages of every verb
    top = argparse.ArgumentParser(prog="bitfusion", description="Lease GPUs over the network.")
    top.add_argument("--version", action="version", version=f"bitfusion {__version__}")
    commands = top.add_subparsers(metavar="VERB", required=True)
    for verb in asked or VERBS:
        _module(verb).add_parser(commands)
    options, unknown = top.parse_known_args(arguments)
    if unknown:  # the verb says so, with its own usage
        (commands.choices[asked[0]] if asked else top).error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def _module(verb: str) -> ModuleType:
    """The verb's module. Libraries start threads when they are imported (OpenBLAS); these must never take our signals."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        return import_module(f"bitfusion.cli.{verb}")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code."""
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        return int(options.main(options))
    except BitfusionError as error:
        print(f"bitfusion: {error}", file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
