"""The figures as one picture: times, copies by size and ratios, each beside its floor. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bitfusion.cli.bench.report import size_text

Figures = Mapping[str, Any]  # what json.dumps takes

OURS, OTHER, FLOOR, INK = "#2563eb", "#d97706", "#94a3b8", "#334155"
PANEL_INCHES = (6.0, 5.0)
SHOWN_SIZES = (1 << 20, 64 << 20)
"""Copies whose ratios are shown as bars."""


def draw(figures: Figures, path: Path) -> None:
    """Write the picture; it has a panel for each kind of figure there is."""
    panels: list[Callable[[Axes, Figures], None]] = []
    if times(figures):
        panels.append(_draw_times)
    if figures.get("bandwidth"):
        panels.append(_draw_bandwidth)
    if relative_times(figures):
        panels.append(_draw_relative_times)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width * max(len(panels), 1), height))
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08)  # inches, at the edges too
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), number)
        panel(axes, figures)
        _plain(axes)
    machine = figures["machine"]
    title = f"bitfusion {machine['versions']['bitfusion']} · {machine['device']} · {machine['cores']} cores of {machine['cpu']}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    figure.savefig(path, dpi=120)


def times(figures: Figures) -> dict[str, tuple[Figures, Figures]]:
    """Every figure in microseconds with its floor, by its label."""
    found: dict[str, tuple[Figures, Figures]] = {}
    if latency := figures.get("latency"):
        for trip in (latency, *latency["other_placements"]):
            found[f"call, {trip['placement']}"] = trip["call_us"], trip["floor_us"]
    if launch := figures.get("launch"):
        for device in filter(None, (launch, launch["chosen"])):
            found[f"launch and wait,\n{device['device']}"] = device["call_us"], device["floor_us"]
    if session := figures.get("session"):
        ours, floor = session["connect_ms"], session["floor_connect_ms"]
        found["session opened\nand closed"] = _thousandfold(ours), _thousandfold(floor)
    return found


def relative_times(figures: Figures) -> dict[str, float]:
    """How often the floor's time ours takes, by its label: 1 is the floor, more is slower. Of rates the table has the inverse."""
    if train := figures.get("train"):
        found = {"training step": float(train["ratio"])}
    else:
        found = {}
    for copy in figures.get("bandwidth", ()):
        if copy["size"] in SHOWN_SIZES:
            found[f"H2D {size_text(copy['size'])}"] = 1 / copy["h2d_ratio"]
            found[f"D2H {size_text(copy['size'])}"] = 1 / copy["d2h_ratio"]
    calls = {label: ours["p50"] / floor["p50"] for label, (ours, floor) in times(figures).items()}
    return found | {label: ratio for label, ratio in calls.items() if not label.startswith("session")}


def _thousandfold(ms: Figures) -> Figures:
    return {name: value * 1e3 for name, value in ms.items()}


def _draw_times(axes: Axes, figures: Figures) -> None:
    """A dot for each median, a line from it to the p99, over time in powers of ten."""
    found = times(figures)
    for offset, which, color, label in ((-0.16, 0, OURS, "bitfusion"), (0.16, 1, FLOOR, "plain socket")):
        rows = [number + offset for number in range(len(found))]
        spreads = [pair[which] for pair in found.values()]
        axes.hlines(rows, [s["p50"] for s in spreads], [s["p99"] for s in spreads], color=color, linewidth=3, alpha=0.4)
        axes.plot([s["p50"] for s in spreads], rows, "o", color=color, markersize=8, label=label)
        for row, times_us in zip(rows, spreads, strict=True):
            axes.annotate(
                f"{times_us['p50']:,.0f}", (times_us["p50"], row), (-8, 0), textcoords="offset points", ha="right",
                va="center", fontsize=9, color=INK,
            )  # fmt: skip
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.18)
    axes.set_xlabel("microseconds: the dot is the median, the line ends at the p99")
    axes.set_title("Round trips")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper right", frameon=False)


def _draw_bandwidth(axes: Axes, figures: Figures) -> None:
    copies = figures["bandwidth"]
    sizes = [copy["size"] for copy in copies]
    for way, color in (("h2d", OURS), ("d2h", OTHER)):
        name = way.upper()
        axes.plot(sizes, [copy[f"{way}_gbps"] for copy in copies], "o-", color=color, linewidth=2, label=name)
        floor = [copy[f"floor_{way}_gbps"] for copy in copies]
        axes.plot(sizes, floor, "--", color=color, alpha=0.6, label=f"{name}, plain socket")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(sizes, [size_text(size) for size in sizes], rotation=40, ha="right")
    axes.set_ylabel("GB/s (10⁹ bytes a second), median")
    axes.set_title("Copies by size")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)


def _draw_relative_times(axes: Axes, figures: Figures) -> None:
    found = relative_times(figures)
    bars = axes.barh(list(found), list(found.values()), 0.6, color=OURS)
    axes.axvline(1, color=INK, linestyle="--", linewidth=1)
    for label in axes.bar_label(bars, [f"{ratio:.2f}" for ratio in found.values()], padding=5, color=INK):
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.5})  # over the line of the floor
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.set_xlabel("our time where the floor's is 1, for rates too: less is better")
    axes.set_title("Time, floor = 1")


def _plain(axes: Axes) -> None:
    """No more lines than are needed."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.title.set(fontsize=12, color=INK)
    axes.set_axisbelow(True)
    axes.tick_params(which="minor", bottom=False, left=False)
