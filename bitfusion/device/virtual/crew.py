"""The threads that run blocks beside the launching one.

They are the system's own threads, not Python's: they wait and work in machine code.
"""

from __future__ import annotations

import ctypes
import signal
from typing import Final

from bitfusion.device.virtual.mapping import Mapping
from bitfusion.device.virtual.records import SEMAPHORE_SIZE, Worker
from bitfusion.limits import MIB

STACK_SIZE: Final = 16 * MIB
"""Of a worker; touched as needed. Local variables of a CUDA thread are at most 512 KiB, the rest is for recursion."""

_ATTRIBUTES_SIZE: Final = 256
"""More than a pthread_attr_t takes anywhere (56 bytes in glibc)."""

_libc = ctypes.CDLL(None)
_libc.pthread_create.argtypes = [ctypes.c_void_p] * 4
_libc.pthread_join.argtypes = [ctypes.c_size_t, ctypes.c_void_p]
_libc.sem_init.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint]
_libc.sem_post.argtypes = [ctypes.c_void_p]
_libc.pthread_attr_setstacksize.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

_OFFSETS: Final = Worker.offsets
assert _OFFSETS["done"] - _OFFSETS["work"] == SEMAPHORE_SIZE


class Crew:
    """Up to ``wanted`` worker threads (``count``: as many as the system allows).

    ``address``: their ``records.Worker``, in a row.
    """

    def __init__(self, serve: int, wanted: int) -> None:
        self._records = Mapping(max(wanted, 1) * Worker.size)
        self.address = self._records.address
        self._threads: list[int] = []
        attributes = ctypes.create_string_buffer(_ATTRIBUTES_SIZE)
        _libc.pthread_attr_init(attributes)
        _libc.pthread_attr_setstacksize(attributes, STACK_SIZE)
        # signals are Python's main thread's: here they would only be noted, and its system calls not interrupted
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            for index in range(wanted):
                if not self._start(index, serve, attributes):
                    break
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            _libc.pthread_attr_destroy(attributes)
        self.count = len(self._threads)

    def _start(self, index: int, serve: int, attributes: ctypes.Array[ctypes.c_char]) -> bool:
        """Start one worker; whether the system allowed it."""
        for semaphore in ("work", "done"):
            _libc.sem_init(self._field(index, semaphore), 0, 0)
        ctypes.c_int64.from_address(self._field(index, "index")).value = index + 1
        thread = ctypes.c_size_t()
        if _libc.pthread_create(ctypes.byref(thread), attributes, serve, self._field(index, "launch")):
            return False
        self._threads.append(thread.value)
        return True

    def give_blocks(self, index: int, address: int) -> None:
        """Memory for the blocks that worker ``index`` holds."""
        ctypes.c_int64.from_address(self._field(index, "blocks")).value = address

    def _field(self, index: int, name: str) -> int:
        return self.address + index * Worker.size + _OFFSETS[name]

    def close(self) -> None:
        """End the threads; none may be running a block."""
        for index in range(self.count):
            ctypes.c_int32.from_address(self._field(index, "stop")).value = 1
            _libc.sem_post(self._field(index, "work"))
        for thread in self._threads:
            _libc.pthread_join(thread, None)
        self._threads.clear()
        self._records.close()
