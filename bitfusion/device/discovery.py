"""Which GPUs an appliance offers: reads the ``--devices`` option and looks for NVIDIA GPUs.

Runs in the daemon, so it asks NVML (which opens no CUDA context) and never CUDA. Opens no device: workers do that.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from bitfusion.errors import ConfigError
from bitfusion.limits import GIB, MEMORY_CHUNK_SIZE
from bitfusion.types import DeviceSpec, ServerSpec, format_size, parse_size

log = logging.getLogger(__name__)

T = TypeVar("T")

VIRTUAL_COUNT_MAX = 64
"""Virtual GPUs of one appliance: each worker of one brings a thread per core."""

VIRTUAL_MEMORY_DEFAULT = 4 * GIB
"""Memory of a virtual GPU nobody has sized, where the machine has twice as much."""

VIRTUAL_CAPABILITY = (8, 0)
"""What virtual/device.py tells of a virtual GPU (a test holds the two together); importing that takes the compiler's time."""

NULL_MEMORY = 64 * GIB
"""What the null device claims to have; it holds nothing. More than any virtual GPU, so that packing takes it last."""

FORM = "write auto, cuda, null, virtual or virtual:COUNTxMEMORY (such as virtual:2x4GiB), several with commas between"

INFINIBAND = Path("/sys/class/infiniband")
"""Where Linux lists network cards that do RDMA, RoCE ones as well."""

INSTALL = "install bitfusion with its extra {!r} (README.md, Install)"
"""True for a clone and for a package index; which of the two it was, nobody here knows."""

COMPILERS = ("llvmlite", "numba", "numba_cuda")
"""What an appliance needs to make anything run on a GPU that it offers; a bare client has none of it."""

_VIRTUAL = re.compile(r"([0-9]{1,9})x(.+)", re.IGNORECASE)


def discover(spec: str) -> list[DeviceSpec]:
    """The devices that ``spec`` names, in its order; ConfigError says what is wrong with it.

    ``auto`` is the machine's NVIDIA GPUs, or one virtual GPU where there are none.
    """
    devices: list[DeviceSpec] = []
    for part in spec.split(","):
        found = _devices(part.strip(), spec)
        if any(device.kind == found[0].kind for device in devices):
            raise ConfigError(f"--devices {spec!r} names {found[0].kind} GPUs twice; {FORM}")
        devices += found
    if any(device.kind != "null" for device in devices):
        check_compilers()
    return devices


def check_compilers() -> None:
    """ConfigError where kernels could not be compiled here; only looks, and imports nothing."""
    missing = [name for name in COMPILERS if not _is_installed(name)]
    if missing:
        raise ConfigError(
            f"an appliance needs {', '.join(missing)}, which this Python does not have: {INSTALL.format('server')}; "
            "to use another machine's appliance instead, name it (--server HOST:PORT, or BITFUSION_SERVER)"
        )


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (
        ModuleNotFoundError,
        ValueError,
    ):  # no parent package; the stand-in for numba under `bitfusion run`, which has no spec
        return False


def _devices(part: str, spec: str) -> list[DeviceSpec]:
    kind, colon, rest = part.partition(":")
    match kind, colon:
        case "auto", "":
            gpus, reason = find_gpus()
            if not gpus:
                log.info("no NVIDIA GPUs (%s): a virtual GPU takes their place", reason)
            return gpus or virtual_gpus(1, virtual_memory_default())
        case "cuda", "":
            gpus, reason = find_gpus()
            if not gpus:
                raise ConfigError(
                    f"--devices {spec!r}: no NVIDIA GPU can be offered: {reason}; --devices auto offers a virtual one"
                )
            return gpus
        case "null", "":
            return [DeviceSpec("null", 0, "Null device", "GPU-null-0000", NULL_MEMORY)]
        case "virtual", "":
            return virtual_gpus(1, virtual_memory_default())
        case "virtual", ":":
            return _sized_virtual(rest, spec)
        case _:
            raise ConfigError(f"--devices {spec!r}: {part!r} is not known; {FORM}")


def _sized_virtual(text: str, spec: str) -> list[DeviceSpec]:
    """``COUNTxMEMORY`` as virtual GPUs."""
    match = _VIRTUAL.fullmatch(text)
    if match is None:
        raise ConfigError(f"--devices {spec!r}: {text!r} is not COUNTxMEMORY; {FORM}")
    try:
        count, size = int(match[1]), parse_size(match[2]) // MEMORY_CHUNK_SIZE * MEMORY_CHUNK_SIZE
    except ConfigError as error:
        raise ConfigError(f"--devices {spec!r}: {error.message}") from None
    if not 1 <= count <= VIRTUAL_COUNT_MAX:
        raise ConfigError(f"--devices {spec!r}: an appliance has 1 to {VIRTUAL_COUNT_MAX} virtual GPUs, not {count}")
    if not size:
        raise ConfigError(
            f"--devices {spec!r}: a virtual GPU needs at least {format_size(MEMORY_CHUNK_SIZE)} of memory"
        )
    return virtual_gpus(count, size)


def virtual_gpus(count: int, memory_size: int) -> list[DeviceSpec]:
    """``count`` virtual GPUs with ``memory_size`` bytes each; the same numbers give the same names."""
    return [
        DeviceSpec("virtual", index, "Virtual GPU", f"GPU-virtual-{index:04d}", memory_size, VIRTUAL_CAPABILITY)
        for index in range(count)
    ]


def virtual_memory_default() -> int:
    """VIRTUAL_MEMORY_DEFAULT, or half of a smaller machine's memory."""
    return min(VIRTUAL_MEMORY_DEFAULT, machine_memory() // 2 // MEMORY_CHUNK_SIZE * MEMORY_CHUNK_SIZE)


def machine_memory() -> int:
    """Bytes of this machine's memory, in which virtual GPUs live."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def find_gpus() -> tuple[list[DeviceSpec], str]:
    """The NVIDIA GPUs that can be offered, and where there are none, why."""
    try:
        return _with_nvml(_list_gpus)
    except UnreachableDriverError as error:
        return [], str(error)


def find_server(hostname: str, addr: str, devices: Iterable[DeviceSpec]) -> ServerSpec:
    """What this machine is, for requests that filter by it; NVIDIA's driver is asked where its GPUs are offered."""
    known = None if ip_address(addr).is_unspecified else addr
    spec = ServerSpec(hostname, known, has_rdma=INFINIBAND.is_dir() and any(INFINIBAND.iterdir()))
    if all(device.kind != "cuda" for device in devices):
        return spec
    try:
        cuda, driver = _with_nvml(
            lambda nvml: (nvml.nvmlSystemGetCudaDriverVersion_v2(), nvml.nvmlSystemGetDriverVersion())
        )
    except UnreachableDriverError:
        return spec
    return replace(spec, cuda_version=f"{cuda // 1000}.{cuda % 1000 // 10}", driver_version=driver)


class UnreachableDriverError(Exception):
    """NVML does not answer; says why."""


def _with_nvml(ask: Callable[[Any], T]) -> T:
    try:
        nvml: Any = importlib.import_module("pynvml")  # of nvidia-ml-py: no types, and only an appliance needs it
    except ImportError:
        missing = f"the package nvidia-ml-py is not installed: {INSTALL.format('cuda')}"
        raise UnreachableDriverError(missing) from None
    try:
        nvml.nvmlInit()
        try:
            return ask(nvml)
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError as error:
        raise UnreachableDriverError(f"NVML: {error}") from None


def _list_gpus(nvml: Any) -> tuple[list[DeviceSpec], str]:
    """Every GPU that NVML lists and MIG does not split: the parts are devices of their own, opened in another way."""
    devices, reasons = [], []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = nvml.nvmlDeviceGetName(handle)
        if _mig_enabled(nvml, handle):
            reasons.append(f"GPU {index} ({name}) is in MIG mode, which this version does not lease")
            continue
        size = nvml.nvmlDeviceGetMemoryInfo(handle).total
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        devices.append(DeviceSpec("cuda", index, name, nvml.nvmlDeviceGetUUID(handle), size, (major, minor)))
    if devices and not _is_installed("cuda.bindings"):
        reasons.append(f"the package cuda-bindings is not installed: {INSTALL.format('cuda')}")
        devices.clear()
    for reason in reasons:
        log.warning("! %s", reason)
    return devices, "; ".join(reasons) or "NVML lists none"


def _mig_enabled(nvml: Any, handle: object) -> bool:
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError_NotSupported:
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)
