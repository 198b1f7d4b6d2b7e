"""A real GPU through NVIDIA's driver API (cuda-bindings): the verbs of ``device.base`` on one primary context.

Imported only where a device of kind ``cuda`` is opened. Work is asynchronous: verbs queue it on CUDA streams and a failure is raised by
the verb that first sees it. Stream 0 is CUDA's legacy default stream and created streams are blocking ones, so they are ordered
against it as in numba.cuda. References: CUDA Driver API, sections 6.11 (memory), 6.14 (virtual memory), 6.18 (streams).
"""

from __future__ import annotations

import ctypes
import logging
import math
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from bitfusion.device.cooperative import too_large
from bitfusion.device.cuda_driver import NOT_READY, SUCCESS, Context, check, driver, error_name, failure
from bitfusion.device.cuda_memory import ChunkMemory
from bitfusion.device.cuda_module import CudaFunction, CudaModule
from bitfusion.device.cuda_staging import Slot, StagingRing
from bitfusion.errors import LaunchError
from bitfusion.limits import ARGUMENTS_SIZE_MAX, CHUNK_SIZE, INLINE_SIZE_MAX, MIB
from bitfusion.session.output import Printed
from bitfusion.types import Buffer, DeviceInfo, DeviceSpec, Dim3

log = logging.getLogger(__name__)

_libc = ctypes.CDLL(None)

BIG_COUNT = 4
"""Slots of CHUNK_SIZE: one being received or sent, two on the DMA, one to spare."""

SMALL_COUNT = 32
"""Slots of INLINE_SIZE_MAX: copies that come in batches, faster than the GPU takes them when kernels lie between."""

READ_DEPTH = 3
"""Slots of one device-to-host copy: one being sent, two that the DMA fills. Below BIG_COUNT, so that a ``take`` never waits for itself."""

BOUNCE_SIZE = 4 * MIB
"""Device memory through which overlapping ranges are moved, beside the lease and only for the length of the copy."""

CLOSE_TIMEOUT_S = 2.0
"""How long ``close`` waits for kernels nobody will ask about. What still runs then ends with the process."""

_LAUNCH_REFUSALS = ("CUDA_ERROR_INVALID_VALUE", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "CUDA_ERROR_INVALID_CLUSTER_SIZE")


class CudaDevice:
    """One GPU in one worker.

    ``busy_ns`` is the time in which launched kernels were outstanding, as the host sees it: from the first launch to the return of the
    next wait for its stream. An upper bound: an event pair for every launch would cost as much as the launch.
    """

    def __init__(self, spec: DeviceSpec) -> None:
        self.spec = spec
        self.busy_ns = 0
        self._context = Context(spec.uuid)
        self.info = _device_info(spec, self._context)
        self._memory = ChunkMemory(self._context, spec.memory_size)
        self.default_stream = driver.CUstream(driver.CU_STREAM_LEGACY)
        self._fence = check(driver.cuEventCreate(int(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING)), "cuEventCreate")
        self._stream_count = 0
        self._big = StagingRing(CHUNK_SIZE, BIG_COUNT)
        self._small = StagingRing(INLINE_SIZE_MAX, SMALL_COUNT)
        self._receiving: Slot | None = None
        self._arguments = _ArgumentBuffer()
        self._busy_since = 0
        self._busy_stream: Any = None
        self._settled: list[int | None] = []

    # memory

    def reserve(self, size: int) -> int:
        """Reserve the session's addresses."""
        return self._memory.reserve(size)

    def map(self, address: int, size: int) -> None:
        """Back whole chunks with zeros."""
        self._memory.map(address, size)

    def unmap(self, address: int, size: int) -> None:
        """Scrub whole chunks and give them back, after all work."""
        self.synchronize()
        self._memory.unmap(address, size)

    def allocate(self, address: int, size: int) -> None:
        """Nothing to note: CUDA checks accesses by mapped chunk."""

    def release(self, address: int, size: int) -> None:
        """Order whatever uses these bytes next, on any stream, behind all that uses them now.

        cuMemFree would wait for the device. A wait on the legacy stream joins all streams and lets them go on from there.
        """
        if self._stream_count:
            check(driver.cuEventRecord(self._fence, self.default_stream), "releasing memory")
            check(driver.cuStreamWaitEvent(self.default_stream, self._fence, 0), "releasing memory")

    # copies

    def write_buffer(self, stream: Any, address: int, size: int) -> memoryview:
        """A pinned slot for ``size`` bytes."""
        if self._receiving is None:
            self._receiving = self._big.take()
        return self._receiving.view[:size]

    def write_commit(self, stream: Any, address: int, size: int) -> None:
        """Start the DMA; the next payload is received beside it."""
        slot, self._receiving = self._receiving, None
        assert slot is not None
        self._send(self._big, slot, stream, address, size)

    def write(self, stream: Any, address: int, data: Buffer) -> None:
        """Copy through a pinned slot: CUDA may read pageable memory after the call, where the system can address it."""
        view = memoryview(data).cast("B")
        slot = self._small.take()
        slot.view[: view.nbytes] = view
        self._send(self._small, slot, stream, address, view.nbytes)

    def _send(self, ring: StagingRing, slot: Slot, stream: Any, address: int, size: int) -> None:
        try:
            check(driver.cuMemcpyHtoDAsync(address, slot.address, size, stream), "a copy to the device")
            slot.record(stream)
        finally:
            ring.fly(slot)

    def read(self, stream: Any, address: int, size: int) -> Iterator[memoryview]:
        """Pieces from pinned slots, the next ones on their way while one is sent."""
        ring = self._small if size <= INLINE_SIZE_MAX else self._big
        flying: deque[tuple[Slot, int]] = deque()
        asked = 0
        try:
            while asked < size or flying:
                while asked < size and len(flying) < READ_DEPTH:
                    count = min(size - asked, ring.slot_size)
                    slot = ring.take()
                    flying.append((slot, count))
                    check(driver.cuMemcpyDtoHAsync(slot.address, address + asked, count, stream), "a copy to the host")
                    slot.record(stream)
                    asked += count
                slot, count = flying[0]
                slot.wait()
                self._waited(stream)
                yield slot.view[:count]
                flying.popleft()
                ring.give(slot)
        finally:
            for slot, _ in flying:
                ring.fly(slot)

    def copy(self, stream: Any, target: int, source: int, size: int) -> None:
        """Device to device."""
        if target != source and abs(target - source) < size:
            self._copy_overlapping(stream, target, source, size)
        elif target != source:
            check(driver.cuMemcpyDtoDAsync(target, source, size, stream), "a copy on the device")

    def _copy_overlapping(self, stream: Any, target: int, source: int, size: int) -> None:
        """memmove by pieces through memory of their own, from the end where the bytes move up. Waits: it is rare."""
        piece = min(size, BOUNCE_SIZE)
        bounce = int(check(driver.cuMemAlloc(piece), "a copy between overlapping ranges"))
        starts = range(0, size, piece)
        try:
            for start in reversed(starts) if target > source else starts:
                count = min(piece, size - start)
                check(driver.cuMemcpyDtoDAsync(bounce, source + start, count, stream), "a copy on the device")
                check(driver.cuMemcpyDtoDAsync(target + start, bounce, count, stream), "a copy on the device")
            check(driver.cuMemsetD8Async(bounce, 0, piece, stream), "a copy on the device")
            check(driver.cuStreamSynchronize(stream), "a copy on the device")
        finally:
            driver.cuMemFree(bounce)

    def fill(self, stream: Any, address: int, size: int, pattern: bytes) -> None:
        """By CUDA's own memset where the pattern repeats 1, 2 or 4 bytes, else by copies that double."""
        for width, memset in (1, driver.cuMemsetD8Async), (2, driver.cuMemsetD16Async), (4, driver.cuMemsetD32Async):
            unit = pattern[:width]
            if address % width == 0 and len(pattern) % width == 0 and unit * (len(pattern) // width) == pattern:
                check(memset(address, int.from_bytes(unit, "little"), size // width, stream), "a fill")
                return
        block = pattern * max(1, min(size, INLINE_SIZE_MAX) // len(pattern))
        self.write(stream, address, block)
        done = len(block)
        while done < size:
            count = min(done, size - done)
            check(driver.cuMemcpyDtoDAsync(address + done, address, count, stream), "a fill")
            done += count

    # kernels

    def load(self, image: bytes) -> CudaModule:
        """Load PTX, cubin or fatbin; the driver's JIT says why it does not load."""
        return CudaModule(self._context, image, self.info.compute_capability)

    def launch(
        self, stream: Any, function: CudaFunction, grid: Dim3, block: Dim3, shared_size: int, arguments: bytes
    ) -> None:
        """Launch with the packed arguments as they are."""
        function.allow_shared(shared_size)
        extra = self._arguments.fill(arguments)
        if function.cooperative:
            config = _cooperative(grid, block, shared_size, stream)
            (code,) = driver.cuLaunchKernelEx(config, function.handle, None, extra)
        else:
            (code,) = driver.cuLaunchKernel(function.handle, *grid, *block, shared_size, stream, None, extra)
        if code != SUCCESS:
            if error_name(code) == "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE":
                held = self.resident_blocks(function, math.prod(block), shared_size)
                raise too_large(function.info.name, math.prod(grid), held)
            if error_name(code) in _LAUNCH_REFUSALS:
                raise LaunchError(
                    f"{function.info.name}[{grid}, {block}] with {shared_size} bytes of dynamic shared memory does not "
                    f"fit: {error_name(code)}; the kernel allows {function.info.threads_max} threads a block",
                    cuda_name=error_name(code),
                )
            raise failure(code, f"launching {function.info.name}")
        if not self._busy_since:
            self._busy_since = time.monotonic_ns()
        self._busy_stream = stream

    def resident_blocks(self, function: CudaFunction, threads: int, shared_size: int) -> int:
        """As CUDA counts them, on all multiprocessors."""
        held = function.blocks_per_multiprocessor(threads, shared_size)
        return held * self.info.attributes["MULTIPROCESSOR_COUNT"]

    def take_output(self, *, last: bool = False) -> list[Printed]:
        """The driver writes through the C library, whose buffer is emptied here (CUDA C++ Programming Guide, Formatted Output)."""
        if last:
            self._settle()
        _libc.fflush(None)
        return []

    # streams and events

    def stream_create(self) -> Any:
        """A stream that is ordered against stream 0."""
        stream = check(driver.cuStreamCreate(int(driver.CUstream_flags.CU_STREAM_DEFAULT)), "cuStreamCreate")
        self._stream_count += 1
        return stream

    def stream_destroy(self, stream: Any) -> None:
        """Its work goes on to its end; memory it uses is ordered by a fence first, as there will be no stream to wait for."""
        self.release(0, 0)
        self._stream_count -= 1
        check(driver.cuStreamDestroy(stream), "cuStreamDestroy")

    def stream_query(self, stream: Any) -> bool:
        """Whether the stream is done."""
        return _ready(driver.cuStreamQuery(stream), "asking for a stream")

    def stream_wait(self, stream: Any, event: Any) -> None:
        """Order the stream behind the event."""
        check(driver.cuStreamWaitEvent(stream, event, 0), "waiting for an event")

    def synchronize(self, stream: Any = None) -> None:
        """Wait; raises the fault of a kernel that failed."""
        if stream is None:
            check(driver.cuCtxSynchronize(), "synchronize")
        else:
            check(driver.cuStreamSynchronize(stream), "synchronize")
        self._waited(stream)

    def event_create(self, timing: bool = True) -> Any:
        """An event."""
        flags = driver.CUevent_flags
        flag = flags.CU_EVENT_DEFAULT if timing else flags.CU_EVENT_DISABLE_TIMING
        return check(driver.cuEventCreate(int(flag)), "cuEventCreate")

    def event_destroy(self, event: Any) -> None:
        """Free it; CUDA keeps what pending work needs."""
        check(driver.cuEventDestroy(event), "cuEventDestroy")

    def event_record(self, event: Any, stream: Any) -> None:
        """Mark this point of the stream."""
        check(driver.cuEventRecord(event, stream), "recording an event")

    def event_query(self, event: Any) -> bool:
        """Whether the work before it is done."""
        return _ready(driver.cuEventQuery(event), "asking for an event")

    def event_synchronize(self, event: Any) -> None:
        """Wait for it."""
        check(driver.cuEventSynchronize(event), "synchronize")

    def event_elapsed_ms(self, start: Any, end: Any) -> float:
        """Waits for both first: the caller must not see CUDA_ERROR_NOT_READY, whose moment the network decides."""
        self.event_synchronize(start)
        self.event_synchronize(end)
        return float(check(driver.cuEventElapsedTime(start, end), "the time between two events"))

    def _waited(self, stream: Any) -> None:
        """A wait is over: kernels launched before it, on the stream of the last launch or on all, have ended."""
        if self._busy_since and (stream is None or stream is self.default_stream or stream is self._busy_stream):
            self.busy_ns += time.monotonic_ns() - self._busy_since
            self._busy_since = 0

    # life

    def abort(self) -> None:
        """CUDA cannot stop a running kernel from within its process, only the process's end can: ``close`` gives up after
        CLOSE_TIMEOUT_S, and a worker that is stuck inside a wait is ended by its watch."""

    def close(self) -> None:
        """Scrub and free all memory; where kernels do not end, leave that to the process's end.

        After a fault nothing can be scrubbed; the next session on this GPU gets its chunks zeroed by ``map`` all the same.
        """
        if not self._context.open:
            return
        settled = self._settle()
        if settled is None:
            self._context.open = False
            log.warning(
                "! kernels still run %.0f s after the session's end; the process's end stops them", CLOSE_TIMEOUT_S
            )
            return
        self._memory.close(scrub=settled == SUCCESS)
        self._big.close()
        self._small.close()
        driver.cuEventDestroy(self._fence)
        self._context.close()

    def _settle(self) -> int | None:
        """Wait for all work for CLOSE_TIMEOUT_S, once; its result, or None if it goes on."""
        if not self._settled:
            self._settled.append(self._context.settle(CLOSE_TIMEOUT_S))
        return self._settled[0]


class _ArgumentBuffer:
    """The ``extra`` array of cuLaunchKernel around one buffer of packed arguments (cuda.h, CU_LAUNCH_PARAM_*).

    CUDA copies the arguments during the launch, so one buffer serves all launches.
    """

    def __init__(self) -> None:
        self._data = ctypes.create_string_buffer(ARGUMENTS_SIZE_MAX)
        self._size = ctypes.c_size_t()
        names = (int(driver.CU_LAUNCH_PARAM_BUFFER_POINTER), int(driver.CU_LAUNCH_PARAM_BUFFER_SIZE))
        data, size = ctypes.addressof(self._data), ctypes.addressof(self._size)
        self._extra = (ctypes.c_void_p * 5)(names[0], data, names[1], size, int(driver.CU_LAUNCH_PARAM_END))
        self._address = ctypes.addressof(self._extra)

    def fill(self, arguments: bytes) -> int:
        """Put the arguments in; the address of the array, 0 where there are none."""
        if not arguments:
            return 0
        ctypes.memmove(self._data, arguments, len(arguments))
        self._size.value = len(arguments)
        return self._address


def _cooperative(grid: Dim3, block: Dim3, shared_size: int, stream: Any) -> Any:
    """The configuration of a launch whose blocks all run at once; cuLaunchCooperativeKernel takes no packed arguments."""
    config, attribute = driver.CUlaunchConfig(), driver.CUlaunchAttribute()
    config.gridDimX, config.gridDimY, config.gridDimZ = grid
    config.blockDimX, config.blockDimY, config.blockDimZ = block
    config.sharedMemBytes, config.hStream = shared_size, stream
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
    attribute.value.cooperative = 1
    config.attrs, config.numAttrs = [attribute], 1
    return config


def _ready(result: tuple[Any, ...], what: str) -> bool:
    if result[0] not in (SUCCESS, NOT_READY):
        raise failure(result[0], what)
    return bool(result[0] == SUCCESS)


def _device_info(spec: DeviceSpec, context: Context) -> DeviceInfo:
    """The snapshot for the client: every attribute the driver knows."""
    prefix = "CU_DEVICE_ATTRIBUTE_"
    values = {name.removeprefix(prefix): context.attribute(name) for name in driver.CUdevice_attribute.__members__}
    attributes = {name: value for name, value in values.items() if value is not None}
    attributes["DRIVER_VERSION"] = context.version
    capability = (attributes["COMPUTE_CAPABILITY_MAJOR"], attributes["COMPUTE_CAPABILITY_MINOR"])
    return DeviceInfo(spec.kind, spec.name, spec.uuid, spec.memory_size, capability, attributes)
