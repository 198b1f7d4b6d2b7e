"""What became of a grid: the fault in its launch record as an error that reads like CUDA's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bitfusion.device.virtual.launch_record import LaunchRecord
from bitfusion.device.virtual.layout import FAULT
from bitfusion.device.virtual.source_line import source_line
from bitfusion.errors import KernelFaultError

_UINT64: Final = (1 << 64) - 1

_NAMES: Final[Mapping[int, tuple[str, str]]] = {
    FAULT["ILLEGAL_ADDRESS"]: ("CUDA_ERROR_ILLEGAL_ADDRESS", "accessed {address:#x}, which is in no live allocation"),
    FAULT["SHARED_ADDRESS"]: (
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "accessed {address:#x} of shared memory, which the block does not have",
    ),
    FAULT["LOCAL_ADDRESS"]: (
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "accessed {address:#x} of local memory, outside of its variable",
    ),
    FAULT["HARDWARE_STACK_ERROR"]: (
        "CUDA_ERROR_HARDWARE_STACK_ERROR",
        "called functions deeper than its stack allows",
    ),
    FAULT["MISALIGNED_ADDRESS"]: (
        "CUDA_ERROR_MISALIGNED_ADDRESS",
        "accessed {address:#x}, which is not aligned to the access",
    ),
    FAULT["ASSERT"]: ("CUDA_ERROR_ASSERT", "failed an assertion"),
    FAULT["LAUNCH_FAILED"]: ("CUDA_ERROR_LAUNCH_FAILED", "executed trap"),
    FAULT["INVALID_PC"]: (
        "CUDA_ERROR_INVALID_PC",
        "called {address:#x}, where no function of this kind begins",
    ),
    FAULT["ILLEGAL_INSTRUCTION"]: ("CUDA_ERROR_ILLEGAL_INSTRUCTION", "executed an illegal instruction"),
}
"""Faults of one thread: CUDA's name (CUresult in cuda.h) and what the thread did."""

_GRID_NAMES: Final[Mapping[int, tuple[str, str]]] = {
    FAULT["LAUNCH_TIMEOUT"]: ("CUDA_ERROR_LAUNCH_TIMEOUT", "ran longer than the device allows"),
    FAULT["DEADLOCK"]: ("CUDA_ERROR_LAUNCH_TIMEOUT", "has threads that wait for each other at barriers for ever"),
    0: ("CUDA_ERROR_LAUNCH_FAILED", "was stopped because the session ended"),
}
"""Faults of the grid as a whole; 0 with ABORT set is ``Device.abort``."""

_ADDRESSED: Final = tuple(
    FAULT[name] for name in ("ILLEGAL_ADDRESS", "MISALIGNED_ADDRESS", "SHARED_ADDRESS", "LOCAL_ADDRESS", "INVALID_PC")
)


def fault_error(record: LaunchRecord, kernel: str, note: str, text: str) -> KernelFaultError:
    """The error of a grid that was aborted. ``note`` is what the kernel said itself (an assertion's text), ``text`` its PTX."""
    if record.fault in _GRID_NAMES:
        cuda_name, what = _GRID_NAMES[record.fault]
        return KernelFaultError(f"{cuda_name}: kernel {kernel} {what}", cuda_name=cuda_name, kernel=kernel)
    cuda_name, what = _NAMES[record.fault]
    address = record.fault_address & _UINT64
    block, thread = str(tuple(record.fault_block)), str(tuple(record.fault_thread))
    what = what.format(address=address)
    if record.fault_line:
        what += f" (line {record.fault_line} of the PTX)"
    message = f"{cuda_name}: kernel {kernel}: thread {thread} of block {block} {what}"
    details: dict[str, int | str] = {"cuda_name": cuda_name, "kernel": kernel, "block": block, "thread": thread}
    if record.fault in _ADDRESSED:
        details["address"] = address
    if (place := source_line(text, record.fault_line)) is not None:
        details["file"], details["line"] = place
        message += f" at {place[0]}:{place[1]}"
    return KernelFaultError(f"{message}: {note}" if note else message, **details)
