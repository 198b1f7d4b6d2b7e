"""Arithmetic of half precision numbers, for kernels (numba.cuda.fp16)."""

from __future__ import annotations

from bitfusion.cuda.device_names import DeviceName, member


def __getattr__(name: str) -> DeviceName:
    return member(__name__, name)
