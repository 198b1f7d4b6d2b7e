"""The records of ``layout`` as types of the restricted language, and those that only the run-time knows.

Owns no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from bitfusion.device.virtual.layout import BLOCK, LAUNCH
from bitfusion.device.virtual.restricted import Array, Int8, Int16, Int32, Int64, Pointer, Record, UInt16, UInt32


def _offsets(layout: Mapping[str, int]) -> Mapping[str, int]:
    return {name.lower(): offset for name, offset in layout.items()}


class Suspension(Record):
    """What threads in one state wait for: a row of ``KernelCode.suspensions``."""

    offsets: ClassVar = {"kind": 0, "variant": 4, "first": 8, "second": 12}
    size: ClassVar = 16
    kind: Int32
    variant: Int32
    first: Int32
    second: Int32


class Launch(Record):
    """``layout.LAUNCH``: one running grid."""

    offsets: ClassVar = _offsets(LAUNCH)
    size: ClassVar = LAUNCH["SIZE"]
    next: Int64
    total: Int64
    grid_x: Int32
    grid_y: Int32
    threads_x: Int32
    threads_y: Int32
    threads_z: Int32
    threads: Int32
    abort: Int32
    fault: Int32
    fault_address: Int64
    fault_block: Array[Int32]
    fault_thread: Array[Int32]
    fault_line: Int32
    parameters: Int64
    memory_base: Int64
    memory_size: Int64
    shadow: Pointer[UInt16]
    regions: Pointer[Int64]
    suspensions: Pointer[Suspension]
    shared_size: Int32
    local_size: Int64
    resident: Int64
    stride: Int64
    sink: Int64
    workers: Int64
    suspension_count: Int64
    frame_distance: Int64
    local_distance: Int64
    shared_distance: Int64


class Block(Record):
    """``layout.BLOCK``: one resident thread block."""

    offsets: ClassVar = _offsets(BLOCK)
    size: ClassVar = BLOCK["SIZE"]
    launch: Launch
    shared: Int64
    block_x: Int32
    block_y: Int32
    block_z: Int32
    worker: Int32
    frame: Int64
    local: Int64
    current: Int32
    idle: Int32
    arrived: Array[Int32]
    count: Array[Int32]
    expected: Array[Int32]
    in_step: Array[Int8]
    state: Array[Int16]
    ready: Array[Int8]
    post_mask: Array[UInt32]
    post_count: Array[Int32]
    post_word: Array[UInt32]
    post_value: Array[Int64]
    result: Array[UInt32]
    result_flag: Array[Int8]


class Worker(Record):
    """One of the native threads that run blocks beside the launching one, and what it is asked to do.

    ``call`` goes from NONE to CALLED (launching thread), from there to TAKEN (worker) or back to NONE (launching
    thread: too late).
    """

    offsets: ClassVar = {"launch": 0, "blocks": 8, "index": 16, "call": 24, "stop": 28, "work": 32, "done": 64}
    size: ClassVar = 128
    launch: Launch
    blocks: Int64
    index: Int64
    call: Int32
    stop: Int32
    work: Array[Int64]
    done: Array[Int64]


SEMAPHORE_SIZE: Final = 32
"""Bytes of a ``sem_t`` on 64-bit Linux (glibc's bits/semaphore.h, musl's are as large)."""

NONE: Final = 0
CALLED: Final = 1
TAKEN: Final = 2
