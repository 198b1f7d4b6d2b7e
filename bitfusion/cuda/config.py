"""numba.cuda's settings, as far as they mean something on a client. Set here or by the environment, as Numba's reference manual lists them.

Where a program has Numba itself, Numba's settings count as well: a warning that either turns off is not given.
"""

from __future__ import annotations

import os
import sys

MODULES = ("numba.core.config", "numba.cuda.core.config")
"""Where Numba's own settings are; numba-cuda has its own."""


def _number(name: str, default: int) -> int:
    """A number of the environment. As in Numba, what is none is passed over."""
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        return default


DISABLE_PERFORMANCE_WARNINGS = _number("NUMBA_DISABLE_PERFORMANCE_WARNINGS", 0)
"""Turns off both of these."""

CUDA_LOW_OCCUPANCY_WARNINGS = _number("NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS", 1)
"""Warn of grids that leave most of a GPU idle."""

CUDA_WARN_ON_IMPLICIT_COPY = _number("NUMBA_CUDA_WARN_ON_IMPLICIT_COPY", 1)
"""Warn of host arrays as arguments, which are copied there and back."""


def warns(setting: str) -> bool:
    """Whether a warning about performance is wanted, by everybody who could turn it off."""
    tables = [globals(), *(vars(sys.modules[module]) for module in MODULES if module in sys.modules)]
    return all(table.get(setting, 1) and not table.get("DISABLE_PERFORMANCE_WARNINGS", 0) for table in tables)
