"""What kernels call on the host: printf, assert, malloc and free.

Callbacks from any thread; no exception leaves them.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from typing import Any, Final

from bitfusion.device.virtual.memory import DeviceMemory
from bitfusion.device.virtual.printf import format_printf
from bitfusion.errors import DeviceMemoryError
from bitfusion.limits import MIB

log = logging.getLogger(__name__)

_LONG: Final = ctypes.c_int64


PRINTED_SIZE_MAX: Final = 64 * MIB
"""Characters that the kernels of one device may print: what they write lands in the appliance's log."""


class HostFunctions:
    """``addresses``: field of the launch record -> address of the function (``layout.LAUNCH`` gives the arguments)."""

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._note = ""
        self._printed = 0
        self._callbacks = {
            "printf": _callback(self._printf, 3),
            "assert": _callback(self._assert, 5),
            "malloc": _callback(self._malloc, 2),
            "free": _callback(self._free, 2),
        }
        self.addresses = {
            name: ctypes.cast(callback, ctypes.c_void_p).value or 0 for name, callback in self._callbacks.items()
        }

    def take_note(self) -> str:
        """What the last failed assertion said, once."""
        note, self._note = self._note, ""
        return note

    def _printf(self, _block: int, template: int, arguments: int) -> int:
        """To the standard output of this process, as CUDA does; flushed, because a worker ends without cleaning up."""
        if self._printed > PRINTED_SIZE_MAX:
            return -1
        try:
            text = format_printf(self._memory.string(template), arguments, self._memory.string)
            print(text, end="", flush=True)
        except (
            ValueError,
            OverflowError,
            OSError,
        ) as error:  # a %c beyond Unicode; a letter that the output cannot encode
            text = f"! a kernel's printf cannot be formatted: {error}"
            log.warning("%s", text)
        self._printed += len(text)
        if self._printed > PRINTED_SIZE_MAX:
            log.warning("! kernels of this device have printed %d characters; what follows is dropped", self._printed)
        return 0

    def _assert(self, _block: int, message: int, file: int, line: int, function: int) -> int:
        text = self._memory.string
        self._note = f"{text(file)}:{line}: {text(function)}: Assertion `{text(message)}` failed."
        return 0

    def _malloc(self, _block: int, size: int) -> int:
        """0 when there is no room, as CUDA's."""
        try:
            return self._memory.system.allocate(size) if size > 0 else 0
        except DeviceMemoryError:
            return 0

    def _free(self, _block: int, address: int) -> int:
        self._memory.system.release(address)
        return 0


def _callback(function: Callable[..., int], count: int) -> Any:
    """A C function of ``count`` 64-bit integers that calls ``function``."""
    return ctypes.CFUNCTYPE(_LONG, *[_LONG] * count)(function)
