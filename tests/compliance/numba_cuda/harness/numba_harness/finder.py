"""Where the modules come from that only numba-cuda's tests need; it stands before the finder of ``bitfusion run``.

The tests and their data are found in the wheel, ``numba.cuda.testing`` is ours, and a few modules of numba-cuda that have a twin in Numba
itself are that twin. Whatever bitfusion offers itself is taken from there. For the rest, which is the inside of numba-cuda, there are
modules whose names can be imported and not used, so that only those tests of a module fail that use them.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from numba_harness import private

TESTS = "numba.cuda.tests"
SUPPORT = "numba.cuda.tests.support"
SUPPORT_OF_NUMPY = "numba.cuda.np.numpy_support"
EXTENSIONS = "numba.cuda.tests.cudapy.extensions_usecases"
"""Registers a type in the compiler as it is loaded, for a few tests of the modules that import it."""

TWINS = {
    "numba.cuda.core": "numba.core",
    "numba.cuda.core.config": "numba.core.config",
    "numba.cuda.core.errors": "numba.core.errors",
    "numba.cuda.misc": "numba.misc",
    "numba.cuda.misc.special": "numba.misc.special",
    "numba.cuda.np": "numba.np",
    "numba.cuda.typing": "numba.core.typing",
    "numba.cuda.typing.typeof": "numba.core.typing.typeof",
    "numba.cuda.utils": "numba.core.utils",
}
"""Copies of Numba's own modules in numba-cuda, and the originals. Tests take exceptions, settings and types from them."""

SETTINGS = ("CUDA_DEBUG_POLY", "CUDA_DEBUG_POLY_USE_TYPED_CONST", "CUDA_ENABLE_NRT", "CUDA_NRT_STATS")
"""What numba-cuda's config has and Numba's has not."""

ATTRIBUTES = ("cgutils", "compiler", "itanium_mangler", "launchconfig", "typing", "utils")
"""Modules of the inside that tests take as attributes of ``numba.cuda``."""


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
        if name == SUPPORT_OF_NUMPY:
            return ModuleSpec(name, Made(numpy_support))
        if name == EXTENSIONS:
            return ModuleSpec(name, Made(private.module))
        if name.startswith(TESTS + "."):
            return PathFinder.find_spec(name, path)
        if name.startswith("numba.cuda."):
            make = offered if is_offered(name) else twin if name in TWINS else private.module
            return ModuleSpec(name, Made(make))
        return None


def is_offered(name: str) -> bool:
    """Whether bitfusion has the module itself."""
    from bitfusion.cuda import hooked

    try:
        hooked.module(name)
    except ModuleNotFoundError:
        return False
    return True


def numba_cuda(name: str) -> ModuleType:
    """``bitfusion.cuda`` with what the tests take from numba-cuda's own: its settings, and modules of its inside."""
    from bitfusion.cuda import hooked

    module = hooked.module(name)
    config = import_module("numba.core.config")
    for setting in SETTINGS:
        vars(config).setdefault(setting, 0)
    module.config = config
    more = {"HAS_NUMBA": True}
    more |= {inside: private.module(f"{name}.{inside}") for inside in ATTRIBUTES}
    for attribute, value in more.items():
        if not hasattr(module, attribute):
            setattr(module, attribute, value)
    return module


def offered(name: str) -> ModuleType:
    """Bitfusion's own module; what numba-cuda's has besides can be imported from it, and not used."""
    from bitfusion.cuda import hooked

    module = hooked.module(name)
    own = vars(module).get("__getattr__")

    def find(attribute: str) -> object:
        if own is not None:
            try:
                return own(attribute)
            except AttributeError:
                pass
        return private.name_of(name, attribute)

    module.__getattr__ = find
    return module


def twin(name: str) -> ModuleType:
    """Numba's own module; a package's is a new one, so that nothing is written into Numba's."""
    original = import_module(TWINS[name])
    if not hasattr(original, "__path__"):
        return original
    module = ModuleType(name)
    module.__path__ = []

    def find(attribute: str) -> object:
        inside = f"{name}.{attribute}"
        return import_module(inside) if inside in (*TWINS, SUPPORT_OF_NUMPY) else getattr(original, attribute)

    module.__getattr__ = find
    return module


def numpy_support(name: str) -> ModuleType:
    """Numba's own, but for our types: ``from_dtype`` makes them, and ``as_dtype`` takes them too."""
    from bitfusion.kernels import types

    original = import_module("numba.np.numpy_support")

    def as_dtype(kind: object) -> object:
        return getattr(kind, "dtype", None) if isinstance(kind, types.Type) else original.as_dtype(kind)

    module = ModuleType(name)
    vars(module).update(vars(original) | {"from_dtype": types.from_dtype, "as_dtype": as_dtype})
    return module


def support(name: str) -> ModuleType:
    """The tests' own ``support``, which asks one thing of the compiler's inside when it is loaded: whether cffi is there."""
    cffi = import_module("numba.cuda.typing.cffi_utils")
    if not hasattr(cffi, "ffi"):
        cffi.SUPPORTED = importlib.util.find_spec("cffi") is not None
    spec = PathFinder.find_spec(name, [str(wheel() / "tests")])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def install() -> None:
    """Take our place before all other finders."""
    sys.meta_path.insert(0, Harness())
