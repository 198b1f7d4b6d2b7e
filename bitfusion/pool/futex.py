"""A futex: a word in shared memory on which processes wait until another changes it (futex(2)). No polling, and no descriptor each."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
from typing import Final

_SYSCALL: Final = {"x86_64": 202, "aarch64": 98}
"""``__NR_futex`` (the kernel's unistd headers)."""

_WAIT, _WAKE = 0, 1
_ALL: Final = 2**31 - 1

_libc = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64))


class Futex:
    """The 32-bit word at ``offset`` of a shared mapping. OSError (ENOSYS) on a machine whose system call we do not know."""

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        number = _SYSCALL.get(platform.machine())
        if number is None:
            raise OSError(errno.ENOSYS, f"no futex is known for {platform.machine()}")
        self._number = number
        self._word: ctypes.c_uint32 | None = ctypes.c_uint32.from_buffer(memory, offset)

    @property
    def value(self) -> int:
        """The word now."""
        assert self._word is not None
        return self._word.value

    def add(self) -> None:
        """Change the word, so that who looked before does not fall asleep; only one process at a time may."""
        assert self._word is not None
        self._word.value = self._word.value + 1 & 0xFFFFFFFF

    def wake(self) -> None:
        """Wake all who wait."""
        self._call(_WAKE, _ALL, None)

    def wait(self, seen: int, timeout_ns: int) -> None:
        """Sleep while the word is ``seen``, for at most ``timeout_ns`` nanoseconds. May return early: look again."""
        self._call(_WAIT, seen, _Timespec(*divmod(max(timeout_ns, 1), 1_000_000_000)))

    def _call(self, operation: int, value: int, timeout: _Timespec | None) -> None:
        assert self._word is not None
        result = _libc.syscall(
            ctypes.c_long(self._number),
            ctypes.byref(self._word),
            ctypes.c_int(operation),
            ctypes.c_uint32(value),
            None if timeout is None else ctypes.byref(timeout),
            None,
            ctypes.c_int(0),
        )
        number = ctypes.get_errno()
        if result < 0 and number not in (errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT):
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Let go of the mapping, which could not be closed otherwise."""
        self._word = None
