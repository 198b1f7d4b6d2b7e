"""Plain data that more than one layer speaks of: devices, functions, launch shapes. Owns no behaviour.

Everything here can be turned into plain values for the wire with ``dataclasses.asdict`` and made again with ``cls(**values)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

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


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """The one snapshot of a device's properties a client gets in the welcome, so that queries need no round trip.

    ``attributes`` maps CUDA's ``CUdevice_attribute`` names without prefix, in capitals (``MAX_THREADS_PER_BLOCK``), to integers.
    """

    kind: str
    name: str
    uuid: str
    memory_size: int
    compute_capability: tuple[int, int]
    attributes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FunctionInfo:
    """A loaded kernel as the client sees it (``cuFuncGetAttribute``).

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
