"""The memory verbs: whole chunks that come as zeros and go scrubbed, and copies straight into device memory."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from numba import cuda

from bitfusion.device.discovery import machine_memory
from bitfusion.device.virtual.device import VirtualDevice
from bitfusion.device.virtual.memory import DeviceMemory, SystemArea
from bitfusion.device.virtual.room import room
from bitfusion.errors import DeviceMemoryError, InvalidHandleError
from bitfusion.kernels.packing import Packer
from bitfusion.kernels.typeof import typeof
from bitfusion.kernels.types import Signature, none
from bitfusion.limits import CHUNK_SIZE, MEMORY_CHUNK_SIZE, MIB
from tests.device.virtual.gpu import HEADER, SPEC, Gpu

CHUNK = MEMORY_CHUNK_SIZE


@pytest.fixture
def device():
    """A device with one mapped chunk at ``base``."""
    device = VirtualDevice(SPEC)
    device.base = device.reserve(64 * MIB)
    device.map(device.base, CHUNK)
    yield device
    device.close()


def read(device, address, size):
    return b"".join(bytes(piece) for piece in device.read(device.default_stream, address, size))


def resident_size():
    """Bytes of shared memory (the memfd) in this process (proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")


def test_fresh_chunks_read_as_zeros_and_cost_nothing_until_touched(device):
    before = resident_size()
    device.map(device.base + CHUNK, 30 * CHUNK)
    assert resident_size() - before < CHUNK
    assert read(device, device.base + 30 * CHUNK, CHUNK) == bytes(CHUNK)


def test_unmapped_chunks_are_scrubbed_and_given_back(device):
    device.map(device.base + CHUNK, 10 * CHUNK)
    device.fill(device.default_stream, device.base, 11 * CHUNK, b"\xaa")
    full = resident_size()
    device.unmap(device.base + CHUNK, 10 * CHUNK)
    assert full - resident_size() >= 9 * CHUNK
    device.map(device.base + CHUNK, 10 * CHUNK)
    assert read(device, device.base, CHUNK) == b"\xaa" * CHUNK
    assert read(device, device.base + CHUNK, 10 * CHUNK) == bytes(10 * CHUNK)


def test_write_and_read(device):
    data = os.urandom(1000)
    device.write(device.default_stream, device.base + 24, data)
    assert read(device, device.base + 24, 1000) == data
    device.write(device.default_stream, device.base + 25, memoryview(np.arange(10)))  # any buffer, any address
    assert read(device, device.base + 25, 80) == np.arange(10).tobytes()


def test_a_buffer_is_device_memory_itself(device):
    buffer = device.write_buffer(device.default_stream, device.base + 8, 16)
    buffer[:] = b"0123456789abcdef"
    device.write_commit(device.default_stream, device.base + 8, 16)
    assert read(device, device.base + 8, 16) == b"0123456789abcdef"


def test_large_reads_come_in_chunks(device):
    size = 2 * CHUNK_SIZE + 12345
    device.map(device.base + CHUNK, 8 * CHUNK)
    data = np.random.default_rng(1).integers(0, 256, size, np.uint8)
    device.write(device.default_stream, device.base, data.data)
    pieces = list(device.read(device.default_stream, device.base, size))
    assert [piece.nbytes for piece in pieces] == [CHUNK_SIZE, CHUNK_SIZE, 12345]
    assert b"".join(pieces) == data.tobytes()


@pytest.mark.parametrize("distance", [-100, -1, 0, 1, 100, 5000])
def test_copies_may_overlap(device, distance):
    data = os.urandom(1000)
    source, target = device.base + 5000, device.base + 5000 + distance
    device.write(device.default_stream, source, data)
    device.copy(device.default_stream, target, source, 1000)
    assert read(device, target, 1000) == data


@pytest.mark.parametrize("pattern", [b"\0", b"\x7f", b"ab", b"abc", b"0123456789abcdef", b"aaaa"])
@pytest.mark.parametrize("count", [0, 1, 2, 1000, 300_000])
def test_fill(device, pattern, count):
    size = len(pattern) * count
    device.map(device.base + CHUNK, 4 * CHUNK)
    device.fill(device.default_stream, device.base, CHUNK, b"#")
    device.fill(device.default_stream, device.base + 1, size, pattern)
    assert read(device, device.base, size + 2) == b"#" + pattern * count + (b"#" if size + 2 <= CHUNK else b"\0")


def test_a_device_opened_beside_another_has_a_range_of_its_own(device):
    other = Gpu()
    assert other.base % CHUNK == 0
    assert not device.base <= other.base < device.base + 64 * MIB
    x = np.arange(1000)
    np.testing.assert_array_equal(other.array(x).host(), x)
    other.device.close()


def test_a_range_that_cannot_be_is_refused():
    device = VirtualDevice(SPEC)
    with pytest.raises(DeviceMemoryError):
        device.reserve(1 << 62)
    device.close()


def test_close_gives_everything_back():
    descriptors = os.listdir("/proc/self/fd")
    before = resident_size()
    gpu = Gpu()
    gpu.array(np.ones(1 << 20))
    assert resident_size() - before >= 8 * MIB
    gpu.device.close()
    gpu.device.close()
    assert resident_size() - before < MIB
    assert os.listdir("/proc/self/fd") == descriptors


VARIABLES = (
    HEADER + ".global .b64 large[12500000]; .global .u32 first = 7;\n"
    ".visible .entry kernel(.param .u64 out) { .reg .u64 %rd<2>; .reg .u32 %r<2>;"
    " ld.param.u64 %rd1, [out]; ld.global.u32 %r1, [first]; st.global.u32 [%rd1], %r1; ret; }"
)


def test_variables_of_modules_go_with_the_last_that_refers_to_them(device):
    functions = [device.load(VARIABLES.encode()).function("kernel") for _ in range(2)]
    with pytest.raises(DeviceMemoryError, match="variables of modules"):
        device.load(VARIABLES.encode())
    out = device.base
    device.allocate(out, 4)
    for _ in range(5):
        del functions[0]
        functions.append(device.load(VARIABLES.encode()).function("kernel"))  # whose module goes at once
        device.launch(device.default_stream, functions[0], (1, 1, 1), (1, 1, 1), 0, out.to_bytes(8, "little"))
        assert bytes(next(device.read(device.default_stream, out, 4))) == b"\x07\0\0\0"


def large_locals(out):
    values = cuda.local.array(40000, np.float64)
    i = cuda.threadIdx.x
    for index in range(40000):
        values[index] = i
    cuda.syncthreads()
    out[i] = values[int(out[i]) % 40000]


def sums(out):
    cuda.syncthreads()
    cuda.atomic.add(out, cuda.threadIdx.x, 1.0)


def test_a_launch_that_finds_no_memory_of_the_host_spoils_no_later_one():
    gpu = Gpu()
    x = gpu.array(np.zeros(64))
    gpu.launch(sums, 4, 64, x)
    large = gpu.load(large_locals, x)
    lines = Path("/proc/self/status").read_text().splitlines()
    (used,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + 100 * MIB, hard))
    try:
        with pytest.raises(DeviceMemoryError):
            gpu.device.launch(gpu.stream, large, (4, 1, 1), (64, 1, 1), 0, Packer(Signature(none, typeof(x))).pack([x]))
        gpu.launch(sums, 4, 64, x)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    np.testing.assert_array_equal(x.host(), 8)
    gpu.device.close()


def test_events_take_the_time_between_them(device):
    stream = device.stream_create()
    start, end, silent = device.event_create(), device.event_create(), device.event_create(timing=False)
    assert device.event_query(start)  # never recorded
    device.event_record(start, stream)
    device.fill(stream, device.base, CHUNK, b"\1")
    device.event_record(end, stream)
    device.event_synchronize(end)
    device.stream_wait(stream, end)
    assert device.stream_query(stream) and device.event_query(end)
    assert 0 < device.event_elapsed_ms(start, end) < 10_000
    assert device.event_elapsed_ms(end, start) < 0
    device.event_record(silent, stream)
    for pair in ((start, silent), (start, device.event_create())):
        with pytest.raises(InvalidHandleError):
            device.event_elapsed_ms(*pair)
    device.synchronize(stream)
    device.synchronize()
    device.event_destroy(start)
    device.stream_destroy(stream)


def test_the_system_area_joins_what_comes_back():
    marks = {}
    area = SystemArea(4096, 10 * 256, lambda address, size, valid: marks.__setitem__(address, valid and size))
    addresses = [area.allocate(size) for size in (1, 256, 257, 0)]
    assert addresses == [4096, 4352, 4608, 5120]
    assert [marks[address] for address in addresses] == [1, 256, 257, 0]
    with pytest.raises(DeviceMemoryError):
        area.allocate(6 * 256)
    for address in (addresses[1], addresses[0], addresses[3], addresses[2], addresses[2], 12345):
        area.release(address)
    assert not any(marks.values())
    assert area.allocate(10 * 256) == 4096


def test_memory_that_the_machine_does_not_have_is_refused_before_anybody_touches_it():
    """The system would give it page by page, and kill for the page it has not."""
    size = 2 * machine_memory() // MEMORY_CHUNK_SIZE * MEMORY_CHUNK_SIZE
    memory = DeviceMemory(size)
    try:
        with pytest.raises(DeviceMemoryError, match="of memory left") as caught:
            memory.open_chunks(memory.base, size)
        assert caught.value.requested == size
        part = 64 * MIB
        memory.open_chunks(memory.base, part)
        with pytest.raises(DeviceMemoryError, match="64 MiB of them promised to this session"):
            memory.open_chunks(memory.base + part, size - part)
        memory.open_chunks(memory.base + part, part)
        memory.close_chunks(memory.base, 2 * part)
    finally:
        memory.close()


def test_how_much_is_left():
    left = room()
    assert left is not None and 0 < left <= machine_memory()
