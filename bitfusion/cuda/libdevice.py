"""CUDA's libdevice functions, for kernels (numba.cuda.libdevice)."""

from __future__ import annotations

from bitfusion.cuda.device_names import DeviceName, member


def __getattr__(name: str) -> DeviceName:
    return member(__name__, name)
