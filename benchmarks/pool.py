"""The pool's speed and fairness: the queue, listings, the start of a program, shares of time, memory that moves; each beside its floor.

``python -m benchmarks.pool``. Everything runs against appliances with virtual GPUs, one for each part.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.sharing import listing, moving, queue, start, weights
from benchmarks.sharing.report import plot, show
from bitfusion.cli.bench.machine import cpu, versions

PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "queue": lambda quick: queue.measure(20 if quick else 200),
    "listing": lambda quick: listing.measure(5 if quick else 200, 5 if quick else 100),
    "start": lambda quick: start.measure(2 if quick else 25),
    "weights": lambda quick: weights.measure(0.5 if quick else 5.0),
    "moving": lambda quick: moving.measure(32 if quick else 1024, 2 if quick else 8),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pool", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", type=_names, help=f"some of {','.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="few clients and rounds: whether it runs, not how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the waiting times (png, svg or pdf)")
    options = parser.parse_args(arguments)
    figures = {name: PARTS[name](options.quick) for name in options.only or PARTS}
    show(figures)
    machine = {"cpu": cpu(), "versions": versions(), "at": datetime.now(UTC).isoformat(timespec="seconds")}
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"machine": machine, "quick": options.quick, **figures}, indent=1) + "\n")
    if options.plot and "queue" in figures:
        options.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(figures, options.plot)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return names


if __name__ == "__main__":
    main()
