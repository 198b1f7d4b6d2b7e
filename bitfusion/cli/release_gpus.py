"""``bitfusion release_gpus``: give back a lease of ``request_gpus``, and remove its file."""

from __future__ import annotations

import argparse
from pathlib import Path

from bitfusion.cli import lease_file
from bitfusion.cli.exit_codes import ExitCode
from bitfusion.cli.options import add_voice_options
from bitfusion.cli.voice import Voice
from bitfusion.client.control import open_control
from bitfusion.errors import LeaseError


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``release_gpus``."""
    parser = commands.add_parser(
        "release_gpus",
        help="give back a lease of request_gpus",
        description="Give back a lease of `bitfusion request_gpus`; what still runs on it ends.",
    )
    parser.add_argument(
        "-f",
        "--file",
        type=Path,
        metavar="FILE",
        help="the lease file (default: the newest of yours in the temporary directory)",
    )
    add_voice_options(parser)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Release it. 0 as well where it had ended by itself. The file stays where the server does not answer (ConnectError branch)."""
    path, saved = (options.file, lease_file.read(options.file)) if options.file else lease_file.newest()
    voice = Voice(options.quiet, options.verbose)
    with open_control(saved.server) as control:
        try:
            control.release(saved.id, saved.key)
        except LeaseError:
            voice.say(f"the lease {saved.id} on {saved.server} had ended already; removed {path}")
        else:
            voice.say(f"released lease {saved.id} on {saved.server}; removed {path}")
    path.unlink(missing_ok=True)
    return ExitCode.OK
