"""Taking times fairly: what is compared takes turns in one run, so a slow moment of the machine meets all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Task: TypeAlias = Callable[[], object]
Seconds: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the slow end of a sample."""

    p50: float
    p99: float


def spread(values: Seconds, scale: float = 1.0) -> Spread:
    """Median and 99th percentile of ``values`` times ``scale``."""
    p50, p99 = np.percentile(values, [50, 99])
    return Spread(float(p50 * scale), float(p99 * scale))


def interleave(
    tasks: Sequence[Task], *, rounds: int, calls: int = 1, warm_rounds: int = 1, advance: Task | None = None
) -> list[Seconds]:
    """The seconds of every call of each task.

    In each round all take their turn of ``calls`` calls, every other round in reverse order. The first ``warm_rounds``
    are not counted. ``advance`` is told of every round.
    """
    samples = [np.empty((rounds, calls)) for _ in tasks]
    for number in range(-warm_rounds, rounds):
        turns = list(zip(tasks, samples, strict=True))
        for task, sample in reversed(turns) if number % 2 else turns:
            row = _turn(task, calls)
            if number >= 0:
                sample[number] = row
        if advance is not None:
            advance()
    return [sample.reshape(-1) for sample in samples]


def _turn(task: Task, calls: int) -> list[float]:
    now = time.perf_counter_ns
    row = []
    for _ in range(calls):
        started = now()
        task()
        row.append((now() - started) / 1e9)
    return row
