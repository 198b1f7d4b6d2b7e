"""Plain data that more than one layer speaks of: devices, functions, launch shapes, sizes as text. No behaviour.

The classes turn into plain values for the wire with ``dataclasses.asdict`` and are made again with ``cls(**values)``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias

from bitfusion.errors import ConfigError

Buffer: TypeAlias = bytes | bytearray | memoryview

Dim3: TypeAlias = tuple[int, int, int]
"""x, y, z, as CUDA's dim3."""


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """One GPU an appliance offers, as its daemon knows it: enough to place a lease and to open it in a worker."""

    kind: str
    """``cuda``, ``virtual`` or ``null``."""
    index: int
    """Position among the appliance's devices of that kind; for ``cuda`` NVML's index."""
    name: str
    uuid: str
    memory_size: int
    """Bytes of device memory."""
    compute_capability: tuple[int, int] | None = None
    """Major, minor; None where discovery was not told."""


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """What an appliance knows of its machine: what requests may filter by. None is not known."""

    hostname: str | None = None
    addr: str | None = None
    """The address it serves on, without its port."""
    has_rdma: bool | None = None
    cuda_version: str | None = None
    """The newest CUDA that the driver has, such as 13.0."""
    driver_version: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """The one snapshot of a device's properties a client gets in the welcome, so that queries need no round trip.

    ``attributes`` maps ``CUdevice_attribute`` names without prefix (``MAX_THREADS_PER_BLOCK``) to integers, and ``DRIVER_VERSION`` to that
    of CUDA as ``cuDriverGetVersion`` writes it: 13000 is 13.0.
    """

    kind: str
    name: str
    uuid: str
    memory_size: int
    compute_capability: tuple[int, int]
    attributes: dict[str, int] = field(default_factory=dict)


CHECKS = ("all", "global", "none")
"""What a virtual GPU checks of a kernel's accesses: all of them; all but those to shared and local memory; none."""


@dataclass(frozen=True, slots=True)
class KernelRules:
    """What a virtual GPU holds kernels to. A real one has rules of its own."""

    timeout_s: float | None = None
    """Seconds a launch may take; None: as long as its session lives, as on a GPU that drives no display."""
    check: str = "all"
    """One of CHECKS."""


@dataclass(frozen=True, slots=True)
class FunctionInfo:
    """A loaded kernel as the client sees it (``cuFuncGetAttribute``).

    ``name`` is for people: ``scale (train.py:16)`` for a kernel that came as source, the symbol for one of an image.
    ``parameters`` gives each kernel parameter's (offset, size) in the packed argument blob of ``arguments_size`` bytes.
    """

    name: str
    arguments_size: int
    parameters: tuple[tuple[int, int], ...]
    registers: int
    shared_size: int
    local_size: int
    constant_size: int
    threads_max: int


SIZE_MAX = 1 << 48
"""Bytes: more than any device or machine can address (x86-64 user space is 2**47); beyond it a number is a slip."""

_SIZE = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([KMGT]?)(|I|B|IB)")
_UNITS = "KMGT"


def parse_size(text: str) -> int:
    """Bytes in ``text``: ``4096``, ``512MiB``, ``2G``, ``1.5GiB``; ConfigError says what is wrong.

    K, M, G, T and KiB, MiB, ... are powers of 1024, KB, MB, ... powers of 1000, as in GNU coreutils' ``--block-size``.
    """
    match = _SIZE.fullmatch(text.strip().upper())
    if match is None or (match[3].startswith("I") and not match[2]):
        raise ConfigError(f"{text[:40]!r} is not a size; write bytes, or a number with a unit: 512MiB, 8GiB, 2G")
    base = 1000 if match[3] == "B" else 1024
    power = _UNITS.index(match[2]) + 1 if match[2] else 0
    size = int(Decimal(match[1]) * base**power)
    if size > SIZE_MAX:
        raise ConfigError(f"the size {text[:40]!r} is over {format_size(SIZE_MAX)}, more than any device has")
    return size


def format_size(size: int) -> str:
    """``size`` bytes in the largest binary unit that leaves at least 1 before the point: ``512 MiB``, ``1.5 GiB``."""
    if size < 1024:
        return f"{size} bytes"
    power = min((size.bit_length() - 1) // 10, len(_UNITS))
    number = f"{size / 1024**power:.2f}".rstrip("0").rstrip(".")
    return f"{number} {_UNITS[power - 1]}iB"
