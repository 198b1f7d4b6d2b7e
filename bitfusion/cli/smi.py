"""``bitfusion smi``: every GPU of the pool with its memory, load and sessions, as ``nvidia-smi`` shows a machine's."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from bitfusion.cli.asking import pool_of
from bitfusion.cli.console import console, show_json
from bitfusion.cli.exit_codes import ExitCode
from bitfusion.cli.options import add_json_option, add_server_options, servers


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``smi``."""
    parser = commands.add_parser(
        "smi",
        help="show the pool's GPUs, the sessions on them and the queue",
        description="Show the pool's GPUs, the sessions on them and the queue. `bitfusion top` does so again and again.",
    )
    add_server_options(parser)
    add_json_option(parser)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Print the tables. Raises the ConnectError branch."""
    pool = pool_of(servers(options))
    if options.json:
        show_json(asdict(pool))
        return ExitCode.OK
    from bitfusion.cli.tables import pool_tables

    target = console()
    target.print(pool_tables(pool, target.width))
    return ExitCode.OK
