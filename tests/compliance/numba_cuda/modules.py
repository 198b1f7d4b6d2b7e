"""Which test modules numba-cuda ships, and which of them a name or pattern means."""

from __future__ import annotations

import importlib.util
from fnmatch import fnmatchcase
from pathlib import Path

PREFIX = "numba.cuda.tests."
FOLDERS = ("doc_examples", "cudapy", "cudadrv", "nocuda", "nrt", "core", "cudasim")
"""Those with tests; ``benchmarks`` has none that end with passed or failed."""


def directory() -> Path:
    """Where the tests lie, found without importing numba-cuda. ModuleNotFoundError where it is not installed."""
    spec = importlib.util.find_spec("numba_cuda")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("numba-cuda is not installed: pip install 'bitfusion[server]'", name="numba_cuda")
    return Path(spec.origin).parent / "numba" / "cuda" / "tests"


def shipped() -> list[str]:
    """All modules, as ``cudapy.test_array``, in the order of FOLDERS and names."""
    found = directory()
    return [f"{folder}.{path.stem}" for folder in FOLDERS for path in sorted((found / folder).glob("test_*.py"))]


def chosen(patterns: list[str]) -> list[str]:
    """The modules meant: a folder, a module, a pattern, or the full name of a module of the user's own, which is taken as it is."""
    every = shipped()
    names: dict[str, None] = {}
    for pattern in patterns:
        short = pattern.removeprefix(PREFIX)
        meant = [name for name in every if short in (name, *name.split(".")) or fnmatchcase(name, short)]
        names.update(dict.fromkeys(meant or [pattern]))
    return list(names)


LONGEST = "cudapy.test_ufuncs"
"""Minutes of compiling, from a short text: every ufunc for every type."""


def weight(name: str) -> tuple[bool, int]:
    """A guess at how long a module runs, mostly the size of its source: long ones are started first."""
    return name == LONGEST, _size(name)


def _size(name: str) -> int:
    """Bytes of the source of one of numba-cuda's modules; 0 for any other."""
    folder, _, stem = name.rpartition(".")
    path = directory() / folder / f"{stem}.py"
    return path.stat().st_size if path.exists() else 0


def full(name: str) -> str:
    """The name to import it by."""
    return PREFIX + name if _size(name) else name
