"""The figures of ``benchmarks/virtual_gpu.py`` as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Figures = Mapping[str, Any]  # what json.dumps takes

COLUMNS = {
    "kernel": 18,
    "GPU ms": 9,
    "p99": 8,
    "unchecked": 9,
    "global only": 11,
    "njit ms": 8,
    "NumPy ms": 9,
    "x njit": 7,
    "x NumPy": 8,
    "Python>PTX": 10,
    "PTX>code": 9,
    "from disk": 9,
}
"""Headings and widths."""


def show(cases: Sequence[Figures], *, heading: bool = True) -> None:
    """Print the rows; in colour on a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=max(Console().width, sum(COLUMNS.values()) + len(COLUMNS)))
    if heading:
        console.print(Text(_line(COLUMNS), style="bold"))
    for case in cases:
        line = Text(_line(_cells(case)))
        line.stylize("green" if case["ratio"]["njit"] <= 2 else "yellow", 0, COLUMNS["kernel"])
        console.print(line)


def _line(cells: Any) -> str:
    first, *others = zip(cells, COLUMNS.values(), strict=True)
    return " ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)])


def _cells(case: Figures) -> list[str]:
    ms, ratio, compiling = case["ms"], case["ratio"], case["compile_ms"]
    return [
        case["name"],
        f"{ms['checked']['p50']:.2f}",
        f"{ms['checked']['p99']:.2f}",
        f"{ms['unchecked']['p50']:.2f}",
        f"{ms['global_checks']['p50']:.2f}",
        f"{ms['njit']['p50']:.2f}",
        f"{ms['numpy']['p50']:.2f}",
        f"{ratio['njit']:.2f}",
        f"{ratio['numpy']:.2f}",
        *(f"{compiling[name]:.1f}" for name in ("ptx", "code", "disk")),
    ]


GPU, BARE, NJIT, NUMPY, INK = "#2563eb", "#93c5fd", "#d97706", "#94a3b8", "#334155"


def plot(figures: Figures, path: Path) -> None:
    """Times relative to njit's, and compile times."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.5))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    cases = figures["cases"]
    _draw_times(left, cases)
    _draw_compiling(right, cases)
    machine = figures["machine"]
    title = f"virtual GPU · {machine['cores']} cores of {machine['cpu']} · {machine['date'][:10]}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    figure.savefig(path, dpi=120)


def _draw_times(axes: Any, cases: Sequence[Figures]) -> None:
    series = (
        ("checked", "virtual GPU", GPU),
        ("unchecked", "virtual GPU, no checks", BARE),
        ("numpy", "NumPy", NUMPY),
    )
    height = 0.8 / len(series)
    for number, (name, label, color) in enumerate(series):
        ratios = [case["ms"][name]["p50"] / case["ms"]["njit"]["p50"] for case in cases]
        places = [row + (number - 1) * height for row in range(len(cases))]
        bars = axes.barh(places, ratios, height, color=color, label=label)
        axes.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], padding=3, fontsize=8, color=INK)
    axes.axvline(1, color=NJIT, linewidth=1.5, label="njit(parallel=True) = 1")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    _rows(axes, cases, "time relative to njit(parallel=True), median; less is better")
    axes.set_title("Run time")
    axes.margins(x=0.12)


def _draw_compiling(axes: Any, cases: Sequence[Figures]) -> None:
    places, start = range(len(cases)), [0.0] * len(cases)
    for name, label, color in (("ptx", "Python to PTX (Numba)", NUMPY), ("code", "PTX to machine code", GPU)):
        values = [case["compile_ms"][name] for case in cases]
        axes.barh(places, values, 0.6, left=start, color=color, label=label)
        start = [a + b for a, b in zip(start, values, strict=True)]
    for place, total, case in zip(places, start, cases, strict=True):
        text = f"{total:.0f}, from disk {case['compile_ms']['disk']:.1f}"
        axes.annotate(text, (total, place), (4, 0), textcoords="offset points", va="center", fontsize=8, color=INK)
    _rows(axes, cases, "milliseconds")
    axes.set_title("Compile time")
    axes.margins(x=0.35)


def _rows(axes: Any, cases: Sequence[Figures], label: str) -> None:
    axes.set_yticks(range(len(cases)), [case["name"].replace("_", " ") for case in cases])
    axes.invert_yaxis()
    axes.set_xlabel(label)
    axes.legend(frameon=False, fontsize=8, loc="best")
    axes.title.set(color=INK)
    axes.set_axisbelow(True)
    axes.grid(axis="x", alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
