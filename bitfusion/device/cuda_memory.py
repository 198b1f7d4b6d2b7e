"""The session's memory on a real GPU: one reserved range of addresses, and the chunks mapped into it.

Each chunk is an allocation of its own, because CUDA unmaps only what it mapped as one (cuMemUnmap). Owns the mappings and that nobody
reads what another left: chunks are zeroed when they come and when they go. Copies and fills are the device's.
"""

from __future__ import annotations

from typing import Any

from bitfusion.device.cuda_driver import SUCCESS, Context, check, driver, error_name, failure
from bitfusion.errors import DeviceError, DeviceMemoryError, UnsupportedError
from bitfusion.limits import MEMORY_CHUNK_SIZE


class ChunkMemory:
    """Addresses and chunks of one session on a GPU with ``device_size`` bytes."""

    def __init__(self, context: Context, device_size: int) -> None:
        self._device_size = device_size
        self._properties, self._access = _describe(context.ordinal)
        self._range: tuple[int, int] | None = None
        self._chunks: set[int] = set()
        flag = driver.CUstream_flags.CU_STREAM_NON_BLOCKING
        self._stream = check(driver.cuStreamCreate(int(flag)), "cuStreamCreate")  # waits for nobody's kernels

    def reserve(self, size: int) -> int:
        """Reserve ``size`` bytes of addresses; returns the first."""
        assert self._range is None
        address = int(check(driver.cuMemAddressReserve(size, MEMORY_CHUNK_SIZE, 0, 0), f"reserving {size} addresses"))
        self._range = (address, size)
        return address

    def map(self, address: int, size: int) -> None:
        """Back whole chunks with zeros, without waiting for work that uses others; all of them or none. DeviceMemoryError."""
        mapped: list[int] = []
        try:
            for chunk in range(address, address + size, MEMORY_CHUNK_SIZE):
                self._map_chunk(chunk, size)
                mapped.append(chunk)
            check(driver.cuMemSetAccess(address, size, [self._access], 1), "cuMemSetAccess")
            self._zero(address, size)
        except DeviceError:
            for chunk in mapped:
                driver.cuMemUnmap(chunk, MEMORY_CHUNK_SIZE)
            raise
        self._chunks.update(mapped)

    def _map_chunk(self, chunk: int, requested: int) -> None:
        code, handle = driver.cuMemCreate(MEMORY_CHUNK_SIZE, self._properties, 0)
        if error_name(code) == "CUDA_ERROR_OUT_OF_MEMORY":
            used = len(self._chunks) * MEMORY_CHUNK_SIZE
            raise DeviceMemoryError(
                f"the GPU has no room for {requested} more bytes: this session holds {used}, the rest is with other "
                "sessions, their contexts, or programs beside the appliance",
                requested=requested,
                used=used,
                limit=self._device_size,
            )
        if code != SUCCESS:
            raise failure(code, "cuMemCreate")
        try:
            check(driver.cuMemMap(chunk, MEMORY_CHUNK_SIZE, 0, handle, 0), "cuMemMap")
        finally:
            driver.cuMemRelease(handle)  # the mapping keeps the memory, and its end frees it

    def _zero(self, address: int, size: int) -> None:
        check(driver.cuMemsetD8Async(address, 0, size, self._stream), "zeroing memory")
        check(driver.cuStreamSynchronize(self._stream), "zeroing memory")

    def unmap(self, address: int, size: int) -> None:
        """Scrub whole chunks and give them back. No work that uses them may be left."""
        self._zero(address, size)
        for chunk in range(address, address + size, MEMORY_CHUNK_SIZE):
            check(driver.cuMemUnmap(chunk, MEMORY_CHUNK_SIZE), "cuMemUnmap")
            self._chunks.discard(chunk)

    def close(self, scrub: bool) -> None:
        """Give everything back; no work may be left. ``scrub`` is false after a fault: nothing can be written any more."""
        if scrub:
            for chunk in self._chunks:
                driver.cuMemsetD8Async(chunk, 0, MEMORY_CHUNK_SIZE, self._stream)
            driver.cuStreamSynchronize(self._stream)
        for chunk in self._chunks:
            driver.cuMemUnmap(chunk, MEMORY_CHUNK_SIZE)
        self._chunks.clear()
        if self._range is not None:
            driver.cuMemAddressFree(*self._range)
            self._range = None
        driver.cuStreamDestroy(self._stream)


def _describe(ordinal: int) -> tuple[Any, Any]:
    """What chunks are made of and who may access them: pinned memory of this GPU, read and written by it."""
    properties = driver.CUmemAllocationProp()
    properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    properties.location.id = ordinal
    access = driver.CUmemAccessDesc()
    access.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    access.location.id = ordinal
    access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
    option = driver.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_MINIMUM
    granularity = check(driver.cuMemGetAllocationGranularity(properties, option), "cuMemGetAllocationGranularity")
    if MEMORY_CHUNK_SIZE % granularity:
        raise UnsupportedError(
            f"the GPU maps memory in pieces of {granularity} bytes, which do not divide {MEMORY_CHUNK_SIZE}",
            feature="virtual memory granularity",
        )
    return properties, access
