"""What kernels compiled with ``debug`` may raise: Numba numbers the exceptions, and this decides the numbers and keeps the list.

A raise on the GPU stores its number in a variable of the module and ends the thread. Numba numbers the exceptions of each function from
one, and a device function's number is taken for one of the kernel that called it. Here all functions of a compile share one list,
and a number follows from the exception and its place, so that code which Numba keeps between compiles has no other exception's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

from numba.cuda.core.callconv import MinimalCallConv, _MinimalCallHelper

from bitfusion.kernels.cache import Raised

TEXT_SIZE_MAX = 1024
"""Characters of an exception's text; a raise is a line of a program."""

NUMBER_MIN = 1 << 30
"""Numbers from here to 2**31 - 1 are positive 32-bit integers, as those of Numba's own users are (FIRST_USEREXC)."""


class _List(_MinimalCallHelper):  # type: ignore[misc]  # numba-cuda has no types
    """Numba's helper of one function, as that of all functions of a compile."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, Raised] = {}

    def _add_exception(self, exc: type[BaseException] | None, exc_args: tuple[Any, ...] | None, locinfo: Any) -> int:
        """The number of an exception. ``locinfo`` is (function, file, line), None where Numba does not know the place."""
        arguments = exc_args or ()
        text = str(arguments[0]) if len(arguments) == 1 else ", ".join(map(repr, arguments))
        function, file, line = locinfo or ("", "", 0)
        raised = Raised(exc.__name__ if exc else "Exception", text[:TEXT_SIZE_MAX], function, file, line)
        number = crc32(repr(raised).encode()) % NUMBER_MIN + NUMBER_MIN
        self.found[number] = raised
        return number


@contextmanager
def listed(wanted: bool) -> Iterator[dict[int, Raised]]:
    """Within it, what Numba compiles adds its exceptions to the list, if that is ``wanted``. One compile at a time, under Numba's lock."""
    if not wanted:
        yield {}
        return
    made, numbers = MinimalCallConv._make_call_helper, _List()
    MinimalCallConv._make_call_helper = lambda convention, builder: numbers
    try:
        yield numbers.found
    finally:
        MinimalCallConv._make_call_helper = made
