"""Stand-ins for the inside of numba-cuda's compiler, for the one module of the tests that imports it and hardly uses it (``support``)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

NAMES = {
    "numba.cuda.typing.cffi_utils": {"SUPPORTED": importlib.util.find_spec("cffi") is not None},
    "numba.cuda.memory_management": {},
    "numba.cuda.memory_management.nrt": {},
    "numba.cuda.extending": {},
    "numba.cuda.core.pythonapi": {},
    "numba.cuda.datamodel": {},
    "numba.cuda.datamodel.models": {},
}
"""The modules, and what of them is needed when ``support`` is loaded."""


class Private:
    """A name whose use is an error that says why."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _refuse(self, *_: object, **__: object) -> None:
        raise NotImplementedError(f"{self._name} belongs to the inside of numba-cuda's compiler")

    __call__ = _refuse

    def __getattr__(self, attribute: str) -> None:
        self._refuse()


@contextmanager
def stand_ins() -> Iterator[None]:
    """Put those in ``sys.modules`` that are not there, for the block."""
    put = [name for name in NAMES if name not in sys.modules]
    for name in put:
        sys.modules[name] = _module(name)
    try:
        yield
    finally:
        for name in put:
            sys.modules.pop(name, None)


def _module(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = []
    vars(module).update(NAMES[name])

    def find(attribute: str) -> Private:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return Private(f"{name}.{attribute}")

    module.__getattr__ = find
    return module
