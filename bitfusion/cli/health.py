"""``bitfusion health``: checks from here to the GPUs, each with what to do where it fails.

A check that fails ends those that need it: without a name no connection, without a connection no answer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bitfusion.cli.asking import read_pool
from bitfusion.cli.console import show_json, show_whole
from bitfusion.cli.exit_codes import ExitCode, exit_code
from bitfusion.cli.options import add_json_option, add_server_options, servers
from bitfusion.cli.words import counted, gpus_text, memory_text, time_text
from bitfusion.client.control import Control, open_control
from bitfusion.errors import BitfusionError
from bitfusion.session.fields import printable
from bitfusion.transport import address
from bitfusion.transport.address import parse_target
from bitfusion.version import __version__

if TYPE_CHECKING:
    from rich.text import Text

ECHO_COUNT = 20
ECHO_SLOW_S = 0.02
"""A round trip over a local network takes a fiftieth of that; at 20 ms a program that waits for each result stands still."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: ``text`` says what was found, ``advice`` what to do about it."""

    server: str
    name: str
    ok: bool
    text: str
    advice: str = ""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``health``."""
    parser = commands.add_parser(
        "health",
        help="check the way to the GPUs",
        description="Check name, network, versions, the appliance and its GPUs. The exit code is that of the first failure, else 0.",
    )
    add_server_options(parser)
    add_json_option(parser)
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Print the checks. The exit code of the first that failed: of an error its own, else 1."""
    found: list[Check] = []
    code: int = ExitCode.OK
    for server in servers(options):
        try:
            for check in checks(server):
                found.append(check)
                if not options.json:
                    show_whole(_line(check))
        except BitfusionError as error:
            code = code or exit_code(error)
            found.append(Check(server, error.name, False, str(error)))
            if not options.json:
                show_whole(_line(found[-1]))
    if options.json:
        show_json({"ok": all(check.ok for check in found), "checks": [asdict(check) for check in found]})
    return code or (ExitCode.OK if all(check.ok for check in found) else ExitCode.FAILED)


def checks(server: str) -> Iterator[Check]:
    """One after the other. Raises the ConnectError branch where it cannot go on."""
    target = parse_target(server)
    found = address.resolve(target)
    yield Check(server, "name", True, f"{target.host} is {found[0][1][0]}")
    started = time.perf_counter()
    with open_control(server) as control:
        opened_s = time.perf_counter() - started
        welcome = control.welcome
        yield Check(server, "connection", True, f"{welcome.hostname} answered in {opened_s * 1e3:.1f} ms")
        yield _version(server, welcome.software)
        yield _round_trip(server, control)
        yield from _daemon(server, control.health())
        yield _gpus(server, control)


def _version(server: str, software: str) -> Check:
    if software == __version__:
        return Check(server, "version", True, f"{software} on both sides")
    advice = "install the same release on both if something does not work"
    return Check(server, "version", True, f"{software} there, {__version__} here: they understand each other", advice)


def _round_trip(server: str, control: Control) -> Check:
    taken = []
    for _ in range(ECHO_COUNT):
        started = time.perf_counter()
        control.echo(b"health")
        taken.append(time.perf_counter() - started)
    median_s = sorted(taken)[ECHO_COUNT // 2]
    slow = median_s > ECHO_SLOW_S
    advice = "far away or overloaded: `bitfusion netperf` says what that means for a workload" if slow else ""
    return Check(server, "round trip", not slow, f"{median_s * 1e3:.2f} ms to the daemon and back", advice)


def _daemon(server: str, answer: Mapping[str, Any]) -> Iterator[Check]:
    """What the daemon says of itself, and found."""
    uptime, sessions = answer.get("uptime_s"), answer.get("sessions")
    if isinstance(uptime, int | float) and isinstance(sessions, int):
        yield Check(server, "daemon", True, f"up for {time_text(uptime)}, {counted(sessions, 'session')}")
    for entry in answer.get("checks", ()):
        if isinstance(entry, Mapping):
            name, text, advice = (printable(str(entry.get(key) or "")) for key in ("name", "text", "advice"))
            yield Check(server, name, entry.get("ok") is True, text, advice)


def _gpus(server: str, control: Control) -> Check:
    pool = read_pool(server, control.list())
    if not pool.gpus:
        return Check(server, "GPUs", False, "the appliance offers none", "look at its --devices and its log")
    free = max(gpu.memory_size - gpu.leased_size for gpu in pool.gpus)
    counts = f"{gpus_text(len(pool.gpus))}, {counted(pool.lease_count, 'lease')}, {len(pool.waiters)} waiting"
    return Check(server, "GPUs", True, f"{counts}, up to {memory_text(free)} free on one")


def _line(check: Check) -> Text:
    from rich.text import Text

    line = Text("ok      ", "green") if check.ok else Text("failed  ", "bold red")
    line.append(f"{check.name}: ", "bold").append(check.text)
    if check.advice:
        line.append(f"\n        {check.advice}", "yellow")
    return line
