"""What numba.cuda has for one machine with its own GPU, and a leased GPU cannot have: each says why when it is used.

The classes can be named and derived from, so that a module that only defines a memory manager can still be imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NoReturn

from bitfusion.errors import UnsupportedError

IPC = "memory of a leased GPU cannot be shared between processes: each has a session of its own; copy it to the host and send that"
MANAGER = "memory of a leased GPU is managed by the session and the appliance; a memory manager of this process cannot reach it"
PEER = "a session leases one GPU, so there is no peer to reach from it"
IMAGE = "modules are loaded by the session: bitfusion.connect() gives a client, and client.load_module(image) a module of PTX"
POINTER = "host memory is made by pinned_array, mapped_array and managed_array, not by this class"


def refuse(reason: str, feature: str) -> NoReturn:
    """UnsupportedError."""
    raise UnsupportedError(reason, feature=feature)


def set_memory_manager(mm_plugin: Any) -> NoReturn:
    """UnsupportedError."""
    refuse(MANAGER, "memory managers")


class BaseCUDAMemoryManager:
    """UnsupportedError when it is made."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        refuse(MANAGER, "memory managers")


class HostOnlyCUDAMemoryManager(BaseCUDAMemoryManager):
    """UnsupportedError when it is made."""


class GetIpcHandleMixin:
    """UnsupportedError when it is used."""

    def get_ipc_handle(self, memory: Any) -> NoReturn:
        """UnsupportedError."""
        refuse(IPC, "IPC")


class IpcHandle:
    """UnsupportedError when it is made."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        refuse(IPC, "IPC")


@contextlib.contextmanager
def open_ipc_array(handle: Any, shape: Any, dtype: Any, strides: Any = None, offset: int = 0) -> Iterator[Any]:
    """UnsupportedError when the block is entered."""
    refuse(IPC, "IPC")
    yield


class PinnedMemory:
    """UnsupportedError when it is made."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        refuse(POINTER, "host memory")


class MappedMemory(PinnedMemory):
    """UnsupportedError when it is made."""
