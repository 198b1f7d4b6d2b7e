"""Opens the device a spec names, importing only the back end that it needs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from bitfusion.device.base import Device
from bitfusion.errors import ConfigError
from bitfusion.types import DeviceSpec, KernelRules

DEFAULT_RULES = KernelRules()


def open_device(spec: DeviceSpec, *, cache_dir: Path | None, rules: KernelRules = DEFAULT_RULES) -> Device:
    """The opened device. ``cache_dir`` is for a virtual GPU's compiled code, ``rules`` for its kernels. DeviceError if it does not open."""
    match spec.kind:
        case "null":
            from bitfusion.device.null import NullDevice

            return cast(Device, NullDevice(spec))
        case "virtual":
            from bitfusion.device.virtual.device import VirtualDevice
            from bitfusion.device.virtual.layout import checking

            return cast(
                Device, VirtualDevice(spec, cache_dir, options=checking(rules.check), timeout_s=rules.timeout_s)
            )
        case "cuda":
            from bitfusion.device.cuda import CudaDevice

            return cast(Device, CudaDevice(spec))
        case _:
            raise ConfigError(f"{spec.kind!r} is not a kind of device")


def warm(kind: str, cache_dir: Path | None) -> None:
    """Import and prepare what workers of this kind share; opens no device and starts no thread."""
    match kind:
        case "virtual":
            from bitfusion.device.virtual.device import warm as warm_virtual

            warm_virtual(cache_dir)
        case "cuda":
            import bitfusion.device.cuda  # noqa: F401 (imported for the workers)
