"""One run of the bench: the parts in their order, the machine, then the table, the JSON and the plot."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bitfusion.cli.bench import bandwidth, latency, launch, session, train
from bitfusion.cli.bench.ground import Ground
from bitfusion.cli.bench.machine import machine
from bitfusion.cli.bench.progress import Progress
from bitfusion.cli.bench.report import show
from bitfusion.cli.exit_codes import ExitCode
from bitfusion.client.settings import target_of
from bitfusion.cuda import config
from bitfusion.device.discovery import INSTALL
from bitfusion.errors import ConfigError

Figures = dict[str, Any]  # what json.dumps takes

COMPILER = ("numba", "llvmlite")


def bench(
    parts: Sequence[str],
    server: str | None,
    devices: str,
    *,
    quick: bool,
    json_file: Path | None,
    plot_file: Path | None,
) -> int:
    """Measure ``parts``. ConfigError, before anything is measured, where a file that is asked for cannot be written."""
    for file in filter(None, (json_file, plot_file)):
        _check_writable(file)
    if plot_file is not None:
        _check_drawable(plot_file)
    if "train" in parts and not all(map(find_spec, COMPILER)):
        raise ConfigError(
            f"the floor of the training step runs here and needs the compiler: {INSTALL.format('server')}"
        )
    target = target_of(server)
    figures = _measure(parts, None if target is None else str(target), devices, quick=quick)
    show(figures)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
    if plot_file is not None:
        from bitfusion.cli.bench.plot import draw

        draw(figures, plot_file)
    return ExitCode.OK


def _check_writable(file: Path) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab"):
            pass
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}") from None


def _check_drawable(file: Path) -> None:
    if file.suffix.lower() != ".png":
        raise ConfigError(f"--plot draws PNG: name a file that ends with .png, not {file.name}")
    if find_spec("matplotlib") is None:
        raise ConfigError(f"--plot needs matplotlib: {INSTALL.format('bench')}")


def _measure(parts: Sequence[str], server: str | None, devices: str, *, quick: bool) -> Figures:
    measures: dict[str, Callable[[Ground], Figures | list[Figures]]] = {
        "latency": lambda ground: asdict(latency.measure(ground)),
        "bandwidth": lambda ground: [asdict(row) for row in bandwidth.measure(ground)],
        "launch": lambda ground: _launch(launch.measure(ground)),
        "session": lambda ground: asdict(session.measure(ground)),
        "train": lambda ground: asdict(train.measure(ground)),
    }
    config.DISABLE_PERFORMANCE_WARNINGS = 1  # what is measured are launches, small ones too
    with Progress() as progress, Ground(server, devices, progress, quick=quick) as ground:
        found = {part: measures[part](ground) for part in parts}
        return {"machine": machine(ground), **found}


def _launch(found: dict[str, launch.Launch]) -> Figures:
    """The null device's figures, with the chosen device's beside them."""
    return {**asdict(found["null"]), "chosen": asdict(found["chosen"]) if "chosen" in found else None}
