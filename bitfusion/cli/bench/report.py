"""The figures as a table: rich's on a terminal, plain columns otherwise."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Figures = Mapping[str, Any]  # what json.dumps takes

HEADINGS = ("", "median", "p99", "floor", "ratio")

WIDE_COUNT = 80
"""Columns of a terminal that has room for a space on both sides of every cell."""


class Row(NamedTuple):
    """One figure with its unit; the ratio is ours by the floor's."""

    name: str
    median: str
    p99: str = ""
    floor: str = ""
    ratio: str = ""


def show(figures: Figures) -> None:
    """Print the table and what it was measured on."""
    if sys.stdout.isatty():
        _show_rich(figures)
    else:
        table = list(rows(figures))
        widths = [max(map(len, column)) for column in zip(HEADINGS, *table, strict=True)]
        for row in (HEADINGS, *table):
            cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            print("  ".join((row[0].ljust(widths[0]), *cells)).rstrip())
    print(_wrapped(_machine(figures["machine"])))


def rows(figures: Figures) -> Iterator[Row]:
    """A row for every figure there is."""
    for part in groups(figures):
        yield from part


def groups(figures: Figures) -> Iterator[list[Row]]:
    """The rows of each part there is."""
    if latency := figures.get("latency"):
        trips = (latency, *latency["other_placements"])
        yield [
            _timed(f"call round trip, {trip['placement']}", trip["call_us"], trip["floor_us"], "us") for trip in trips
        ]
    if copies := figures.get("bandwidth"):
        for way in ("h2d", "d2h"):
            yield [_copied(way, copy) for copy in copies]
    if launch := figures.get("launch"):
        yield [row for device in filter(None, (launch, launch["chosen"])) for row in _launches(device)]
    if session := figures.get("session"):
        yield list(_sessions(session))
    if train := figures.get("train"):
        yield [
            Row(
                "training step",
                f"{train['remote_ms']:.2f} ms",
                f"{train['remote_p99_ms']:.2f} ms",
                f"{train['local_ms']:.2f} ms",
                f"{train['ratio']:.3f}",
            )
        ]


def size_text(size: int) -> str:
    """A size that is a power of two, with its unit."""
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"


def _timed(name: str, ours: Figures, floor: Figures, unit: str) -> Row:
    ratio = f"{ours['p50'] / floor['p50']:.2f}"
    return Row(name, f"{ours['p50']:.1f} {unit}", f"{ours['p99']:.1f} {unit}", f"{floor['p50']:.1f} {unit}", ratio)


def _copied(way: str, copy: Figures) -> Row:
    return Row(
        f"{way.upper()} {size_text(copy['size'])}",
        _rate(copy[f"{way}_gbps"]),
        _rate(copy[f"{way}_p99_gbps"]),
        _rate(copy[f"floor_{way}_gbps"]),
        f"{copy[f'{way}_ratio']:.2f}",
    )


def _rate(gbps: float) -> str:
    """Small copies are slow, and would read 0.00 GB/s."""
    return f"{gbps:.2f} GB/s" if gbps >= 0.1 else f"{gbps * 1e3:.3g} MB/s"


def _sessions(session: Figures) -> Iterator[Row]:
    yield Row("session start, cold", f"{session['cold_ms']:.1f} ms")
    yield Row("session start, warm", f"{session['warm_ms']:.1f} ms", f"{session['warm_p99_ms']:.1f} ms")
    yield _timed("session, opened and closed", session["connect_ms"], session["floor_connect_ms"], "ms")
    if session["idle_private_mib"] is not None:
        yield Row("idle session, private memory", f"{session['idle_private_mib']:.1f} MiB")


def _launches(launch: Figures) -> Iterator[Row]:
    device = launch["device"]
    rate, floor = launch["posted_per_s"], launch["floor_posted_per_s"]
    yield Row(f"launches posted, {device}", f"{rate:,.0f}/s", "", f"{floor:,.0f}/s", f"{launch['posted_ratio']:.2f}")
    yield _timed(f"launch and wait, {device}", launch["call_us"], launch["floor_us"], "us")


def _machine(machine: Figures) -> str:
    memory = machine["memory_size"] / 2**30
    return (
        f"{machine['device']} at {machine['server']}; {machine['cores']} cores of {machine['cpu']}, {memory:.0f} GiB\n"
        f"{machine['kernel']}, Python {machine['python']}, {machine['date']}\n"
        "floors: plain sockets of this machine, for training the same kernels in process\n"
        "ratio: ours by the floor's; of times less is better, of rates (per second) more; 1 is the floor"
    )


def _wrapped(text: str) -> str:
    """Lines that a terminal would break wherever its edge is, broken between words."""
    if not sys.stdout.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    )


def _show_rich(figures: Figures) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    padding = (0, 1 if console.width >= WIDE_COUNT else 0)
    table = Table(box=box.ROUNDED, header_style="bold", border_style="dim", padding=padding)
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number else "left", no_wrap=number > 0)
    for part in groups(figures):
        for row in part:
            table.add_row(*row)
        table.add_section()
    console.print(table)
