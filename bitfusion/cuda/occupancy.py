"""How many blocks of a kernel a multiprocessor holds at once, worked out from the device's limits and what the kernel uses.

The rules are those of NVIDIA's occupancy calculator (CUDA C++ Programming Guide, "Hardware Multithreading"): a block takes whole warps,
registers by warp and shared memory by block in the units the hardware gives them out in, and the scarcest of the four decides.
"""

from __future__ import annotations

from collections.abc import Mapping

from bitfusion.types import FunctionInfo

WARP_SIZE = 32
REGISTERS_UNIT = 256
"""Registers are given to a warp by 256 (every GPU since compute capability 3.0)."""

SHARED_UNIT = 128
"""Bytes; 256 before compute capability 8.0, where a block of that size too much is the error."""


def blocks_per_multiprocessor(info: FunctionInfo, attributes: Mapping[str, int], threads: int, shared_size: int) -> int:
    """Blocks of ``threads`` threads and ``shared_size`` bytes of dynamic shared memory that run at once; 0 if not one fits.

    A limit that the device does not tell does not count.
    """
    if not 0 < threads <= min(info.threads_max, attributes.get("MAX_THREADS_PER_BLOCK", threads)):
        return 0
    warps = -(-threads // WARP_SIZE)
    registers = warps * _rounded(info.registers * WARP_SIZE, REGISTERS_UNIT)
    shared = _rounded(info.shared_size + shared_size, SHARED_UNIT) + attributes.get(
        "RESERVED_SHARED_MEMORY_PER_BLOCK", 0
    )
    needs = {
        "MAX_BLOCKS_PER_MULTIPROCESSOR": 1,
        "MAX_THREADS_PER_MULTIPROCESSOR": warps * WARP_SIZE,
        "MAX_REGISTERS_PER_MULTIPROCESSOR": registers,
        "MAX_SHARED_MEMORY_PER_MULTIPROCESSOR": shared,
    }
    return min((attributes[limit] // need for limit, need in needs.items() if limit in attributes and need), default=1)


def _rounded(count: int, unit: int) -> int:
    return -(-count // unit) * unit
