"""bitfusion: GPUs over the network. ``connect`` leases one; ``from bitfusion import cuda`` is numba.cuda on it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from bitfusion.version import __version__

if TYPE_CHECKING:
    from bitfusion import aio, cuda, errors
    from bitfusion.client.array import DeviceArray
    from bitfusion.client.client import Client, connect
    from bitfusion.errors import BitfusionError

__all__ = ["BitfusionError", "Client", "DeviceArray", "__version__", "aio", "connect", "cuda", "errors"]

_HOMES = {
    "BitfusionError": "bitfusion.errors",
    "Client": "bitfusion.client.client",
    "DeviceArray": "bitfusion.client.array",
    "connect": "bitfusion.client.client",
}
_MODULES = frozenset({"aio", "cuda", "errors"})


def __getattr__(name: str) -> object:
    """Public names are imported when they are first asked for: ``import bitfusion`` costs nothing."""
    if name in _MODULES:
        return import_module(f"bitfusion.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bitfusion' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
