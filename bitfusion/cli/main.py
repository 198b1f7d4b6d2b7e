"""``bitfusion VERB ...``: finds the verb, runs it, turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from bitfusion.cli.exit_codes import ExitCode, exit_code
from bitfusion.errors import BitfusionError
from bitfusion.version import __version__

VERBS = (
    "run",
    "client",
    "request_gpus",
    "release_gpus",
    "list_gpus",
    "smi",
    "top",
    "health",
    "netperf",
    "dealloc",
    "quota",
    "history",
    "serve",
    "bench",
    "completion",
    "version",
)


class Parser(argparse.ArgumentParser):
    """Says which option or verb a mistyped one was near to."""

    def error(self, message: str) -> NoReturn:
        """Usage, message and exit code 2, as argparse does it."""
        super().error(message + _near(self, message))


def _near(parser: argparse.ArgumentParser, message: str) -> str:
    from difflib import get_close_matches

    known = list(parser._option_string_actions)
    if "unrecognized arguments: " in message:
        words = [word.split("=")[0] for word in message.partition(": ")[2].split() if word.startswith("-")]
    else:
        known, words = list(VERBS), message.partition("invalid choice: '")[2].split("'")[:1]
    near = [match for word in words for match in get_close_matches(word, known, 1)]
    return f" (did you mean {', '.join(near)}?)" if near else ""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of the verb that is asked for. SystemExit, as argparse does it, for help and for what cannot be."""
    asked = [
        verb for verb in VERBS if [verb] == [*map(_verb, arguments[:1])]
    ]  # a client has not the packages of every verb
    top, verbs = parser_of(asked or VERBS)
    options, unknown = top.parse_known_args([*asked, *arguments[1:]] if asked else arguments)
    if unknown:  # the verb says so, with its own usage
        (verbs[asked[0]] if asked else top).error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


def _verb(word: str) -> str:
    """``request-gpus`` is ``request_gpus``."""
    return word.replace("-", "_")


def parser_of(verbs: Sequence[str]) -> tuple[Parser, Mapping[str, argparse.ArgumentParser]]:
    """The parser of these verbs, and each verb's own."""
    top = Parser(prog="bitfusion", description="Lease GPUs over the network.")
    top.add_argument("--version", action="version", version=f"bitfusion {__version__}")
    commands = top.add_subparsers(metavar="VERB", required=True)
    for verb in verbs:
        _module(verb).add_parser(commands)
    return top, commands.choices


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
    except BrokenPipeError:  # the reader has seen enough (`bitfusion smi | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still in the buffer
        return ExitCode.UNREAD
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
