"""``bitfusion list_gpus``: the GPUs of the pool and what is leased of each."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bitfusion.cli.asking import pool_of
from bitfusion.cli.console import show, show_json
from bitfusion.cli.exit_codes import ExitCode
from bitfusion.cli.options import add_json_option, add_server_options, servers
from bitfusion.cli.words import memory_text

if TYPE_CHECKING:
    from rich.table import Table

    from bitfusion.cli.view import Gpu, Pool


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``list_gpus``."""
    parser = commands.add_parser(
        "list_gpus",
        help="list the pool's GPUs and what is leased of each",
        description="List the pool's GPUs and what is leased of each.",
    )
    add_server_options(parser)
    add_json_option(parser)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Print the list. Raises the ConnectError branch."""
    pool = pool_of(servers(options))
    if options.json:
        show_json({"gpus": [_plain(gpu) for gpu in pool.gpus]})
    else:
        show(_table(pool))
    return ExitCode.OK


def _plain(gpu: Gpu) -> dict[str, object]:
    """One GPU for other programs; sizes in bytes."""
    return {
        "server": gpu.server,
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "memory_size": gpu.memory_size,
        "leased_size": gpu.leased_size,
        "leases": [{"id": lease.id, "user": lease.user, "memory_size": lease.memory} for lease in gpu.leases],
    }


def _table(pool: Pool) -> Table:
    from bitfusion.cli.rows import table_of

    headings = ("Server", ">GPU", "Name", "UUID", ">Memory", ">Free", ">Leases")
    return table_of(headings, map(_row, pool.gpus))


def _row(gpu: Gpu) -> tuple[str, ...]:
    free = memory_text(max(gpu.memory_size - gpu.leased_size, 0))
    return (gpu.server, str(gpu.index), gpu.name, gpu.uuid, memory_text(gpu.memory_size), free, str(len(gpu.leases)))
