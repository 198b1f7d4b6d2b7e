"""``bitfusion netperf``: round trips and bandwidth to an appliance, and what they mean for a workload.

The floor beside each figure is what the network itself does: for a round trip TCP's own handshake, which both kernels answer without
a program, and on loopback also a plain socket between two processes of this machine (cli/bench/floors.py).
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from bitfusion.cli.console import say, show, show_json
from bitfusion.cli.exit_codes import ExitCode
from bitfusion.cli.options import add_json_option, add_server_options, memory, servers
from bitfusion.transport import address
from bitfusion.transport.address import parse_target
from bitfusion.types import format_size

if TYPE_CHECKING:
    from bitfusion.client.client import Client

MIB = 1 << 20
GIB = 1 << 30

COPY_SIZE = 64 * MIB
"""Bytes of one copy: large enough that its round trip counts for nothing on any network in use."""

COPY_SIZE_MAX = 4 * GIB
"""Two of that size are in this machine's memory."""

LEASE_SPARE_SIZE = 64 * MIB
"""Asked for beyond the copy's own memory: what a context may be charged with."""

DATA_SIZE = 64
TIME_S = 2.0
"""For each figure; a slow network gives fewer samples, not a longer wait."""

CALL_COUNT_MAX = 5000
COPY_COUNT_MIN = 3
HANDSHAKE_COUNT = 15
POSTED_COUNT = 20_000
PATIENT_S = 10.0
"""For one handshake."""

LATENCY_GOOD_US = 50.0
BANDWIDTH_GOOD_GBPS = 10 / 8
"""Bitfusion's advice to its users: at most 50 us and at least 10 Gb/s."""

STEP_S = 0.008
"""A step to compare with: ResNet50's inference of one image, 8.17 ms on a V100 (VMware's figures for Bitfusion)."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``netperf``."""
    parser = commands.add_parser(
        "netperf",
        help="measure latency and bandwidth to an appliance, and say what they mean",
        description="Measure latency and bandwidth to an appliance on a small lease of its own, and say what they mean for a workload.",
    )
    add_server_options(parser)
    add_json_option(parser)
    parser.add_argument(
        "--size",
        type=_copy_size,
        default=COPY_SIZE,
        metavar="SIZE",
        help="of one copy: MiB, or with a unit (default: 64)",
    )
    parser.set_defaults(main=main)


@dataclass(frozen=True, slots=True)
class Figures:
    """Microseconds, GB/s (10^9 bytes a second) and operations a second; medians but for ``p99``. None: cannot be measured here."""

    server: str
    device: str
    call_us_p50: float
    call_us_p99: float
    handshake_us: float
    floor_call_us: float | None
    h2d_gbps: float
    d2h_gbps: float
    floor_h2d_gbps: float | None
    floor_d2h_gbps: float | None
    posted_per_s: float
    copy_size: int


def main(options: argparse.Namespace) -> int:
    """Measure each server in turn. Raises the ConnectError branch; CapacityError where no GPU has room for the small lease."""
    found = []
    for server in servers(options):
        if not options.json:
            say(f"measuring {server}, some {5 * TIME_S:.0f} seconds at most")
        found.append(measure(server, options.size))
        if not options.json:
            _show(found[-1])
    if options.json:
        show_json([{**asdict(figures), **meaning(figures)} for figures in found])
    return ExitCode.OK


def _copy_size(text: str) -> int:
    size = memory(text)
    if size > COPY_SIZE_MAX:
        raise argparse.ArgumentTypeError(f"a copy is at most {format_size(COPY_SIZE_MAX)} here")
    return size


# measuring


def measure(server: str, size: int) -> Figures:
    """All figures of one server, on a small lease of its own; within `bitfusion run`, on that lease."""
    from bitfusion.client.client import connect

    handshake_s = sorted(_handshakes(server))
    mine = bool(os.environ.get("BITFUSION_LEASE")) and server == os.environ.get("BITFUSION_SERVER")
    wanted = {} if mine else {"memory": size + LEASE_SPARE_SIZE, "wait": 0}
    with connect(None if mine else server, **wanted) as client:  # type: ignore[arg-type]  # of their types
        data = bytes(DATA_SIZE)
        call_s = sorted(_sample(lambda: client.echo(data), CALL_COUNT_MAX))
        h2d, d2h = _copies(client, size)
        posted = _posted(client)
        device = client.device.name
    floor_call_us, floor_h2d, floor_d2h = _floors(size) if _is_loopback(server) else (None, None, None)
    return Figures(
        server=server,
        device=device,
        call_us_p50=_quantile(call_s, 0.5) * 1e6,
        call_us_p99=_quantile(call_s, 0.99) * 1e6,
        handshake_us=_quantile(handshake_s, 0.5) * 1e6,
        floor_call_us=floor_call_us,
        h2d_gbps=h2d,
        d2h_gbps=d2h,
        floor_h2d_gbps=floor_h2d,
        floor_d2h_gbps=floor_d2h,
        posted_per_s=posted,
        copy_size=size,
    )


def _quantile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


def _handshakes(server: str) -> Iterator[float]:
    """Seconds of each TCP handshake: one round trip between the kernels. Raises ResolveError, UnreachableError."""
    target = parse_target(server)
    family, place = address.resolve(target)[0]
    for _ in range(HANDSHAKE_COUNT):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(PATIENT_S)
            started = time.perf_counter()
            try:
                probe.connect(place)
            except OSError as error:
                raise address.unreachable(target, error) from None
            yield time.perf_counter() - started


def _sample(task: Callable[[], object], count_max: int, count_min: int = 20) -> list[float]:
    """Seconds of each run of ``task``, for TIME_S or ``count_max`` times, the first of all not counted."""
    now = time.perf_counter
    task()
    taken: list[float] = []
    end = now() + TIME_S
    while len(taken) < count_max and (len(taken) < count_min or now() < end):
        started = now()
        task()
        taken.append(now() - started)
    return taken


def _copies(client: Client, size: int) -> tuple[float, float]:
    """GB/s to the device and back."""
    import numpy as np

    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    array = client.to_device(source)

    def h2d() -> None:
        array.copy_to_device(source)
        client.synchronize()

    return _rate(size, h2d), _rate(size, lambda: array.copy_to_host(target))


def _rate(size: int, task: Callable[[], object]) -> float:
    taken = sorted(_sample(task, 1000, COPY_COUNT_MIN))
    return size / taken[len(taken) // 2] / 1e9


def _posted(client: Client) -> float:
    """Operations a second that need no answer: records of an event."""
    event = client.event()
    client.synchronize()
    started = time.perf_counter()
    for _ in range(POSTED_COUNT):
        event.record()
    client.synchronize()
    return POSTED_COUNT / (time.perf_counter() - started)


def _is_loopback(server: str) -> bool:
    _, (host, _) = address.resolve(parse_target(server))[0]
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def _floors(size: int) -> tuple[float, float, float]:
    """What plain sockets do between two processes of this machine: microseconds of an echo, GB/s there and back."""
    from bitfusion.cli.bench.floors import Floor

    with Floor() as floor:
        with floor.exchange(DATA_SIZE + 64, DATA_SIZE + 64) as echo:  # a call's frame around the data
            taken = sorted(_sample(echo, CALL_COUNT_MAX))
        with floor.exchange(size, 1) as there:
            h2d = _rate(size, there)
        with floor.exchange(1, size) as back:
            return taken[len(taken) // 2] * 1e6, h2d, _rate(size, back)


# saying


def meaning(figures: Figures) -> dict[str, float]:
    """What the figures come to for a program."""
    wait_s = figures.call_us_p50 / 1e6
    return {
        "results_per_s_max": 1 / wait_s,
        "upload_1gib_s": GIB / figures.h2d_gbps / 1e9,
        "download_1gib_s": GIB / figures.d2h_gbps / 1e9,
        "step_8ms_overhead": wait_s / STEP_S,
    }


def verdicts(figures: Figures) -> list[str]:
    """The same in words, with what to do about it."""
    means = meaning(figures)
    results, posted = f"{means['results_per_s_max']:,.0f}", f"{figures.posted_per_s:,.0f}"
    there, back = f"{means['upload_1gib_s']:.2f} s", f"{means['download_1gib_s']:.2f} s"
    longer = f"{100 * means['step_8ms_overhead']:.1f} %"
    lines = [
        f"at most {results} launches a second whose result is waited for, and {posted} operations that nobody waits for",
        f"1 GiB takes {there} to the GPU and {back} back",
        f"a step of {STEP_S * 1e3:.0f} ms that waits for one result takes {longer} longer than on a local GPU",
    ]
    if min(figures.handshake_us, figures.call_us_p50) > LATENCY_GOOD_US:  # a handshake also makes a connection
        over = f"the network's round trip is over {LATENCY_GOOD_US:.0f} us"
        lines.append(f"{over}: fetch results seldom, launch in batches, or move closer")
    if min(figures.h2d_gbps, figures.d2h_gbps) < BANDWIDTH_GOOD_GBPS:
        below = f"copies are below 10 Gb/s ({BANDWIDTH_GOOD_GBPS} GB/s)"
        lines.append(f"{below}: keep data on the GPU, or look at link speed, MTU (9000) and what else uses the network")
    return lines


def _show(figures: Figures) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.ROUNDED, header_style="bold", border_style="dim", title_justify="left", title_style="")
    table.title = Text(f"{figures.server}  {figures.device}")
    for name in ("", "median", "p99", "plain network"):
        table.add_column(name, justify="right" if name else "left")
    floor = figures.floor_call_us
    plain = f"{figures.handshake_us:.0f} us handshake" + ("" if floor is None else f", {floor:.0f} us echo")
    table.add_row("a call and its answer", f"{figures.call_us_p50:.0f} us", f"{figures.call_us_p99:.0f} us", plain)
    size = format_size(figures.copy_size)
    table.add_row(f"{size} to the GPU", _speed(figures.h2d_gbps), "", _speed(figures.floor_h2d_gbps))
    table.add_row(f"{size} from the GPU", _speed(figures.d2h_gbps), "", _speed(figures.floor_d2h_gbps))
    show(table, *(Text(f"- {line}") for line in verdicts(figures)))


def _speed(gbps: float | None) -> str:
    return "" if gbps is None else f"{gbps:.2f} GB/s"
