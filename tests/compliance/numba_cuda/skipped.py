"""The list of numba-cuda's tests that do not pass here, and why (skipped.toml). It can only shrink.

An entry is a test, or a module that cannot be loaded. Listed tests are run like all others, so that an entry whose test passes is found
and must go.
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
    """The entry of a test."""
    return next((entry for entry in entries if entry.name == outcome.test), None)


def complaints(module: str, outcomes: list[Outcome], entries: list[Entry]) -> Iterator[str]:
    """What is wrong between a module's outcomes and the list: failures that are not on it, entries that are not true any more."""
    for outcome in outcomes:
        if outcome.verdict in BAD and listed(outcome, entries) is None:
            yield f"{outcome.test}: {outcome.verdict}: {outcome.reason}\n{outcome.detail}"
    for name, why in untrue(module, outcomes, entries).items():
        yield f"{name} is on the list, and {why}: remove it"


def untrue(module: str, outcomes: list[Outcome], entries: list[Entry]) -> dict[str, str]:
    """The entries of a module that must go, and what has become of their tests."""
    verdicts = {outcome.test: outcome.verdict for outcome in outcomes}
    if verdicts.get(module) is Verdict.LEFT_OUT:
        return {}
    found: dict[str, str] = {}
    for entry in entries:
        if entry.is_of(module):
            verdict = verdicts.get(entry.name)
            if verdict is None:
                found[entry.name] = "there is no such test, or its module can be loaded"
            elif verdict not in BAD:
                found[entry.name] = f"it is {verdict}"
    return found


def shrink(names: Iterable[str], path: Path = FILE) -> None:
    """Take entries off the list; the lines of the others stay as they are."""
    gone = tuple(f'"{name}" =' for name in names)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith(gone)) if gone else "".join(lines))
