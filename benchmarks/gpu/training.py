"""The digits' training step: the example through ``bitfusion run`` against the same script with numba.cuda, and without a network.

Where scikit-learn is missing, images like the digits (stand_in) take their place: the step costs the same, the accuracy says nothing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.place import Place, rounded

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "train_digits.py"
STAND_IN = Path(__file__).parent / "stand_in"


def measure(place: Place) -> dict[str, object]:
    """Medians of ``step_ms`` over the runs, and the ratios."""
    rounds, epochs = (1, 10) if place.quick else (2, 40)
    run = [sys.executable, "-m", "bitfusion", "run", "--quiet"]
    ways: dict[str, list[str]] = {
        "remote": [*run, "--server", place.address, "-n", "1", "-p", "0.25", "--", sys.executable],
        "in_process": [
            *run,
            "--in-process",
            "-p",
            "0.25",
            "--state-dir",
            str(place.folder / "local"),
            "--",
            sys.executable,
        ],
    }
    if place.cuda:
        ways["numba"] = [sys.executable]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else reversed(ways):
            runs[name].append(_train(place, ways[name], epochs))
    figures: dict[str, Any] = {
        "images": "digits" if importlib.util.find_spec("sklearn") else "stand-in",
        "epochs": epochs,
    }
    for name, found in runs.items():
        figures[f"{name}_ms"] = statistics.median(item["step_ms"] for item in found)
        figures[f"{name}_accuracy"] = min(item["accuracy"] for item in found)
    for floor in ("numba", "in_process"):
        if floor in runs:
            figures[f"to_{floor}"] = figures["remote_ms"] / figures[f"{floor}_ms"]
    return rounded(figures)


def _train(place: Place, command: Sequence[str], epochs: int) -> dict[str, Any]:
    """One run of the script; its figures. RuntimeError with what it said if it fails."""
    out = place.folder / "figures.json"
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    if importlib.util.find_spec("sklearn") is None:
        paths.append(str(STAND_IN))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS": "0"}
    finished = subprocess.run(
        [*command, str(SCRIPT), "--epochs", str(epochs), "--json", str(out)],
        env=environment,
        cwd=place.folder,
        capture_output=True,
        text=True,
    )
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command)} failed ({finished.returncode}): {finished.stderr[-2000:]}")
    return json.loads(out.read_text())
