"""The kernel language on the host: names that mean something inside kernels only.

Each knows the path by which a captured kernel refers to it (kernels/names.py lists them all); using one on the host says so.
"""

from __future__ import annotations

from typing import NoReturn

from bitfusion.errors import UnsupportedError
from bitfusion.kernels import names


class DeviceName:
    """A function, value or namespace of the kernel language."""

    def __init__(self, path: str) -> None:
        self.__bitfusion_path__ = path
        self.__name__ = self.__qualname__ = path.rpartition(".")[2]

    def __repr__(self) -> str:
        return f"<{self.__bitfusion_path__}, for kernels>"

    def __call__(self, *arguments: object, **keywords: object) -> NoReturn:
        raise UnsupportedError(
            f"{self.__bitfusion_path__} works inside a kernel only; it was called on the host", feature=self.__name__
        )

    def __getattr__(self, name: str) -> DeviceName:
        path = f"{self.__bitfusion_path__}.{name}"
        if name.startswith("_") or not (names.is_allowed(path) or names.is_namespace(path)):
            raise AttributeError(f"kernels have no {path}")
        member = DeviceName(path)
        self.__dict__[name] = member
        return member


def functions() -> dict[str, DeviceName]:
    """Every name of ``numba.cuda`` itself that is for kernels: functions, values, vector types."""
    return {name: DeviceName(f"numba.cuda.{name}") for name in names.CUDA | names.VECTORS}


def namespaces() -> dict[str, DeviceName]:
    """The namespaces of ``numba.cuda`` that are no modules: ``atomic``, ``shared``, ``local``, ``const``."""
    return {name: DeviceName(f"numba.cuda.{name}") for name in ("atomic", "shared", "local", "const")}


def member(module: str, name: str) -> DeviceName:
    """What ``module.name`` is, for the modules that hold device names only; AttributeError if kernels have no such name."""
    path = f"{names.canonical(module)}.{name}"
    if name.startswith("_") or not names.is_allowed(path):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    return DeviceName(path)
