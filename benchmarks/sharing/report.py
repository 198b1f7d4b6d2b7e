"""The figures of ``benchmarks/pool.py`` as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Figures = Mapping[str, Any]  # what json.dumps takes


def show(figures: Figures) -> None:
    """Print a table; in colour on a terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table("what", "figure", "beside", box=None, pad_edge=False)
    for name, row in figures.items():
        for what, figure, beside in ROWS.get(name, lambda _: ())(row):
            table.add_row(what, figure, beside)
    Console().print(table)


def _queue(row: Figures) -> list[tuple[str, str, str]]:
    waits = sorted(row["wait_ms"])
    ten = [waits[min(len(waits) * part // 10, len(waits) - 1)] for part in (1, 5, 9)]
    return [
        (
            f"{row['clients']} clients at once, 1/64 of a GPU each: all served",
            f"{row['total_s'] * 1e3:.0f} ms",
            f"{row['floor_s'] * 1e3:.0f} ms (they hold it that long)",
        ),
        ("  waiting, 10th, 50th, 90th per cent", ", ".join(f"{wait:.0f}" for wait in ten) + " ms", ""),
        ("  served in the order of asking", "yes" if row["in_order"] else "NO", ""),
        ("  most ever leased", f"{row['leased_max'] / row['memory_size']:.0%} of the GPU", ""),
    ]


def _listing(row: Figures) -> list[tuple[str, str, str]]:
    return [
        (f"the daemon's listing with {row['sessions']} sessions", _ms(row["answer_ms"]), f"echo {_ms(row['echo_ms'])}"),
        ("  the command `bitfusion smi --json`", _ms(row["smi_ms"]), f"a bare Python {_ms(row['python_ms'])}"),
    ]


def _start(row: Figures) -> list[tuple[str, str, str]]:
    beside = f"directly {_ms(row['direct_ms'])}, a bare Python {_ms(row['python_ms'])}"
    return [("from `bitfusion run` to the program's first line", _ms(row["run_ms"]), beside)]


def _weights(row: Figures) -> list[tuple[str, str, str]]:
    parts, wanted = ("/".join(f"{part:.1%}" for part in row[name]) for name in ("part", "wanted"))
    return [(f"work done by weight, {row['seconds']:g} s", parts, f"wanted {wanted}")]


def _moving(row: Figures) -> list[tuple[str, str, str]]:
    return [
        (
            f"pause while {row['memory_mib']} MiB go and {row['memory_mib']} MiB come",
            f"{row['pause_s']['p50'] * 1e3:.0f} ms, {row['bytes_per_s'] / 1e9:.1f} GB/s",
            f"memcpy {row['memcpy_s']['p50'] * 1e3:.0f} ms",
        )
    ]


ROWS = {"queue": _queue, "listing": _listing, "start": _start, "weights": _weights, "moving": _moving}


def _ms(figure: Figures) -> str:
    return f"{figure['p50']:.2f} ms (p99 {figure['p99']:.2f})"


def plot(figures: Figures, path: Path) -> None:
    """How long each of the clients waited, in the order of asking."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    row = figures["queue"]
    picture, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    axes.plot(range(1, len(row["wait_ms"]) + 1), row["wait_ms"], ".", markersize=4)
    axes.set(
        xlabel="in the order of asking",
        ylabel="waited, ms",
        title=f"{row['clients']} clients ask at once for 1/64 of a GPU",
    )
    axes.grid(alpha=0.3)
    picture.savefig(path, dpi=150)
    plt.close(picture)
