"""Modules for the inside of numba-cuda: their names can be imported, and using one is an error."""

from __future__ import annotations

from types import ModuleType


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


def module(name: str) -> ModuleType:
    """The module ``name``, with every name that is asked for."""
    made = ModuleType(name)
    made.__path__ = []

    def find(attribute: str) -> Private:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return Private(f"{name}.{attribute}")

    made.__getattr__ = find
    return made
