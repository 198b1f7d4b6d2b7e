"""What machine code calls when an access or a thread fails: faults and the slow paths of the bounds check.

Restricted Python.
"""

from __future__ import annotations

from typing import Final

from bitfusion.device.virtual.layout import FAULT, GRANULE, PARAMETERS_SIZE
from bitfusion.device.virtual.records import Block, Launch
from bitfusion.device.virtual.restricted import swap

ILLEGAL_ADDRESS: Final = FAULT["ILLEGAL_ADDRESS"]
MISALIGNED_ADDRESS: Final = FAULT["MISALIGNED_ADDRESS"]

RANGE_SIZE_MAX: Final = 1 << 19
"""Bytes that are looked up at once, for a row of threads or for several rows: of half a MiB the table holds 4 KiB."""


def fail(launch: Launch, code: int, address: int) -> None:
    """Note a fault of the grid, if it is the first, and stop it."""
    if swap(launch.fault, 0, code):
        launch.fault_address = address
    launch.abort = 1


def ptx_fault(block: Block, code: int, address: int, x: int, y: int, z: int, line: int) -> None:
    """Note a fault of one thread, if it is the grid's first, and stop the grid."""
    launch = block.launch
    if swap(launch.fault, 0, code):
        launch.fault_address = address
        launch.fault_block[0] = block.block_x
        launch.fault_block[1] = block.block_y
        launch.fault_block[2] = block.block_z
        launch.fault_thread[0] = x
        launch.fault_thread[1] = y
        launch.fault_thread[2] = z
        launch.fault_line = line
    launch.abort = 1


def ptx_badaddr(block: Block, address: int, size: int, generic: int, x: int, y: int, z: int, line: int) -> int:
    """The slow path of the bounds check: the address itself where it is good after all, else a sink and a fault."""
    launch = block.launch
    if address & (size - 1):
        ptx_fault(block, MISALIGNED_ADDRESS, address, x, y, z, line)
        return launch.sink
    if generic and in_window(block, launch, address, size):
        return address
    ptx_fault(block, ILLEGAL_ADDRESS, address, x, y, z, line)
    return launch.sink


def ptx_badwindow(block: Block, code: int, address: int, size: int, x: int, y: int, z: int, line: int) -> int:
    """An address outside of its window, or not aligned in it: a fault, and the window's start instead."""
    ptx_fault(block, MISALIGNED_ADDRESS if address & (size - 1) else code, address, x, y, z, line)
    return 0


def in_window(block: Block, launch: Launch, address: int, size: int) -> int:
    """Whether a generic address lies in shared, local or parameter memory."""
    distance = address - block.shared
    if distance >= 0 and distance <= launch.shared_size - size:
        return 1
    distance = address - block.local
    if distance >= 0 and distance <= launch.local_size - size:
        return 1
    distance = address - launch.parameters
    return distance >= 0 and distance <= PARAMETERS_SIZE - size


def ptx_range(launch: Launch, start: int, end: int) -> int:
    """Whether all bytes of [start, end) are valid; no is always a safe answer."""
    first = start - launch.memory_base
    last = end - launch.memory_base - 1
    if first < 0 or last < first or last - first >= RANGE_SIZE_MAX or last >= launch.memory_size:
        return 0
    short = 0
    for granule in range(first // GRANULE, last // GRANULE):
        short |= launch.shadow[granule] ^ GRANULE
    return short == 0 and launch.shadow[last // GRANULE] > last % GRANULE
