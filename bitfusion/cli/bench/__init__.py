"""``bitfusion bench``: what remote work costs, every figure beside its floor (docs/guide/benchmarks.md).

Owns the options; measuring, showing and drawing are imported when they are needed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

PARTS = ("latency", "bandwidth", "launch", "session", "train")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The options of ``bench``."""
    parser = commands.add_parser(
        "bench",
        help="measure what remote work costs, each figure beside its floor",
        description="Measure against a server, or against private appliances that the bench starts and stops.",
    )
    parser.add_argument("part", choices=[*PARTS, "all"], help="what to measure")
    parser.add_argument(
        "--server", metavar="HOST:PORT", help="measure this appliance (default: one of the bench's own)"
    )
    parser.add_argument(
        "--devices",
        default="auto",
        metavar="SPEC",
        help="devices of the bench's own appliance, as for serve (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the figures here")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: under half a minute, less exact")
    parser.set_defaults(main=main)


def main(options: argparse.Namespace) -> int:
    """Measure, show, write; 0 once all that was asked for is there."""
    from bitfusion.cli.bench.command import bench

    parts = PARTS if options.part == "all" else (options.part,)
    return bench(
        parts, options.server, options.devices, quick=options.quick, json_file=options.json, plot_file=options.plot
    )
