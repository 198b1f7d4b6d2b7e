"""How many blocks of a kernel a multiprocessor holds at once, worked out from the device's limits and what the kernel uses.

The rules are those of NVIDIA's occupancy calculator (CUDA C++ Programming Guide, "Hardware Multithreading"): a block takes whole warps,
registers by warp and shared memory by block in the units the hardware gives them out in, and the scarcest of the four decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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


def fullest_block(
    info: FunctionInfo, attributes: Mapping[str, int], shared_size: Callable[[int], int], threads_max: int
) -> tuple[int, int]:
    """(blocks a multiprocessor holds, threads of each) with the most threads running, of those the largest block; (0, 0) if none fits.

    As ``cuOccupancyMaxPotentialBlockSize``: whole warps, of at most ``threads_max`` threads if that is not 0.
    """
    most = min(info.threads_max, threads_max or info.threads_max)
    sizes = [most, *range(most // WARP_SIZE * WARP_SIZE, 0, -WARP_SIZE)]
    held = [(blocks_per_multiprocessor(info, attributes, threads, shared_size(threads)), threads) for threads in sizes]
    return max((item for item in held if item[0]), key=lambda item: (item[0] * item[1], item[1]), default=(0, 0))


def _rounded(count: int, unit: int) -> int:
    return -(-count // unit) * unit
