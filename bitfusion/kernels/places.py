"""Where the appliance keeps its software, taken out of the texts that a compiler writes for a client."""

from __future__ import annotations

import functools
import re
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from numba import cuda


def without_places(text: str, more: Iterable[str] = ()) -> str:
    """The text with the files of Python, of its packages and under ``more`` named from there on."""
    return _pattern(tuple(more)).sub("", text)


@functools.lru_cache(maxsize=8)
def _pattern(more: tuple[str, ...]) -> re.Pattern[str]:
    numba = Path(cuda.__file__).parents[2]  # above the package that numba-cuda puts in the place of Numba's
    places = {*(sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib")), str(numba), *more}
    found = {place for path in places for place in (path, str(Path(path).resolve())) if len(Path(path).parts) > 1}
    return re.compile("|".join(re.escape(place) + "/" for place in sorted(found, key=len, reverse=True)))
