"""Modules for the inside of numba-cuda: their names can be imported, and using one is an error, but for those that are public elsewhere."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace


class NotPublicError(Exception):
    """A test uses what no manual of Numba documents, and there is nothing like it here."""


class Private:
    """A name of such a module."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _refuse(self, *_: object, **__: object) -> None:
        raise NotPublicError(f"{self._name} belongs to the inside of numba-cuda")

    __call__ = __getitem__ = __enter__ = __mro_entries__ = __or__ = _refuse

    def __getattr__(self, attribute: str) -> None:
        self._refuse()


PUBLIC = ("numba.cuda.args", "numba.cuda.compiler", "numba.cuda.cudadrv.linkable_code")
"""Modules some of whose names ``numba.cuda`` offers itself."""


class NoLeaks:
    """Numba's reference counting, for tests of other things that also look for leaks: nothing is counted, so nothing leaks."""

    memsys_enable_stats = memsys_disable_stats = staticmethod(lambda: None)

    @staticmethod
    def get_allocation_stats() -> SimpleNamespace:
        return SimpleNamespace(alloc=0, free=0, mi_alloc=0, mi_free=0)


def module(name: str) -> ModuleType:
    """The module ``name``, with every name that is asked for."""
    made = ModuleType(name)
    made.__path__ = []
    if name == "numba.cuda.memory_management.nrt":
        made.rtsys = NoLeaks()

    made.__getattr__ = lambda attribute: name_of(name, attribute)
    return made


def name_of(module: str, attribute: str) -> object:
    """A name of a module: the public one, where ``numba.cuda`` has it, else one that cannot be used."""
    if attribute.startswith("__"):
        raise AttributeError(attribute)
    if module in PUBLIC:
        from bitfusion import cuda

        if attribute in cuda.__all__:
            return getattr(cuda, attribute)
    return Private(f"{module}.{attribute}")
