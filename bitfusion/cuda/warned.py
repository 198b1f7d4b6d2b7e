"""What numba.cuda warns of: options that exclude each other, grids that are too small, host arrays that are copied.

The warnings are of Numba's own classes where a program has imported those, and point at the program's line.
"""

from __future__ import annotations

import math
import sys
import warnings

from bitfusion.cuda import config, numba_errors
from bitfusion.types import Dim3

GRID_SIZE_MIN = 128
"""Blocks. As in Numba: about as many as a large GPU has multiprocessors."""

PRINTED_COUNT_MAX = 32
"""Values of one ``printf`` (CUDA C++ Programming Guide, Formatted Output, Limitations)."""


def warn_of_options(text: str) -> None:
    """NumbaInvalidConfigWarning."""
    _warn("NumbaInvalidConfigWarning", text)


def warn_of_grid(grid: Dim3) -> None:
    """NumbaPerformanceWarning for a grid of few blocks."""
    size = math.prod(grid)
    if size < GRID_SIZE_MIN and config.warns("CUDA_LOW_OCCUPANCY_WARNINGS"):
        _warn(
            "NumbaPerformanceWarning",
            f"Grid size {size} will likely result in GPU under-utilization due to low occupancy.",
        )


def warn_of_print(count: int) -> None:
    """NumbaWarning for a kernel that gives one ``print`` too many values: Numba makes it print its format."""
    if count > PRINTED_COUNT_MAX:
        _warn(
            "NumbaWarning",
            f"CUDA print() cannot print more than {PRINTED_COUNT_MAX} items. "
            "The raw format string will be emitted by the kernel instead.",
        )


def warn_of_copy() -> None:
    """NumbaPerformanceWarning for a host array in a launch."""
    if config.warns("CUDA_WARN_ON_IMPLICIT_COPY"):
        _warn("NumbaPerformanceWarning", "Host array used in CUDA kernel will incur copy overhead to/from device.")


def _warn(name: str, text: str) -> None:
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("bitfusion."):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, numba_errors.warning(name), stacklevel=level)
