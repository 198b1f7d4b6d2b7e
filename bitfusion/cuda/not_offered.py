"""Attributes of numba.cuda's objects that mean something there and are not offered here: they say so, and ``hasattr`` says no."""

from __future__ import annotations

from typing import NoReturn


class NotOffered:
    """In a class: asking for it raises AttributeError with where to look."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._what = f"{owner.__name__}.{name}"

    def __get__(self, instance: object, owner: type | None = None) -> NoReturn:
        raise AttributeError(f"{self._what} is not offered on a leased GPU; docs/guide/cuda.md lists what is")
