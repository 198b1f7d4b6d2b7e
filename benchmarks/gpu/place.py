"""Where a part is measured: an appliance of its own with the devices asked for, and leases on them."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bitfusion.client.client import Client, connect
from bitfusion.client.embedded import Appliance
from bitfusion.device.discovery import discover
from bitfusion.limits import MIB

LEASE_MAX = 4096 * MIB
"""Bytes of a lease: room for the largest copies and allocations, and for others on the GPU."""


class Place:
    """An appliance as long as the block lasts. ``cuda``: on a real GPU, so there are floors in this process."""

    def __init__(self, devices: str, *, quick: bool) -> None:
        self.quick = quick
        self.spec = discover(devices)[0]
        self.cuda = self.spec.kind == "cuda"
        self._devices = devices

    def __enter__(self) -> Place:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bitfusion-gpu-")))
            self._appliance = Appliance(self._devices, self.folder / "state")
            stack.callback(self._appliance.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @property
    def address(self) -> str:
        """The appliance's."""
        return str(self._appliance.target)

    def client(self) -> Client:
        """A lease: half of the GPU, at most LEASE_MAX."""
        return connect(self.address, memory=min(self.spec.memory_size // 2, LEASE_MAX), timeout=60)


def rounded(value: Any) -> Any:
    """The figures with four significant digits, in whatever they are held."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value
