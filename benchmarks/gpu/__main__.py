"""One part: measures it and writes its figures as JSON."""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path

from benchmarks.gpu.place import Place

PARTS = ("copies", "launches", "sessions", "training")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--devices", default="cuda")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    with Place(options.devices, quick=options.quick) as place:
        figures = import_module(f"benchmarks.gpu.{options.part}").measure(place)
    options.out.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
