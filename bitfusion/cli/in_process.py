"""``bitfusion run --in-process``: kernels on a device in the program's own process, the floor that remote work is measured against.

There the compiler needs the real numba.cuda and the program ours, so the import hook asks here for what the program imports of Numba;
Numba itself and this package import past it. The program must be Python, and its Python must have Numba.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from bitfusion.client.client import Client
from bitfusion.client.settings import from_environment, kernel_rules
from bitfusion.cuda import current, gufunc, hooked, ufunc
from bitfusion.device.discovery import check_compilers


class Facade(ModuleType):
    """``numba`` as the program sees it: the real one, but ``cuda`` and what compiles for it are ours."""

    cuda = hooked.module("numba.cuda")

    @staticmethod
    def vectorize(*arguments: Any, **options: Any) -> Any:
        """Numba's, but for the target ``cuda`` ours."""
        place: Any = ufunc if options.get("target") == "cuda" else import_module("numba")
        return place.vectorize(*arguments, **options)

    @staticmethod
    def guvectorize(*arguments: Any, **options: Any) -> Any:
        """Numba's, but for the target ``cuda`` ours."""
        place: Any = gufunc if options.get("target") == "cuda" else import_module("numba")
        return place.guvectorize(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module("numba"), name)

    def __dir__(self) -> list[str]:
        return dir(import_module("numba"))


NUMBA = Facade("numba")


def module(name: str, from_it: bool) -> ModuleType:
    """What ``import name`` gives the program, or with ``from_it`` what ``from name import`` takes from."""
    inside = "numba" if name == "numba" else ".".join(name.split(".")[:2])
    found = hooked.module(name) if inside == "numba.cuda" else import_module(name)
    return found if from_it and name != "numba" else NUMBA


def open_client() -> Client:
    """A session on the first device of this machine, as large as the environment asks for. ConfigError if this Python cannot."""
    check_compilers()  # before the imports that need more than a client has
    from bitfusion.daemon.daemon import state_dir_default
    from bitfusion.daemon.inprocess import open_local

    settings, place = from_environment(), os.environ.get("BITFUSION_STATE_DIR")
    cache_dir = (Path(place) if place else state_dir_default()) / "cache"
    return Client(
        open_local(
            gpus=settings.gpus,
            memory=settings.memory,
            fraction=settings.fraction,
            cache_dir=cache_dir,
            rules=kernel_rules(),
        )
    )


current.opener = open_client
