"""``run --report``: where the time of a program's sessions went, gathered from the lines each session leaves (cuda/report.py)."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bitfusion.errors import ConfigError

SUMMED = (
    "wall_s",
    "compute_s",
    "transfer_s",
    "wait_s",
    "other_s",
    "bytes_sent",
    "bytes_rcvd",
    "operations",
    "calls",
    "launches",
)
"""Figures of a session that are added up over all sessions of the program."""


def check_writable(report: Path) -> None:
    """ConfigError if the report cannot be written there; leaves nothing behind."""
    existed = report.exists()
    try:
        with report.open("ab"):
            pass
        if not existed:
            report.unlink()
    except OSError as error:
        raise ConfigError(f"the report cannot be written to {report}: {error.strerror or error}") from None


@contextmanager
def gathered(report: Path | None) -> Iterator[str]:
    """Where the program's sessions write their lines; at the end they become the report. Without one, a run around us may want them."""
    if report is None:
        yield os.environ.get("BITFUSION_REPORT", "")
        return
    with tempfile.TemporaryDirectory(prefix="bitfusion-") as place:
        lines, started = Path(place, "sessions"), time.perf_counter()
        lines.touch()
        yield str(lines)
        sessions = [json.loads(line) for line in lines.read_text().splitlines()]
        report.write_text(json.dumps(_summary(sessions, time.perf_counter() - started), indent=2) + "\n")


def _summary(sessions: list[dict[str, float]], program_s: float) -> dict[str, object]:
    """The figures of all sessions together, and each for itself."""
    totals: dict[str, object] = {name: sum(session[name] for session in sessions) for name in SUMMED}
    return {**totals, "program_s": program_s, "sessions": sessions}
