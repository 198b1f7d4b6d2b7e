"""GPUs for the pool's tests."""

from __future__ import annotations

from bitfusion.limits import GIB
from bitfusion.types import DeviceSpec


def gpu(index: int, size: int = GIB) -> DeviceSpec:
    """A virtual GPU with ``size`` bytes."""
    return DeviceSpec("virtual", index, "Virtual GPU", f"GPU-virtual-{index:04d}", size)


def gpus(*sizes: int) -> list[DeviceSpec]:
    """One of each size."""
    return [gpu(index, size) for index, size in enumerate(sizes)]
