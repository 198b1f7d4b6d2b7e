"""What programs import from numba.cuda.cudadrv: classes for ``isinstance``, exceptions for ``except``, and copies of bytes.

Its modules hold names of this package under Numba's; CUDA's driver itself is the appliance's.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

MODULES = frozenset({"devicearray", "devices", "driver", "error", "linkable_code", "runtime"})


def __getattr__(name: str) -> ModuleType:
    """A module that has not been imported yet, as ``numba.cuda.cudadrv.driver`` asks for it."""
    if name in MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(
        f"numba.cuda.cudadrv.{name} is not offered on a leased GPU; docs/reference/numba-cuda.md lists what is"
    )
