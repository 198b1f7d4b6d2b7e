"""Faults: a bad access is found to the byte and reported as CUDA does; the device is poisoned, the process lives."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from numba import cuda, float32, int32, int64

from bitfusion.device.virtual.source_line import source_line
from bitfusion.errors import KernelFaultError
from tests.device.virtual.gpu import HEADER, SPEC, Gpu
from tests.device.virtual.ptx import kernel, run


def fault(gpu, kernel, grid, block, *values, **options):
    """The fault that a launch must end with."""
    with pytest.raises(KernelFaultError) as caught:
        gpu.launch(kernel, grid, block, *values, **options)
    return caught.value


def store_at(x, index):
    i = cuda.grid(1)
    x[index + i] = 7


@pytest.mark.parametrize("index", [100, 131, 1 << 20, 1 << 40])
def test_a_store_behind_an_array(gpu, index):
    x = gpu.array(np.zeros(100, np.int32))
    error = fault(gpu, store_at, 1, 1, x, index)
    assert error.cuda_name == "CUDA_ERROR_ILLEGAL_ADDRESS"
    assert error.details["address"] == x.address + 4 * index
    assert (error.details["block"], error.details["thread"]) == ("(0, 0, 0)", "(0, 0, 0)")
    assert "store_at" in error.details["kernel"] and "line" in error.message


def test_the_fault_names_the_first_thread_behind_the_end(gpu):
    x = gpu.array(np.zeros(100, np.int32))
    error = fault(gpu, store_at, 1, 128, x, 0)
    assert error.details["thread"] == "(100, 0, 0)"
    assert error.details["address"] == x.address + 400


def store_2d(x):
    column, row = cuda.grid(2)
    x[row * 8 + column] = 1


def test_the_fault_names_the_block(gpu):
    x = gpu.array(np.zeros(8 * 16 - 1, np.int64))
    error = fault(gpu, store_2d, (2, 4), (4, 4), x)
    assert (error.details["block"], error.details["thread"]) == ("(1, 3, 0)", "(3, 3, 0)")


def test_half_an_element_behind_the_end_is_a_fault(gpu):
    address = gpu.allocate(402)
    text = (
        HEADER
        + """
    .visible .entry kernel(.param .u64 address) {
      .reg .b64 %rd1; .reg .b32 %r1;
      ld.param.u64 %rd1, [address]; ld.global.u32 %r1, [%rd1+400]; st.global.u32 [%rd1], %r1; ret;
    }"""
    )
    with pytest.raises(KernelFaultError, match="ILLEGAL_ADDRESS"):
        gpu.device.launch(gpu.stream, gpu.load(text), (1, 1, 1), (1, 1, 1), 0, address.to_bytes(8, "little"))


def load_at(x, index, out):
    out[0] = x[index]


def add_at(x, index):
    cuda.atomic.add(x, index, 1)


def test_loads_and_atomics_are_checked(gpu):
    x, out = (gpu.array(np.zeros(10, np.int32)) for _ in range(2))
    assert fault(gpu, load_at, 1, 1, x, 10, out).cuda_name == "CUDA_ERROR_ILLEGAL_ADDRESS"
    gpu = Gpu()
    x = gpu.array(np.zeros(10, np.int32))
    assert fault(gpu, add_at, 1, 1, x, 10).cuda_name == "CUDA_ERROR_ILLEGAL_ADDRESS"
    gpu.device.close()


def test_freed_memory_is_not_used_again(gpu):
    x = gpu.array(np.zeros(100, np.int32))
    gpu.launch(store_at, 1, 100, x, 0)
    gpu.device.release(x.address, x.size)
    error = fault(gpu, store_at, 1, 1, x, 0)
    assert error.details["address"] == x.address


TOUCH = (
    HEADER
    + """
.visible .entry touch(.param .u64 address) {
  .reg .b64 %rd1; .reg .b32 %r1;
  ld.param.u64 %rd1, [address];
  ld.SPACE.u32 %r1, [%rd1];
  st.SPACE.u32 [%rd1], %r1;
  ret;
}
"""
)


@pytest.mark.parametrize("space", ["global", "generic"])
@pytest.mark.parametrize("where", ["null", "unmapped", "below", "above", "host", "top", "misaligned"])
def test_addresses_that_are_nobodys(gpu, space, where):
    x = gpu.array(np.zeros(64, np.int32))
    host = np.zeros(16, np.int32)
    address = {
        "null": 0,
        "unmapped": gpu.base + SPEC.memory_size - 4096,
        "below": gpu.base - 4096,
        "above": gpu.base + (1 << 45),
        "host": host.ctypes.data,
        "top": (1 << 64) - 8,
        "misaligned": x.address + 2,
    }[where]
    text = TOUCH.replace(".SPACE", ".global" if space == "global" else "")
    with pytest.raises(KernelFaultError) as caught:
        gpu.device.launch(gpu.stream, gpu.load(text), (1, 1, 1), (1, 1, 1), 0, address.to_bytes(8, "little"))
    name = "CUDA_ERROR_MISALIGNED_ADDRESS" if where == "misaligned" else "CUDA_ERROR_ILLEGAL_ADDRESS"
    assert caught.value.cuda_name == name
    assert caught.value.details["address"] in (address, address - (1 << 64))


@pytest.mark.parametrize("distance", [-4, 256, 2**31, 2**32, 2**63 - 8, 2**63 - 4, 2**63, 2**64 - 8])
@pytest.mark.parametrize("variable", [".shared", ".local"])
def test_generic_addresses_far_from_their_window(gpu, variable, distance):
    moved = f"cvta{variable}.u64 %rd1, %rd1;" if variable == ".shared" else ""
    body = f"""{variable} .align 16 .b8 s[256]; mov.u64 %rd1, s; {moved}
    add.u64 %rd2, %rd1, {distance % 2**64}; st.u64 [%rd0], %rd1; ld.u32 %r1, [%rd2]; st.u32 [%rd0+8], %r1;"""
    with pytest.raises(KernelFaultError) as caught:
        run(gpu, kernel(body), np.zeros(2, np.int64))
    assert caught.value.cuda_name == "CUDA_ERROR_ILLEGAL_ADDRESS"


@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("space", ["global", "shared", "local", "dynamic"])
def test_a_variable_at_a_constant_offset_that_is_not_aligned(gpu, space, size):
    declaration = f".{space.replace('dynamic', 'extern .shared')} .align 16 .b8 s[{'' if space == 'dynamic' else 32}];"
    inside, outside = (declaration, "") if space == "local" else ("", declaration)
    targets = ", ".join(f"%r{index}" for index in range(1, 1 + size // 4))
    load = f"ld.{space.replace('dynamic', 'shared')}.v{size // 4}.u32 {{{targets}}}"
    for offset in (size, 4):
        text = kernel(f"{inside} setp.eq.u32 %p0, %r0, 1; @%p0 {load}, [s+{offset}];", declarations=outside)
        run(gpu, text, np.zeros(1), block=1, shared=32)  # which does not get there
        if offset == size:
            run(gpu, text, np.zeros(1), block=2, shared=32)
    with pytest.raises(KernelFaultError) as caught:
        run(gpu, text, np.zeros(1), block=2, shared=32)
    assert caught.value.cuda_name == "CUDA_ERROR_MISALIGNED_ADDRESS"
    assert caught.value.details["thread"] == "(1, 0, 0)"


def barrier_then_store(x, index):
    shared = cuda.shared.array(32, int32)
    t = cuda.threadIdx.x
    shared[t] = t
    cuda.syncthreads()
    x[index + shared[31 - t]] = 1
    cuda.syncthreads()


def test_a_fault_between_barriers(gpu):
    x = gpu.array(np.zeros(32, np.int32))
    gpu.launch(barrier_then_store, 4, 32, x, 0)
    error = fault(gpu, barrier_then_store, 4, 32, x, 1)
    assert error.details["thread"] == "(0, 0, 0)"
    assert error.details["address"] == x.address + 4 * 32


def tiles(x, out, count):
    """Rows of a tile are checked as a whole, with an address that depends on the round."""
    shared = cuda.shared.array((4, 32), int32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    total = 0
    for k in range(count):
        shared[ty, tx] = x[(k * 4 + ty) * 32 + tx]
        cuda.syncthreads()
        total += shared[3 - ty, 31 - tx]
        cuda.syncthreads()
    out[ty * 32 + tx] = total


def test_rows_between_barriers_are_checked_to_the_byte(gpu):
    size = 6 * 128 + 2 * 32 + 5  # the seventh tile ends within its third row
    x, out = gpu.array(np.arange(size, dtype=np.int32)), gpu.array(np.zeros(128, np.int32))
    gpu.launch(tiles, 1, (32, 4), x, out, 6)
    np.testing.assert_array_equal(out.host(), np.arange(768).reshape(6, 128).sum(0)[::-1])
    error = fault(gpu, tiles, 1, (32, 4), x, out, 7)
    assert error.details["thread"] == "(5, 2, 0)"
    assert error.details["address"] == x.address + 4 * size


@cuda.jit(device=True, inline="never")
def store_deep(x, index):
    x[index] = 1
    return index


def call_deep(x, index):
    x[0] = store_deep(x, index)


def test_a_fault_in_a_device_function(gpu):
    x = gpu.array(np.zeros(32, np.int64))
    error = fault(gpu, call_deep, 1, 1, x, 32)
    assert error.details["address"] == x.address + 256


def test_the_device_is_poisoned(gpu):
    x = gpu.array(np.zeros(100, np.int32))
    first = fault(gpu, store_at, 1, 1, x, 100)
    device, stream = gpu.device, gpu.stream
    event = device.event_create()
    verbs = [
        lambda: device.synchronize(),
        lambda: device.synchronize(stream),
        lambda: device.stream_query(stream),
        lambda: device.write(stream, x.address, b"1234"),
        lambda: device.write_buffer(stream, x.address, 4),
        lambda: list(device.read(stream, x.address, 4)),
        lambda: device.copy(stream, x.address, x.address + 8, 4),
        lambda: device.fill(stream, x.address, 4, b"\0"),
        lambda: device.event_record(event, stream),
        lambda: device.event_query(event),
        lambda: device.event_synchronize(event),
        lambda: gpu.launch(store_at, 1, 1, x, 0),
    ]
    for verb in verbs:
        with pytest.raises(KernelFaultError) as again:
            verb()
        assert (again.value.message, again.value.details) == (first.message, first.details)
    device.release(x.address, x.size)  # the worker's books go on
    device.unmap(gpu.base, 2 << 20)


def test_a_trap(gpu):
    text = (
        HEADER
        + """
    .visible .entry kernel() {
      .reg .pred %p1; .reg .b32 %r<3>;
      mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 5; @%p1 trap; ret;
    }"""
    )
    with pytest.raises(KernelFaultError, match="trap") as caught:
        gpu.device.launch(gpu.stream, gpu.load(text), (1, 1, 1), (32, 1, 1), 0, b"")
    assert caught.value.cuda_name == "CUDA_ERROR_LAUNCH_FAILED"
    assert caught.value.details["thread"] == "(5, 0, 0)"


DEADLOCK = (
    HEADER
    + """
.visible .entry kernel() {
  .reg .pred %p1; .reg .b32 %r<2>;
  mov.u32 %r1, %tid.x;
  setp.lt.u32 %p1, %r1, 16;
  @%p1 bar.sync 1, 64;
  bar.sync 0;
  ret;
}
"""
)


def test_a_deadlock_at_barriers_is_reported_not_hung(gpu):
    with pytest.raises(KernelFaultError, match="wait for each other"):
        gpu.device.launch(gpu.stream, gpu.load(DEADLOCK), (2, 1, 1), (32, 1, 1), 0, b"")


def overflow_shared(x):
    shared = cuda.shared.array(16, float32)
    shared[cuda.threadIdx.x] = 1
    cuda.syncthreads()
    x[0] = shared[0]


def test_shared_memory_is_checked(gpu):
    x = gpu.array(np.zeros(1, np.float32))
    gpu.launch(overflow_shared, 1, 16, x)
    error = fault(gpu, overflow_shared, 1, 17, x)
    assert error.cuda_name == "CUDA_ERROR_ILLEGAL_ADDRESS"
    assert (error.details["address"], error.details["thread"]) == (64, "(16, 0, 0)")


def spin(x):
    while x[0] == 0:
        cuda.threadfence()
    x[1] = 1


def spin_on_nothing(x):
    i = int64(1)
    while i != 0:
        i = (i * 5 + 1) | 1
    x[0] = i


def spin_at_barriers(x):
    while x[0] == 0:
        cuda.syncthreads()


def spin_on_a_lock(x):
    while cuda.atomic.cas(x, 0, 1, 2) == 0:
        pass


SPINS = [spin, spin_on_nothing, spin_at_barriers, spin_on_a_lock]


@pytest.mark.parametrize("blocks", [1, 50])
@pytest.mark.parametrize("kernel", SPINS)
def test_abort_ends_an_endless_kernel(gpu, kernel, blocks):
    x = gpu.array(np.zeros(64, np.int64))
    gpu.load(kernel, x)
    ended = []

    def run():
        ended.append(fault(gpu, kernel, blocks, 64, x))

    thread = threading.Thread(target=run)
    thread.start()
    while gpu.device._launcher._record.next == 0:  # it has taken its first block
        time.sleep(0.001)
    gpu.device.abort()
    thread.join(10)
    assert not thread.is_alive()
    assert "stopped because the session ended" in ended[0].message


def test_after_an_abort_nothing_runs(gpu):
    x = gpu.array(np.zeros(64, np.int32))
    gpu.device.abort()
    assert "session ended" in fault(gpu, store_at, 1, 64, x, 0).message
    gpu.device.close()


@pytest.mark.parametrize("kernel", SPINS)
def test_a_time_limit_ends_an_endless_kernel(kernel):
    gpu = Gpu(timeout_s=0.05)
    error = fault(gpu, kernel, 2, 32, gpu.array(np.zeros(64, np.int64)))
    assert error.cuda_name == "CUDA_ERROR_LAUNCH_TIMEOUT"
    gpu.device.close()


def test_the_line_of_the_source(gpu):
    x = gpu.array(np.zeros(100, np.int32))
    error = fault(gpu, store_at, 1, 1, x, 100, lineinfo=True)
    line = store_at.__code__.co_firstlineno + 2
    assert (error.details["file"], error.details["line"]) == (__file__, line)
    assert error.message.endswith(f" at {__file__}:{line}")
    error = fault(Gpu(), store_at, 1, 1, x, 100)
    assert "file" not in error.details


@pytest.mark.parametrize(
    ("line", "place"),
    [(3, None), (5, ("a.py", 7)), (6, ("a.py", 7)), (7, ("b.py", 1)), (10, None), (12, None), (99, None)],
)
def test_lines_of_sources(line, place):
    text = """.version 8.0
.file 1 "a.py"
.visible .entry first() {
.loc 1 7 3
ret;
}
\t.loc\t2 1 1, function_name $x, inlined_at 1 2 3
ret;
.func second() {
ret;
.loc 3 1 1
ret;
}
.func third() {}
.file 2 "b.py"
"""
    assert source_line(text, line) == place


def look_up(table, indices, out):
    i = cuda.grid(1)
    out[i] = table[indices[i]] + table[indices[i] & 15]


def look_up_shared(table, indices, out):
    shared = cuda.shared.array(0, int32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    if t < table.size:
        shared[t] = table[t]
    cuda.syncthreads()
    out[i] = shared[indices[i]] + shared[indices[i] & 15]


def add_up(table, indices, out):
    """In a loop, as a row that is looked at once for each iteration."""
    for i in range(cuda.grid(1), indices.size, cuda.gridsize(1)):
        out[i] = cuda.atomic.add(table, indices[i], 0) + table[indices[i] & 15]


LOOK_UPS = {look_up: 0, add_up: 0, look_up_shared: 4}
"""Kernels that look up a table with bytes, and the bytes of dynamic shared memory they need for each of its entries."""


@pytest.mark.parametrize("last", [255, 254, 100, 15])
@pytest.mark.parametrize("kernel", LOOK_UPS)
def test_tables_that_a_byte_looks_up_are_checked_to_the_entry(gpu, kernel, last):
    """Also those that are shorter than what bytes reach."""
    values = np.random.default_rng(last).integers(0, last, 1024).astype(np.uint8)
    values[999] = last
    entries = np.arange(last + 1, dtype=np.int32) * 3 + 1
    table, indices, out = map(gpu.array, (entries, values, np.zeros(1024, np.int32)))
    shared = LOOK_UPS[kernel] * (last + 1)
    gpu.launch(kernel, 4, 256, table, indices, out, shared=shared)
    np.testing.assert_array_equal(out.host(), entries[values] + entries[values & 15])
    shorter = gpu.array(entries[:-1])
    error = fault(gpu, kernel, 4, 256, shorter, indices, out, shared=max(shared - 4, 0))
    assert (error.details["block"], error.details["thread"]) == ("(3, 0, 0)", f"({999 - 3 * 256}, 0, 0)")
    if not shared:
        assert error.details["address"] == shorter.address + 4 * last


def test_a_table_that_is_not_aligned(gpu):
    body = """cvt.u64.u32 %rd5, %r0; add.u64 %rd2, %rd1, %rd5; ld.global.u8 %r1, [%rd2]; mul.wide.u32 %rd3, %r1, 4;
    add.u64 %rd4, %rd3, %rd0; {}; atom.global.add.u32 %r2, [%rd4{}], 1;"""
    for move, offset in (
        ("add.u64 %rd4, %rd4, 2", ""),
        ("", "+2"),
        ("sub.u64 %rd4, %rd4, %rd3; mad.wide.u32 %rd4, %r1, 2, %rd4", ""),
    ):
        gpu = Gpu()
        try:
            with pytest.raises(KernelFaultError) as caught:
                run(
                    gpu,
                    kernel(body.format(move, offset), 2),
                    np.zeros(512, np.int32),
                    np.full(64, 5, np.uint8),
                    block=64,
                )
            assert caught.value.cuda_name == "CUDA_ERROR_MISALIGNED_ADDRESS"
            assert caught.value.details["thread"] == "(0, 0, 0)"
        finally:
            gpu.device.close()
