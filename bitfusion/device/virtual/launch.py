"""Launches: checks a configuration, fills the launch record and runs the grid on the calling thread and the crew.

The hot path allocates nothing: the record, the arguments and the memory of resident blocks are made once and reused.
"""

from __future__ import annotations

import ctypes
import logging
import os
import time
from contextlib import nullcontext
from functools import partial
from typing import Final

from bitfusion.device.cooperative import too_large
from bitfusion.device.virtual.crew import Crew
from bitfusion.device.virtual.faults import fault_error
from bitfusion.device.virtual.host_functions import HostFunctions
from bitfusion.device.virtual.launch_record import LaunchRecord
from bitfusion.device.virtual.layout import BLOCK, FAULT, PARAMETERS_SIZE, KernelCode
from bitfusion.device.virtual.mapping import Mapping
from bitfusion.device.virtual.memory import DeviceMemory
from bitfusion.device.virtual.module import VirtualFunction
from bitfusion.device.virtual.runtime import Runtime
from bitfusion.device.virtual.sharing import run_contended
from bitfusion.device.virtual.watchdog import Watchdog
from bitfusion.errors import LaunchError
from bitfusion.limits import KIB, MIB
from bitfusion.session.output import Output
from bitfusion.types import Dim3

log = logging.getLogger(__name__)

BLOCK_MAX: Final = (1024, 1024, 64)
GRID_MAX: Final = (2**31 - 1, 65535, 65535)
"""CUDA C++ Programming Guide, Technical Specifications per Compute Capability."""

SHARED_SIZE_MAX: Final = 163 * KIB
"""Bytes of shared memory of a block: compute capability 8.0, with the opt-in that every launch has here."""

RESIDENT_SIZE_MAX: Final = 256 * MIB
"""Memory one core may use for blocks that wait for each other.

A grid-wide barrier needs all blocks resident: with the usual 60 KiB a block, every core holds 4000 blocks, more than
any GPU keeps resident."""

WORKSPACE_SIZE: Final = 256
SINK_SIZE: Final = 256

_SHARED_ALIGNMENT: Final = 256
_PAGE_SIZE: Final = 4096


class Launcher:
    """Runs grids one at a time.

    ``busy_ns`` is the time they took. ``timeout_s`` ends a grid that runs longer (None: never).
    """

    def __init__(self, memory: DeviceMemory, runtime: Runtime, timeout_s: float | None) -> None:
        self.busy_ns = 0
        self._runtime = runtime
        self._watchdog = None if timeout_s is None else Watchdog(timeout_s, self._expire)
        self._aborted = False
        self._crew: Crew | None = None
        self._blocks: list[Mapping] = []
        self._host = HostFunctions(memory)
        self._parameters = Mapping(PARAMETERS_SIZE)
        self._sink = Mapping(SINK_SIZE)
        self._workspace = memory.system.allocate(WORKSPACE_SIZE)
        self._record = LaunchRecord(
            parameters=self._parameters.address,
            memory_base=memory.base,
            memory_size=memory.total_size,
            shadow=memory.shadow,
            grid_workspace=self._workspace,
            sink=self._sink.address,
            **self._host.addresses,
        )
        self._address = ctypes.addressof(self._record)

    def launch(self, function: VirtualFunction, grid: Dim3, block: Dim3, shared_size: int, arguments: bytes) -> None:
        """Run a grid to its end.

        LaunchError for a configuration that does not fit, KernelFaultError for what the kernel did.
        """
        _check(function, grid, block, shared_size, arguments)
        total = grid[0] * grid[1] * grid[2]
        if function.code.cooperative:
            self._check_resident(function, total, block, shared_size)
        crew = self._crew or self._start_crew() if total > 1 else None
        helpers = min(crew.count, total - 1) if crew else 0
        self._fill(function, grid, block, shared_size, helpers)
        self._provide_blocks(helpers)
        ctypes.memmove(self._parameters.address, arguments, len(arguments))
        if function.code.yields:
            ctypes.memset(self._workspace, 0, WORKSPACE_SIZE)
        if self._aborted:  # after the record was filled: ``abort`` sets this first and the record's ABORT then
            self._record.abort = 1
        self._run(crew.address if crew else 0, helpers, function.code.contended and not function.code.yields)
        if self._record.abort:
            record = self._record
            note = self._host.take_note(tuple(record.fault_block), tuple(record.fault_thread))
            raise fault_error(record, function.info.name, note, function.text)

    def resident_blocks(self, function: VirtualFunction, threads: int, shared_size: int) -> int:
        """How many blocks of ``threads`` threads and ``shared_size`` bytes of dynamic shared memory run at once; 0 if not one fits."""
        code = function.code
        if not 0 < threads <= code.threads_max or code.shared_size + shared_size > SHARED_SIZE_MAX:
            return 0
        workers = self._crew.count + 1 if self._crew else _core_count()
        return workers * _held(code, _places(code, code.shared_size + shared_size)[-1])

    def _check_resident(self, function: VirtualFunction, total: int, block: Dim3, shared_size: int) -> None:
        """LaunchError if blocks would wait for others that cannot start."""
        held = self.resident_blocks(function, block[0] * block[1] * block[2], shared_size)
        if total > held:
            raise too_large(function.info.name, total, held)

    def _fill(self, function: VirtualFunction, grid: Dim3, block: Dim3, shared_size: int, helpers: int) -> None:
        record, code = self._record, function.code
        record.next = record.abort = record.fault = 0
        record.grid_x, record.grid_y, record.grid_z = grid
        record.threads_x, record.threads_y, record.threads_z = block
        record.total = grid[0] * grid[1] * grid[2]
        record.threads = block[0] * block[1] * block[2]
        record.variables = function.variables_address
        record.regions = function.regions_address
        record.suspensions = function.suspensions_address
        record.functions = function.entries_address
        record.function_count = len(function.entries) // 2
        record.suspension_count = len(code.regions) - 1
        record.shared_size = code.shared_size + shared_size
        record.dynamic_size = shared_size
        record.local_size = code.local_area
        record.grid_id += 1
        record.workers = helpers + 1
        self._lay_out(code, record.shared_size)

    def _lay_out(self, code: KernelCode, shared_size: int) -> None:
        record, places = self._record, _places(code, shared_size)
        record.frame_distance, record.local_distance, record.shared_distance, record.stride = places
        record.resident = min(record.total, _held(code, record.stride))

    def _provide_blocks(self, helpers: int) -> None:
        """Memory for the resident blocks of every thread that takes part."""
        needed = self._record.stride * self._record.resident + BLOCK["SIZE"]
        for index in range(helpers + 1):
            if index < len(self._blocks) and self._blocks[index].size < needed:
                self._drop_blocks(index)  # before there are new ones: the machine need not have room for both
            if index == len(self._blocks):
                self._blocks.append(Mapping(needed))
                if index:
                    assert self._crew is not None
                    self._crew.give_blocks(index - 1, self._blocks[index].address)

    def _drop_blocks(self, start: int) -> None:
        """Give back the memory of the threads from ``start`` on."""
        while len(self._blocks) > start:
            self._blocks.pop().close()

    def _start_crew(self) -> Crew:
        """One thread for every core but this one's, when a grid of more than one block first comes."""
        self._crew = Crew(self._runtime.serve, _core_count() - 1)
        return self._crew

    def _run(self, workers: int, helpers: int, contended: bool) -> None:
        run = partial(self._runtime.run_grid, self._address, self._blocks[0].address, workers)
        started = time.perf_counter_ns()
        with nullcontext() if self._watchdog is None else self._watchdog.watch():
            if contended:
                run_contended(self._record, helpers, run)
            else:
                run(helpers)
        self.busy_ns += time.perf_counter_ns() - started

    def _expire(self) -> None:
        """The time is over: stop the grid, unless it has failed by itself."""
        if not self._record.abort:
            self._record.fault = FAULT["LAUNCH_TIMEOUT"]
        self._record.abort = 1

    @property
    def output(self) -> Output:
        """What kernels have printed and nobody has taken yet."""
        return self._host.output

    def abort(self) -> None:
        """Stop the running grid and refuse later ones; from any thread."""
        self._aborted = True
        self._record.abort = 1

    def close(self) -> None:
        """End the threads and give the memory back; no grid may be running."""
        if self._watchdog is not None:
            self._watchdog.close()
        if self._crew is not None:
            self._crew.close()
            self._crew = None
        self._drop_blocks(0)
        self._parameters.close()
        self._sink.close()


def _core_count() -> int:
    return len(os.sched_getaffinity(0))


def _places(code: KernelCode, shared_size: int) -> tuple[int, int, int, int]:
    """Where the parts of a resident block lie behind its record: saved registers, local memory, shared memory, and the next block."""
    start = BLOCK["SIZE"] if len(code.regions) > 1 else BLOCK["STATE"]  # the rest of the record stays unused
    frame = _round_up(start, _SHARED_ALIGNMENT)
    local = frame + _round_up(code.frame_size, _SHARED_ALIGNMENT)
    shared = _round_up(local + code.local_area, _SHARED_ALIGNMENT)
    return frame, local, shared, _round_up(shared + shared_size + _SHARED_ALIGNMENT, _PAGE_SIZE)


def _held(code: KernelCode, stride: int) -> int:
    """Blocks that one core holds at once, each ``stride`` bytes."""
    return max(RESIDENT_SIZE_MAX // stride, 1) if code.yields else 1


def _round_up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _check(function: VirtualFunction, grid: Dim3, block: Dim3, shared_size: int, arguments: bytes) -> None:
    """LaunchError with the figures if the configuration does not fit."""
    code, name = function.code, function.info.name
    threads = block[0] * block[1] * block[2]
    if min(block) < 1 or threads > code.threads_max or any(map(int.__gt__, block, BLOCK_MAX)):
        limit = f"{code.threads_max} threads and {BLOCK_MAX}"
        raise LaunchError(f"a block of {block} has {threads} threads; kernel {name} allows at most {limit}")
    if code.threads_required not in (None, block):
        raise LaunchError(f"a block is {block}; kernel {name} was compiled for blocks of {code.threads_required}")
    if min(grid) < 1 or any(map(int.__gt__, grid, GRID_MAX)):
        raise LaunchError(f"a grid of {grid} is not between (1, 1, 1) and {GRID_MAX}")
    if shared_size < 0 or code.shared_size + shared_size > SHARED_SIZE_MAX:
        wanted = f"{code.shared_size} + {shared_size} bytes of static and dynamic shared memory"
        raise LaunchError(f"kernel {name} asks for {wanted}; a block has {SHARED_SIZE_MAX}")
    if len(arguments) != code.arguments_size:
        raise LaunchError(f"kernel {name} takes {code.arguments_size} bytes of arguments, not {len(arguments)}")
