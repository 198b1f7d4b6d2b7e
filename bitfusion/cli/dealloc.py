"""``bitfusion dealloc``: take leases back, whoever holds them."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from bitfusion.cli.asking import read_pool
from bitfusion.cli.console import say, show, show_json
from bitfusion.cli.exit_codes import ExitCode
from bitfusion.cli.options import add_json_option, add_server_options, duration, servers
from bitfusion.cli.words import counted, memory_text, time_text
from bitfusion.client.control import open_control
from bitfusion.errors import ConfigError, LeaseError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from bitfusion.cli.view import Lease, Pool

ID_SIZE_MIN = 4
"""Characters of an id that are enough where only one lease begins with them: tables show eight."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``dealloc``."""
    parser = commands.add_parser(
        "dealloc",
        help="take leases back",
        description="Take leases back: their programs' next calls fail, and their memory is free. Conditions must all hold.",
    )
    parser.add_argument("lease", nargs="*", metavar="LEASE", help="a lease's id, or how it begins, as smi shows it")
    parser.add_argument("--user", help="leases of this user")
    parser.add_argument(
        "--idle", type=duration, metavar="TIME", help="leases that have done nothing for this long: 600, 30m, 8h"
    )
    parser.add_argument("--all", action="store_true", help="every lease")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    add_server_options(parser)
    add_json_option(parser)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Show what will end, ask, end it. ConfigError without conditions or consent, LeaseError for a lease that is not there."""
    if not (options.lease or options.user or options.idle or options.all):
        raise ConfigError("dealloc needs to know which leases: an id, --user NAME, --idle TIME, or --all")
    if len(places := servers(options)) > 1:
        raise ConfigError("dealloc works on one server: give --server HOST:PORT")
    with open_control(places[0]) as control:
        pool = read_pool(places[0], control.list())
        chosen = choose(pool, options)
        if chosen and not options.yes:
            show(_table(chosen))
            _consent(len(chosen))
        ended = [lease_id for lease_id in chosen if control.dealloc(lease=lease_id)]
    if options.json:
        show_json({"ended": ended})
    else:
        say(f"took back {counted(len(ended), 'lease')}" if chosen else "there is no such lease: nothing to take back")
    return ExitCode.OK


def choose(pool: Pool, options: argparse.Namespace) -> dict[str, list[Lease]]:
    """The leases that are meant, by id, with their parts on each GPU. LeaseError for an id that is no lease's, or several leases'."""
    by_id: dict[str, list[Lease]] = {}
    for gpu in pool.gpus:
        for lease in gpu.leases:
            by_id.setdefault(lease.id, []).append(lease)
    named = {_whole_id(text, by_id) for text in options.lease}
    return {lease_id: parts for lease_id, parts in by_id.items() if _is_meant(lease_id, parts, named, options)}


def _is_meant(lease_id: str, parts: list[Lease], named: set[str], options: argparse.Namespace) -> bool:
    idle_s = min((part.idle_s or 0.0 for part in parts), default=0.0)
    return (
        (not named or lease_id in named)
        and (not options.user or parts[0].user == options.user)
        and (not options.idle or idle_s >= options.idle)
    )


def _whole_id(text: str, by_id: Mapping[str, list[Lease]]) -> str:
    found = [lease_id for lease_id in by_id if lease_id.startswith(text)] if len(text) >= ID_SIZE_MIN else []
    if len(found) == 1 or text in by_id:
        return text if text in by_id else found[0]
    if found:
        raise LeaseError(f"{len(found)} leases begin with {text!r}: write more of the id")
    raise LeaseError(
        f"there is no lease {text[:40]!r}; `bitfusion smi` shows those that there are, write at least {ID_SIZE_MIN} characters"
    )


def _consent(count: int) -> None:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigError("without a terminal nobody can be asked: give --yes")
    sys.stderr.write(f"bitfusion: take back {counted(count, 'lease')}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigError("nothing was taken back")


def _table(chosen: Mapping[str, list[Lease]]) -> Table:
    from bitfusion.cli.rows import table_of

    headings = ("Lease", "User", "Program", ">GPUs", ">Memory", ">Idle")
    return table_of(headings, (_row(lease_id, parts) for lease_id, parts in chosen.items()))


def _row(lease_id: str, parts: list[Lease]) -> tuple[str, ...]:
    memory = memory_text(sum(part.memory for part in parts))
    return (lease_id, parts[0].user, parts[0].program, str(len(parts)), memory, time_text(parts[0].idle_s))
