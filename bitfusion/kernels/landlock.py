"""Landlock: a process gives up files, TCP and signals to others, without privileges and for good (Linux 5.13 on; landlock(7)).

The layouts and numbers are those of linux/landlock.h; the system calls have the same numbers on every architecture. Landlock does not
govern whether a path exists, the mode, owner and times of a file, UDP, and descriptors that are open already.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

_READ_FILE, _READ_DIRECTORY = 1 << 2, 1 << 3

_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""How many rights on files a version of the interface knows, bit by bit."""

_NETWORK_RIGHTS = {4: 2}
"""To bind and to connect TCP sockets."""

_SCOPES = {6: 2}
"""Abstract UNIX sockets and signals, to processes outside."""

_libc = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """The kernel's version of the interface; 0 where it has none or disabled, or a container's filter refuses the question (EPERM)."""
    try:
        return _call(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return 0
        raise


def read_only(places: Iterable[str]) -> None:
    """Let the calling thread, and those it will start, read below ``places`` and do nothing else with files. OSError if that fails.

    For a process of one thread: others that run already keep their rights.
    """
    known = version()
    rights = tuple(_all(table, known) for table in (_FILE_RIGHTS, _NETWORK_RIGHTS, _SCOPES))
    attributes = struct.pack("=QQQ", *rights)  # what an older kernel does not know is zero, which it accepts
    rules = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for place in places:
            _allow(rules, place)
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
        _call(_RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, place: str) -> None:
    descriptor = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        beneath = struct.pack("=Qi", _READ_FILE | _READ_DIRECTORY, descriptor)
        _call(_ADD_RULE, rules, _RULE_PATH_BENEATH, beneath, 0)
    finally:
        os.close(descriptor)


def _all(table: dict[int, int], known: int) -> int:
    """Every right of a table that the kernel's version knows."""
    return (1 << max((count for since, count in table.items() if since <= known), default=0)) - 1


def _call(number: int, *arguments: int | bytes | None) -> int:
    """A system call by its number. OSError."""
    words = [ctypes.c_long(each) if isinstance(each, int) else ctypes.c_char_p(each) for each in arguments]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return result
