"""A kernel's parameters: how many values a launch gives it, which of them a ``*args`` takes, and what messages call them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from bitfusion.errors import KernelTypeError
from bitfusion.kernels.typeof import typeof
from bitfusion.kernels.types import Type


class Parameters:
    """Those of one kernel. ``*args`` is one parameter, the last, and a tuple."""

    __slots__ = ("_kernel", "_names", "_star")

    def __init__(self, kernel: Callable[..., Any]) -> None:
        code = kernel.__code__
        self._kernel = kernel.__qualname__
        self._star = bool(code.co_flags & inspect.CO_VARARGS)
        self._names = code.co_varnames[: code.co_argcount]
        if self._star:
            self._names += (code.co_varnames[code.co_argcount + code.co_kwonlyargcount],)

    def taken(self, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """The values by parameter. KernelTypeError if there are too few or too many."""
        count = len(self._names) - self._star
        if len(values) < count or (len(values) > count and not self._star):
            takes = f"{'at least ' * self._star}{count} argument{'s' * (count != 1)}"
            given = "1 was" if len(values) == 1 else f"{len(values)} were"
            raise KernelTypeError(f"{self._kernel} takes {takes}, {given} given")
        return (*values[:count], values[count:]) if self._star else values

    def types(self, values: Sequence[Any]) -> list[Type]:
        """The type of each. KernelTypeError names the one that has none."""
        found: list[Type] = []
        for value in values:
            try:
                found.append(typeof(value))
            except KernelTypeError as error:
                index = len(found)
                raise KernelTypeError(f"{self._called(index)}: {error.message}", argument=index) from None
        return found

    def named(self, unfit: KernelTypeError) -> KernelTypeError:
        """The packer's error for an argument, with the names of the kernel and of the parameter."""
        details: dict[str, Any] = unfit.details
        called = self._called(details["argument"])
        return KernelTypeError(f"{called} must be {details['expected']}, not {details['given']}", **details)

    def _called(self, index: int) -> str:
        return f"{self._kernel}: argument {index + 1} ({self._names[index]})"
