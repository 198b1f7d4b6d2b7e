"""``bitfusion completion SHELL``: the script that makes a shell complete verbs, options and their values.

The script is made from the parsers themselves, and asks nothing when a key is pressed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bitfusion.cli.exit_codes import ExitCode

SHELLS = ("bash", "zsh", "fish")

PLACES = {
    "bash": "~/.local/share/bash-completion/completions/bitfusion",
    "zsh": "a directory of $fpath, as _bitfusion",
    "fish": "~/.config/fish/completions/bitfusion.fish",
}
"""Where each shell looks for it."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``completion``."""
    places = "; ".join(f"{shell}: {place}" for shell, place in PLACES.items())
    parser = commands.add_parser(
        "completion",
        help="print the script that makes a shell complete bitfusion's options",
        description=f"Print a completion script. Where it goes: {places}.",
    )
    parser.add_argument("shell", choices=SHELLS)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from bitfusion.cli.main import VERBS, parser_of

    parser, verbs = parser_of(VERBS)
    for action in (action for verb in verbs.values() for action in verb._actions if action.type is Path):
        action.complete = shtab.DIRECTORY if "dir" in action.dest else shtab.FILE  # type: ignore[attr-defined]  # shtab's way
    sys.stdout.write(shtab.complete(parser, options.shell))
    return ExitCode.OK
