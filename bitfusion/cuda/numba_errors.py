"""What programs catch of Numba's: a kernel's error is also of Numba's class, if the program has imported that; nothing is imported here.

As a module it stands for ``numba.core.errors`` where there is no Numba: the names that programs take from there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bitfusion.errors import KernelCompileError, KernelError, KernelSourceError

MODULES = ("numba.core.errors", "numba.cuda.core.errors")
"""Where Numba's classes are; numba-cuda has its own."""

NumbaError = TypingError = LoweringError = UnsupportedError = NumbaTypeError = NumbaValueError = KernelError


class NumbaWarning(Warning):
    """The root of Numba's warnings."""


class NumbaPerformanceWarning(NumbaWarning):
    """Small grids, and host arrays in launches (warned.py)."""


class NumbaDeprecationWarning(NumbaWarning):
    """Never given here."""


class NumbaInvalidConfigWarning(NumbaWarning):
    """Options that exclude each other."""


@contextmanager
def also_numbas() -> Iterator[None]:
    """Within it, an error of a kernel becomes one of Numba's as well."""
    try:
        yield
    except (KernelCompileError, KernelSourceError) as error:
        raise as_numbas(error) from None


def as_numbas(error: KernelError) -> KernelError:
    """The error with Numba's classes of the same name beside its own: TypingError where it has none."""
    name = error.details.get("exception")
    found = [_class(module, name if isinstance(name, str) else "TypingError") for module in MODULES]
    bases = tuple(dict.fromkeys(item for item in found if item is not None))
    if not bases or isinstance(error, bases):
        return error
    joined = type(type(error).__name__, (type(error), *bases), {"__init__": _initialise, "__str__": Exception.__str__})
    made: KernelError = joined(error.message, **error.details)
    return made


def _class(module: str, name: str) -> Any:
    """A class of Numba's: of its own tree, whatever the worker says. None where the module is not there."""
    loaded = sys.modules.get(module)
    root = getattr(loaded, "NumbaError", None)
    for word in (name, "TypingError"):
        found = getattr(loaded, word, None)
        if isinstance(root, type) and isinstance(found, type) and issubclass(found, root):
            return None if issubclass(found, KernelError) else found
    return None


def _initialise(self: Any, message: str, /, **details: Any) -> None:
    """As a KernelError; Numba's own would write the message anew."""
    Exception.__init__(self, message)
    self.message, self.details = message, details
    self.msg, self.loc, self._contexts = message, None, []


def warning(name: str) -> type[Warning]:
    """The class of warnings of this name: Numba's own where it has been imported."""
    places = [vars(sys.modules[module]) for module in MODULES if module in sys.modules]
    found: type[Warning] = next(place[name] for place in [*places, globals()] if name in place)
    return found
