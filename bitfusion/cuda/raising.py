"""What a kernel raised, as the program's own exception: it is a KernelRaisedError and of the class that the kernel names.

The class is found here, among those that the kernel was captured with and Python's own; what a worker says is only a name.
"""

from __future__ import annotations

import builtins
import functools
import re
from collections.abc import Mapping
from typing import Any

from bitfusion.errors import KernelRaisedError
from bitfusion.kernels.names import EXCEPTIONS


def as_raised(error: KernelRaisedError, captured: Mapping[str, type[Exception]]) -> KernelRaisedError:
    """The error to raise at the launch: ``error`` itself if its class is not known here."""
    name = error.details.get("exception")
    if not isinstance(name, str):
        return error
    own: Any = captured.get(name) or (getattr(builtins, name) if name in EXCEPTIONS else None)
    if own is None:
        return error
    return _joined(own)(_text(error), **error.details)


def _text(error: KernelRaisedError) -> str:
    """Numba's text: where, which thread and block (z, y, x), and what the kernel said."""
    details = error.details
    where = ""
    if details.get("file"):
        where = f"In function {details.get('function')!r}, file {details['file']}, line {details.get('line')}, "
    thread, block = (_reversed(str(details.get(key, ""))) for key in ("thread", "block"))
    said = f": {details['text']}" if details.get("text") else ""
    return f"{where}tid={thread} ctaid={block}{said}"


def _reversed(place: str) -> list[int]:
    """``(x, y, z)`` as Numba writes it."""
    return [int(number) for number in re.findall(r"[0-9]{1,10}", place)][::-1]


@functools.cache
def _joined(own: type) -> type[KernelRaisedError]:
    """The class that is both. The program's own ``__init__`` may take anything, so it is not called."""

    def initialise(self: KernelRaisedError, message: str, /, **details: str | int | float | bool | None) -> None:
        Exception.__init__(self, message)
        self.message, self.details = message, details

    members = {
        "__init__": initialise,
        "__module__": own.__module__,
        "__doc__": own.__doc__,
        "__str__": Exception.__str__,
    }
    try:
        return type(own.__name__, (KernelRaisedError, own), members)
    except TypeError:  # a class that cannot be joined with another, such as one with slots of its own
        return KernelRaisedError
