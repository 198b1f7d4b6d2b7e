"""What kernels call on the host: printf, assert, malloc and free.

Callbacks from any thread; no exception leaves them.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any, Final

from bitfusion.device.virtual.layout import BLOCK
from bitfusion.device.virtual.memory import DeviceMemory
from bitfusion.device.virtual.printf import format_printf
from bitfusion.errors import DeviceMemoryError
from bitfusion.session.output import STDERR, STDOUT, Output
from bitfusion.types import Dim3

_LONG: Final = ctypes.c_int64


class HostFunctions:
    """``addresses``: field of the launch record -> address of the function (``layout.LAUNCH`` gives the arguments)."""

    def __init__(self, memory: DeviceMemory) -> None:
        self._memory = memory
        self._notes: dict[tuple[Dim3, Dim3], str] = {}
        self.output = Output()
        """What kernels have printed."""
        self._lock = threading.Lock()  # of the output: kernels print from every core
        self._callbacks = {
            "printf": _callback(self._printf, 4),
            "assert": _callback(self._assert, 8),
            "malloc": _callback(self._malloc, 2),
            "free": _callback(self._free, 2),
        }
        self.addresses = {
            name: ctypes.cast(callback, ctypes.c_void_p).value or 0 for name, callback in self._callbacks.items()
        }

    def take_note(self, block: Dim3, thread: Dim3) -> str:
        """What the failed assertion of a thread said; those of all others are forgotten."""
        note = self._notes.get((block, thread), "")
        self._notes.clear()
        return note

    def _printf(self, _block: int, template: int, arguments: int, size: int) -> int:
        """How many arguments it took, as CUDA's; -1 where there is no text at ``template``.

        ``size`` is that of the packed arguments where the compiler knows it; where not, they must lie in device memory.
        """
        text = self._memory.string(template)
        if not text:
            return -1 if template == 0 else 0
        packed = ctypes.string_at(arguments, size) if size >= 0 else self._memory.valid_bytes(arguments)
        printed, count = format_printf(text, packed, self._memory.string)
        self._print(STDOUT, printed)
        return count

    def _assert(self, block: int, message: int, file: int, line: int, function: int, x: int, y: int, z: int) -> int:
        """As CUDA, on the standard error of the program."""
        text = self._text
        where, thread = _block_index(block), (x, y, z)
        place, failed = f"{text(file)}:{line}: {text(function)}", f"Assertion `{text(message)}` failed."
        self._notes[where, thread] = f"{place}: {failed}"
        named = f"block: [{where[0]},{where[1]},{where[2]}], thread: [{x},{y},{z}]"
        self._print(STDERR, f"{place}: {named} {failed}\n".encode())
        return 0

    def _text(self, address: int) -> str:
        return self._memory.string(address).decode("utf-8", "replace")

    def _print(self, descriptor: int, text: bytes) -> None:
        with self._lock:
            self.output.add(descriptor, text)

    def _malloc(self, _block: int, size: int) -> int:
        """0 when there is no room, as CUDA's."""
        try:
            return self._memory.system.allocate(size) if size > 0 else 0
        except DeviceMemoryError:
            return 0

    def _free(self, _block: int, address: int) -> int:
        self._memory.system.release(address)
        return 0


def _block_index(block: int) -> Dim3:
    """%ctaid, from the block record at an address."""
    x, y, z = (ctypes.c_int32 * 3).from_address(block + BLOCK["BLOCK_X"])
    return x, y, z


def _callback(function: Callable[..., int], count: int) -> Any:
    """A C function of ``count`` 64-bit integers that calls ``function``."""
    return ctypes.CFUNCTYPE(_LONG, *[_LONG] * count)(function)
