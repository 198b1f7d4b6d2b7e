"""The list of numba-cuda's tests that do not pass here, and why (skipped.toml). It can only shrink.

An entry is a test, a module (it cannot be loaded), or a class with ``.*`` (none of its tests passes). Listed tests are run like all
others, so that an entry whose test passes is found and must go.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.compliance.numba_cuda.outcome import BAD, Outcome, Verdict

FILE = Path(__file__).with_name("skipped.toml")

KINDS = frozenset(["private-api", "compiler-extension", "real-gpu", "toolkit", "simulator", "difference", "not-yet"])
"""What a reason may be; the head of the file says what each means."""


@dataclass(frozen=True, slots=True)
class Entry:
    """``name`` as it stands in the file."""

    name: str
    kind: str
    reason: str

    def covers(self, test: str) -> bool:
        return test == self.name or (self.name.endswith(".*") and test.startswith(self.name[:-1]))

    def is_of(self, module: str) -> bool:
        return self.name == module or self.name.startswith(module + ".")


def read(path: Path = FILE) -> list[Entry]:
    """Every entry. ValueError for a kind that is none, and an entry without a reason."""
    entries = [
        Entry(name, kind, reason)
        for kind, of_kind in tomllib.loads(path.read_text()).items()
        for name, reason in of_kind.items()
    ]
    for entry in entries:
        if entry.kind not in KINDS or not entry.reason.strip():
            raise ValueError(f"{path.name}: {entry.name} needs a reason of one of the kinds {', '.join(sorted(KINDS))}")
    return entries


def listed(outcome: Outcome, entries: Iterable[Entry]) -> Entry | None:
    """The entry that covers a test."""
    return next((entry for entry in entries if entry.covers(outcome.test)), None)


def complaints(module: str, outcomes: list[Outcome], entries: list[Entry]) -> Iterator[str]:
    """What is wrong between a module's outcomes and the list: failures that are not on it, entries that are not true any more."""
    for outcome in outcomes:
        if outcome.verdict in BAD and listed(outcome, entries) is None:
            yield f"{outcome.test}: {outcome.verdict}: {outcome.reason}\n{outcome.detail}"
    yield from untrue(module, outcomes, entries)


def untrue(module: str, outcomes: list[Outcome], entries: list[Entry]) -> Iterator[str]:
    """Entries of a module that must go."""
    for entry in entries:
        if not entry.is_of(module):
            continue
        met = [outcome for outcome in outcomes if entry.covers(outcome.test)]
        good = [outcome.test for outcome in met if outcome.verdict not in BAD]
        if not met:
            yield f"{entry.name} is on the list, and there is no such test, or its module is loaded: remove it"
        elif good:
            yield f"{entry.name} is on the list, and {', '.join(good)} {_done(met)}: remove it from the list"


def _done(outcomes: list[Outcome]) -> str:
    return "passes" if any(outcome.verdict is Verdict.PASSED for outcome in outcomes) else "skips itself"
