"""``bitfusion history``: who had GPUs, when, and how many GPU-hours it came to."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from bitfusion.cli.console import show, show_json
from bitfusion.cli.exit_codes import ExitCode
from bitfusion.cli.options import add_json_option, add_server_options, duration, servers, whole
from bitfusion.cli.words import counted, time_text
from bitfusion.client.control import open_control
from bitfusion.session.fields import printable

HOUR_S = 3600.0


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``history``."""
    parser = commands.add_parser(
        "history",
        help="list who used what, when, and its GPU-hours",
        description="List leases that have ended, the latest first, and the GPU-hours of all that are listed.",
    )
    parser.add_argument(
        "--since", type=since, metavar="WHEN", help="a time ago (90m, 8h, 7d), or a date: 2026-11-25, 2026-11-25T14:00"
    )
    parser.add_argument("--user", help="of this user")
    parser.add_argument("--group", help="of this group")
    parser.add_argument("--count", type=_count, default=50, metavar="N", help="at most so many (default: %(default)s)")
    add_server_options(parser)
    add_json_option(parser)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Print the list. Raises the ConnectError branch."""
    found: list[dict[str, Any]] = []
    for server in servers(options):
        with open_control(server) as control:
            asked = control.history(since=options.since, user=options.user, group=options.group, count=options.count)
            found += [{"server": server, **entry} for entry in asked]
    if options.json:
        show_json({"leases": found})
        return ExitCode.OK
    from rich.text import Text

    from bitfusion.cli.rows import table_of

    headings = ("Lease", "User", "Program", "From", ">For", ">GPUs", ">GPU-hours", "Ended")
    show(table_of(headings, map(_row, found)), Text(summary(found)))
    return ExitCode.OK


def summary(found: Sequence[Mapping[str, Any]]) -> str:
    """The sum of all, and who had most."""
    by_user: dict[str, float] = {}
    for entry in found:
        user = printable(str(entry.get("user", "")))
        by_user[user] = by_user.get(user, 0.0) + _number(entry, "gpu_seconds") / HOUR_S
    total = f"{counted(len(found), 'lease')}, {sum(by_user.values()):.2f} GPU-hours"
    most = sorted(by_user.items(), key=lambda item: -item[1])[:3]
    return total + (f" ({', '.join(f'{user} {hours:.2f}' for user, hours in most)})" if len(by_user) > 1 else "")


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    started, ended = _number(entry, "granted_at"), _number(entry, "ended_at")
    gpus = entry.get("gpus")
    return (
        printable(str(entry.get("id", "")))[:8],
        printable(str(entry.get("user", ""))),
        printable(str(entry.get("program", ""))),
        datetime.fromtimestamp(started).strftime("%m-%d %H:%M:%S"),
        time_text(ended - started),
        str(len(gpus)) if isinstance(gpus, list | tuple) else printable(str(gpus)),
        f"{_number(entry, 'gpu_seconds') / HOUR_S:.3f}",
        printable(str(entry.get("reason", ""))),
    )


def _number(entry: Mapping[str, Any], name: str) -> float:
    value = entry.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) and 0 <= value < 1e11 else 0.0


# values


def since(text: str) -> float:
    """Seconds since 1970, from a time ago or a date of this machine's time zone."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        pass
    try:
        return time.time() - duration(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is neither a time ago (90m, 8h, 7d) nor a date (2026-11-25, 2026-11-25T14:00)"
        ) from None


def _count(text: str) -> int:
    return whole(text, "a number of leases", 1, 100_000)
