"""A module ``numba`` for programs whose Python has no Numba: its types and ``numba.cuda``; everything else says what is missing.

The import hook of ``bitfusion run`` (bitfusion/hook) puts these modules into ``sys.modules``.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from bitfusion.cuda import config, gufunc, numba_errors, ufunc
from bitfusion.kernels import types as kernel_types
from bitfusion.version import __version__

REAL = {
    "numba.types": kernel_types,
    "numba.core.types": kernel_types,
    "numba.core.errors": numba_errors,
    "numba.config": config,
    "numba.core.config": config,
}
"""Modules of this package that stand for Numba's."""

MODULES = frozenset({"numba", "numba.core", *REAL})
"""The modules that can be made here; ``numba.cuda`` and what is below it come from elsewhere."""


def module(name: str) -> ModuleType:
    """The stand-in for the module ``name``. ModuleNotFoundError if Numba itself is needed for it."""
    if name in REAL:
        return REAL[name]
    if name not in MODULES:
        raise ModuleNotFoundError(_missing(name), name=name)
    made = ModuleType(name, "What bitfusion offers of numba without Numba being installed: cuda and the types.")
    made.__path__ = []
    vars(made)["__bitfusion__"] = True  # how the import hook knows it
    vars(made)["types"] = kernel_types
    if name == "numba":
        vars(made)["__version__"] = f"0+bitfusion.{__version__}"
        vars(made).update(kernel_types.NAMES)
        vars(made).update(vectorize=vectorize, guvectorize=guvectorize)

    def find(attribute: str) -> ModuleType:
        """A module that has not been imported yet, as ``from numba import cuda`` asks for it."""
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        path = f"{name}.{attribute}"
        if path in MODULES or path == "numba.cuda":
            return import_module(path)
        raise ImportError(_missing(path), name=name)

    vars(made)["__getattr__"] = find
    return made


def vectorize(ftylist_or_function: Any = (), target: str = "cpu", **options: Any) -> Any:
    """``numba.vectorize`` for the target ``cuda``; ImportError for the others, which need Numba."""
    _check_target("vectorize", target)
    return ufunc.vectorize(ftylist_or_function, **options)


def guvectorize(ftylist: Any, signature: str, target: str = "cpu", **options: Any) -> Any:
    """``numba.guvectorize`` for the target ``cuda``; ImportError for the others, which need Numba."""
    _check_target("guvectorize", target)
    return gufunc.guvectorize(ftylist, signature, **options)


def _check_target(name: str, target: str) -> None:
    if target != "cuda":
        raise ImportError(_missing(f"numba.{name} with target={target!r}"), name="numba")


def _missing(name: str) -> str:
    return (
        f"{name} needs Numba, which this Python does not have (pip install numba);"
        " without it bitfusion offers numba.cuda and Numba's types"
    )
