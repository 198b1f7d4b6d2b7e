"""What became of one test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    """An assertion of the test."""
    ERROR = "error"
    """Anything else that was raised, and a process that ended or did not end."""
    SKIPPED = "skipped"
    """By the test itself."""
    NOT_RUN = "not run"
    """A module that could not be loaded."""
    LEFT_OUT = "left out"
    """A module, because the time was over."""


BAD = (Verdict.FAILED, Verdict.ERROR, Verdict.NOT_RUN)


@dataclass(frozen=True, slots=True)
class Outcome:
    """``test`` is its name without the package's: ``cudapy.test_array.TestCudaArray.test_empty``; a module's for a module."""

    test: str
    verdict: Verdict
    seconds: float = 0.0
    reason: str = ""
    """One line."""
    detail: str = ""
    """The traceback, or what the process said."""


def counted(outcomes: Iterable[Outcome]) -> str:
    """How many of each verdict, in words."""
    counts = Counter(outcome.verdict for outcome in outcomes)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict]) or "no tests"
