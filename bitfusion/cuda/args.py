"""numba.cuda.args: which way host arrays are copied around a launch, under Numba's names."""

from __future__ import annotations

from typing import Any

from bitfusion.cuda.arguments import Hint, In, InOut, Out

__all__ = ["ArgHint", "In", "InOut", "Out", "wrap_arg"]

ArgHint = Hint


def wrap_arg(value: Any, default: type[Hint] = InOut) -> Hint:
    """The value with a hint: its own, or ``default``."""
    return value if isinstance(value, Hint) else default(value)
