"""``bitfusion top``: what ``smi`` shows, live on a terminal.

Keys: ``q`` ends it, ``s`` sorts the leases another way, the space bar asks at once.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bitfusion.cli.asking import Watch
from bitfusion.cli.console import console
from bitfusion.cli.exit_codes import ExitCode
from bitfusion.cli.options import add_server_options, duration, servers
from bitfusion.errors import BitfusionError, ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bitfusion.cli.view import Pool

KEYS_SIZE = 64
"""Bytes read at once: keys pressed since the last look, or a whole escape sequence, which is none of ours."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``top``."""
    parser = commands.add_parser(
        "top",
        help="show the pool live",
        description="Show the pool live. Keys: q ends, s sorts by GPU, memory, idle time or user, space asks at once.",
    )
    add_server_options(parser)
    parser.add_argument(
        "--interval", type=duration, default=1.0, metavar="TIME", help="between two looks (default: 1 second)"
    )
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Until ``q``. ConfigError without a terminal; raises the ConnectError branch where nothing answers at the start."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError("top needs a terminal; `bitfusion smi` shows the same once")
    from rich.live import Live
    from rich.text import Text

    from bitfusion.cli.tables import SORTS, pool_tables

    def drawn(pool: Pool, sort: str, failure: str) -> RenderableType:
        from rich.console import Group

        foot = Text(f"q quit   s sort: {sort}   {time.strftime('%H:%M:%S')}", "dim", no_wrap=True)
        parts: list[RenderableType] = [pool_tables(pool, target.width, sort), foot]
        if failure:
            parts.insert(0, Text(failure, "red"))
        return Group(*parts)

    target = console()
    sort, failure = SORTS[0], ""
    with Watch(servers(options)) as watch, _keys_at_once():
        pool = watch.look()
        with Live(console=target, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                live.update(drawn(pool, sort, failure), refresh=True)
                keys = _pressed(options.interval)
                if "q" in keys or "Q" in keys:
                    return ExitCode.OK
                if "s" in keys:
                    sort = SORTS[(SORTS.index(sort) + 1) % len(SORTS)]
                try:
                    pool, failure = watch.look(), ""
                except BitfusionError as error:
                    failure = str(error)


@contextmanager
def _keys_at_once() -> Iterator[None]:
    """Keys come when they are pressed and are not shown, for the block."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _pressed(timeout_s: float) -> str:
    """The keys pressed, at the latest after ``timeout_s``. An ended input is ``q``."""
    if not select.select([sys.stdin], [], [], timeout_s)[0]:
        return ""
    return os.read(sys.stdin.fileno(), KEYS_SIZE).decode(errors="replace") or "q"
