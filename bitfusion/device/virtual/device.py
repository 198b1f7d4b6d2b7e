"""The verbs of ``device.base`` on CPU cores.

Everything is done when its verb returns: one queue, in order, which CUDA allows. A fault of a kernel poisons the device,
as it does a CUDA context: from then on every verb that orders or awaits work reports it.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bitfusion.device.virtual.fatbin import ptx_text
from bitfusion.device.virtual.launch import BLOCK_MAX, GRID_MAX, SHARED_SIZE_MAX, Launcher
from bitfusion.device.virtual.layout import THREADS_MAX, WARP_SIZE, CompileOptions
from bitfusion.device.virtual.memory import DeviceMemory, fill_memory, view_memory
from bitfusion.device.virtual.module import VirtualFunction, VirtualModule
from bitfusion.device.virtual.objects import ObjectCache, compiler_key
from bitfusion.device.virtual.program import Program
from bitfusion.device.virtual.runtime import load_runtime
from bitfusion.errors import InvalidHandleError, KernelFaultError
from bitfusion.limits import CHUNK_SIZE, KIB
from bitfusion.session.output import Printed
from bitfusion.types import Buffer, DeviceInfo, DeviceSpec, Dim3

COMPUTE_CAPABILITY: Final = (8, 0)
"""What kernels are compiled for: PTX of sm_80 uses all that the virtual GPU has (redux, cp.async, bf16) and little that
it has not.
"""


class VirtualStream:
    """A queue whose work is done already."""


@dataclass(slots=True)
class VirtualEvent:
    """The time of its last record, in nanoseconds."""

    timing: bool
    recorded_ns: int | None = None


class VirtualDevice:
    """One virtual GPU.

    ``options`` are those of the PTX compiler; ``timeout_s`` ends kernels that run longer (None: never).
    """

    def __init__(
        self,
        spec: DeviceSpec,
        cache_dir: Path | None = None,
        *,
        options: CompileOptions | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self.spec = spec
        self.default_stream = VirtualStream()
        self._cache = ObjectCache(cache_dir)
        self._runtime = load_runtime(self._cache)
        self._options = options or CompileOptions()
        self._timeout_s = timeout_s
        self._reserved: DeviceMemory | None = None
        self._launcher: Launcher | None = None
        self._fault: KernelFaultError | None = None
        self.info = _device_info(spec)

    @property
    def busy_ns(self) -> int:
        """Nanoseconds in which kernels ran."""
        return 0 if self._launcher is None else self._launcher.busy_ns

    @property
    def _memory(self) -> DeviceMemory:
        assert self._reserved is not None, "memory is reserved first"
        return self._reserved

    def _check(self) -> None:
        """KernelFaultError if a kernel has failed before."""
        if self._fault is not None:
            raise KernelFaultError(self._fault.message, **self._fault.details)

    # memory
    def reserve(self, size: int) -> int:
        assert self._reserved is None
        self._reserved = DeviceMemory(size)
        self._launcher = Launcher(self._reserved, self._runtime, self._timeout_s)
        return self._reserved.base

    def map(self, address: int, size: int) -> None:
        self._memory.open_chunks(address, size)

    def unmap(self, address: int, size: int) -> None:
        self._memory.close_chunks(address, size)

    def allocate(self, address: int, size: int) -> None:
        self._memory.mark(address, size, True)

    def release(self, address: int, size: int) -> None:
        self._memory.mark(address, size, False)

    # copies: the host's and the device's memory are one, so a buffer is device memory itself
    def write_buffer(self, stream: VirtualStream, address: int, size: int) -> memoryview:
        self._check()
        return view_memory(address, size)

    def write_commit(self, stream: VirtualStream, address: int, size: int) -> None:
        pass

    def write(self, stream: VirtualStream, address: int, data: Buffer) -> None:
        self._check()
        source = memoryview(data).cast("B")
        view_memory(address, source.nbytes)[:] = source

    def read(self, stream: VirtualStream, address: int, size: int) -> Iterator[memoryview]:
        self._check()
        for offset in range(0, size, CHUNK_SIZE):
            yield view_memory(address + offset, min(CHUNK_SIZE, size - offset))

    def copy(self, stream: VirtualStream, target: int, source: int, size: int) -> None:
        self._check()
        ctypes.memmove(target, source, size)

    def fill(self, stream: VirtualStream, address: int, size: int, pattern: bytes) -> None:
        self._check()
        fill_memory(address, size, pattern)

    # kernels
    def load(self, image: bytes) -> VirtualModule:
        """PTX text, or a fatbin with PTX. InvalidValueError for neither, UnsupportedError for machine code of a GPU."""
        text = ptx_text(image, COMPUTE_CAPABILITY)
        return VirtualModule(Program(text, self._options, self._cache), self._memory)

    def launch(
        self,
        stream: VirtualStream,
        function: VirtualFunction,
        grid: Dim3,
        block: Dim3,
        shared_size: int,
        arguments: bytes,
    ) -> None:
        self._check()
        assert self._launcher is not None
        try:
            self._launcher.launch(function, grid, block, shared_size, arguments)
        except KernelFaultError as fault:
            self._fault = fault
            raise

    def resident_blocks(self, function: VirtualFunction, threads: int, shared_size: int) -> int:
        assert self._launcher is not None
        return self._launcher.resident_blocks(function, threads, shared_size)

    def take_output(self, *, last: bool = False) -> list[Printed]:
        return [] if self._launcher is None else self._launcher.output.take()

    # streams and events
    def stream_create(self) -> VirtualStream:
        return VirtualStream()

    def stream_destroy(self, stream: VirtualStream) -> None:
        pass

    def stream_query(self, stream: VirtualStream) -> bool:
        self._check()
        return True

    def stream_wait(self, stream: VirtualStream, event: VirtualEvent) -> None:
        self._check()

    def synchronize(self, stream: VirtualStream | None = None) -> None:
        self._check()

    def event_create(self, timing: bool = True) -> VirtualEvent:
        return VirtualEvent(timing)

    def event_destroy(self, event: VirtualEvent) -> None:
        pass

    def event_record(self, event: VirtualEvent, stream: VirtualStream) -> None:
        self._check()
        event.recorded_ns = time.perf_counter_ns()

    def event_query(self, event: VirtualEvent) -> bool:
        self._check()
        return True

    def event_synchronize(self, event: VirtualEvent) -> None:
        self._check()

    def event_elapsed_ms(self, start: VirtualEvent, end: VirtualEvent) -> float:
        if start.recorded_ns is None or end.recorded_ns is None or not (start.timing and end.timing):
            raise InvalidHandleError("both events must have been recorded, with timing")
        return (end.recorded_ns - start.recorded_ns) / 1e6

    # life
    def abort(self) -> None:
        if self._launcher is not None:
            self._launcher.abort()

    def close(self) -> None:
        """The system clears the memory before anybody else sees it. Views of it must not be used any more."""
        if self._launcher is not None:
            self._launcher.close()
            self._launcher = None
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None


def warm(cache_dir: Path | None) -> None:
    """Load what every virtual GPU of this process and its forks shares. Starts no thread."""
    compiler_key()
    load_runtime(ObjectCache(cache_dir))


def _device_info(spec: DeviceSpec) -> DeviceInfo:
    """What queries of the device answer; names of ``CUdevice_attribute`` (cuda.h)."""
    cores = len(os.sched_getaffinity(0))
    attributes = {
        **{f"MAX_BLOCK_DIM_{axis}": limit for axis, limit in zip("XYZ", BLOCK_MAX, strict=True)},
        **{f"MAX_GRID_DIM_{axis}": limit for axis, limit in zip("XYZ", GRID_MAX, strict=True)},
        "MAX_THREADS_PER_BLOCK": THREADS_MAX,
        "MAX_THREADS_PER_MULTIPROCESSOR": THREADS_MAX,
        "MAX_BLOCKS_PER_MULTIPROCESSOR": 1,
        "MAX_SHARED_MEMORY_PER_BLOCK": 48 * KIB,
        "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": SHARED_SIZE_MAX,
        "MAX_SHARED_MEMORY_PER_MULTIPROCESSOR": SHARED_SIZE_MAX + KIB,
        "RESERVED_SHARED_MEMORY_PER_BLOCK": KIB,
        "MAX_REGISTERS_PER_BLOCK": 64 * KIB,
        "MAX_REGISTERS_PER_MULTIPROCESSOR": 64 * KIB,
        "TOTAL_CONSTANT_MEMORY": 64 * KIB,
        "WARP_SIZE": WARP_SIZE,
        "MULTIPROCESSOR_COUNT": cores,
        "CLOCK_RATE": 1_000_000,  # kHz: nanoseconds, which is what programs turn clock counts into
        "MEMORY_CLOCK_RATE": 1_000_000,
        "GLOBAL_MEMORY_BUS_WIDTH": 128,
        "L2_CACHE_SIZE": 0,
        "DRIVER_VERSION": 13000,  # the CUDA of PTX ISA 9.0, whose instructions docs/reference/ptx.md lists
        "COMPUTE_CAPABILITY_MAJOR": COMPUTE_CAPABILITY[0],
        "COMPUTE_CAPABILITY_MINOR": COMPUTE_CAPABILITY[1],
        "COOPERATIVE_LAUNCH": 1,
        "CONCURRENT_KERNELS": 0,
        "ASYNC_ENGINE_COUNT": 0,
        "UNIFIED_ADDRESSING": 1,
        "MANAGED_MEMORY": 0,
        "INTEGRATED": 1,
        "PCI_BUS_ID": 0,
        "PCI_DEVICE_ID": spec.index,
        "PCI_DOMAIN_ID": 0,
    }
    return DeviceInfo(spec.kind, spec.name, spec.uuid, spec.memory_size, COMPUTE_CAPABILITY, attributes)
