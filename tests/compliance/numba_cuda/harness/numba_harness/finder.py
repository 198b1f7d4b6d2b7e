"""Where the modules come from that only numba-cuda's tests need; it stands before the finder of ``bitfusion run``.

The tests and their data are found in the wheel, ``numba.cuda.testing`` is ours, and a few modules of numba-cuda that have a twin in Numba
itself are that twin. Whatever bitfusion offers itself is taken from there.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

TESTS = "numba.cuda.tests"
SUPPORT = "numba.cuda.tests.support"

TWINS = {
    "numba.cuda.core": "numba.core",
    "numba.cuda.core.config": "numba.core.config",
    "numba.cuda.core.errors": "numba.core.errors",
    "numba.cuda.np": "numba.np",
    "numba.cuda.np.numpy_support": "numba.np.numpy_support",
    "numba.cuda.typing": "numba.core.typing",
    "numba.cuda.typing.typeof": "numba.core.typing.typeof",
    "numba.cuda.utils": "numba.core.utils",
}
"""Copies of Numba's own modules in numba-cuda, and the originals. Tests take exceptions, settings and types from them."""


def wheel() -> Path:
    """The directory ``numba/cuda`` of the installed numba-cuda, which is never imported here."""
    spec = importlib.util.find_spec("numba_cuda")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("numba-cuda is not installed: its tests cannot be run", name="numba_cuda")
    return Path(spec.origin).parent / "numba" / "cuda"


class Made:
    """A loader for a module that exists already."""

    def __init__(self, make: object) -> None:
        self._make = make

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = self._make(module.__name__)


class Harness:
    """The finder."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name == "numba.cuda":
            return ModuleSpec(name, Made(numba_cuda))
        if name == "numba.cuda.testing":
            return ModuleSpec(name, Made(lambda name: import_module("numba_harness.testing")))
        if name == TESTS:
            return PathFinder.find_spec(name, [str(wheel())])
        if name == SUPPORT:
            return ModuleSpec(name, Made(support))
        if name.startswith(TESTS + "."):
            return PathFinder.find_spec(name, path)
        if name in TWINS and not is_offered(name):
            return ModuleSpec(name, Made(twin))
        return None


def is_offered(name: str) -> bool:
    """Whether bitfusion has the module itself."""
    from bitfusion.cuda import SUBMODULES

    return name.removeprefix("numba.cuda.") in SUBMODULES


def numba_cuda(name: str) -> ModuleType:
    """``bitfusion.cuda`` with the two names that say how numba-cuda was set up."""
    from bitfusion.cuda import hooked

    module = hooked.module(name)
    if not hasattr(module, "HAS_NUMBA"):
        module.HAS_NUMBA = True
    if not hasattr(module, "config"):
        module.config = import_module("numba.core.config")
    return module


def twin(name: str) -> ModuleType:
    """Numba's own module; a package's is a new one, so that nothing is written into Numba's."""
    original = import_module(TWINS[name])
    if not hasattr(original, "__path__"):
        return original
    module = ModuleType(name)
    module.__path__ = []
    module.__getattr__ = lambda attribute: getattr(original, attribute)
    return module


def support(name: str) -> ModuleType:
    """The tests' own ``support``, with stand-ins for what it imports of the compiler while it is loaded, and only then."""
    from numba_harness import private

    with private.stand_ins():
        spec = PathFinder.find_spec(name, [str(wheel() / "tests")])
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def install() -> None:
    """Take our place before all other finders."""
    sys.meta_path.insert(0, Harness())
