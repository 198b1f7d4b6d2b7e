"""What the import hook of ``bitfusion run`` gives a program for ``numba.cuda``, its modules, and a missing ``numba``."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from bitfusion.cuda import SUBMODULES, stand_in, types
from bitfusion.cuda.not_offered import told


def module(name: str) -> ModuleType:
    """The module for ``name``, ``numba`` or below it. ModuleNotFoundError says what is not offered."""
    if name == "numba.cuda":
        return import_module("bitfusion.cuda")
    _, inside, member = name.partition("numba.cuda.")
    if not inside:
        return stand_in.module(name)
    if member not in SUBMODULES:
        raise ModuleNotFoundError(told(member), name=name)
    return types if member == "types" else import_module(f"bitfusion.cuda.{member}")
