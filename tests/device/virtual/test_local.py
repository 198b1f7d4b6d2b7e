"""Local memory and the stack: what a thread keeps for itself, that it reaches nothing else by it, and that calls have an end."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from numba import cuda, int32, int64

from bitfusion.device.virtual.layout import CompileOptions
from bitfusion.device.virtual.local_memory import STACK_SIZE
from bitfusion.errors import KernelFaultError
from tests.device.virtual.gpu import HEADER, Gpu


def fault(gpu, kernel, grid, block, *values):
    """The fault that a launch must end with."""
    with pytest.raises(KernelFaultError) as caught:
        gpu.launch(kernel, grid, block, *values)
    return caught.value


@cuda.jit(device=True, inline="never")
def sum_up(items, count):
    total = 0
    for i in range(count):
        total += items[i]
    return total


def by_name(x, index):
    own = cuda.local.array(8, int32)
    for i in range(8):
        own[i] = i
    own[index] += 100
    x[cuda.grid(1)] = own[3] + own[index]


def by_call(x, count):
    """The address goes to a function."""
    own = cuda.local.array(8, int64)
    for i in range(8):
        own[i] = cuda.threadIdx.x + i
    x[cuda.grid(1)] = sum_up(own, count)


def over_barriers(x, index):
    own = cuda.local.array(8, int32)
    for i in range(8):
        own[i] = i
    cuda.syncthreads()
    own[index] += cuda.threadIdx.x
    cuda.syncthreads()
    x[cuda.grid(1)] = own[index]


KERNELS = {
    "by_name": (by_name, 5, lambda i: 3 + 105),
    "by_call": (by_call, 8, lambda i: 8 * i + 28),
    "over_barriers": (over_barriers, 5, lambda i: 5 + i),
}
WRONG = [8, 9, 1000, 1 << 22, -9, 1 << 40]


@pytest.mark.parametrize("name", KERNELS)
def test_local_arrays(gpu, name):
    kernel, index, expected = KERNELS[name]
    x = np.zeros(64, np.int64)
    gpu.run(kernel, 1, 64, x, index)
    np.testing.assert_array_equal(x, [expected(i) for i in range(64)])


@pytest.mark.parametrize("index", WRONG)
@pytest.mark.parametrize("name", ["by_name", "over_barriers"])
def test_an_index_outside_of_a_local_array(gpu, name, index):
    x = gpu.array(np.zeros(64, np.int64))
    error = fault(gpu, KERNELS[name][0], 1, 64, x, index)
    assert error.cuda_name == "CUDA_ERROR_ILLEGAL_ADDRESS"
    assert (error.details["thread"], error.details["block"]) == ("(0, 0, 0)", "(0, 0, 0)")
    assert "of local memory, outside of its variable" in error.message


def test_an_index_far_outside_in_a_function(gpu):
    """Where the variable is not known any more: whatever lies in the block's local area may be reached, and nothing else."""
    error = fault(gpu, by_call, 1, 64, gpu.array(np.zeros(64, np.int64)), 1 << 30)
    assert error.cuda_name == "CUDA_ERROR_ILLEGAL_ADDRESS"


POINTERS = (
    HEADER
    + """
.visible .func touch(.param .b64 address) {
  .reg .b64 %a; .reg .b32 %v;
  ld.param.u64 %a, [address];
  ld.SPACE.u32 %v, [%a];
  add.u32 %v, %v, 1;
  st.SPACE.u32 [%a], %v;
  ret;
}
.visible .entry kernel(.param .u64 out, .param .u64 distance) {
  .local .align 8 .b8 own[64];
  .reg .b64 %rd<8>; .reg .b32 %r<4>;
  ld.param.u64 %rd1, [out];
  ld.param.u64 %rd2, [distance];
  mov.u64 %rd3, own;
  cvta.local.u64 %rd4, %rd3;
  mov.u32 %r1, 41;
  st.local.u32 [%rd3+16], %r1;
  add.u64 %rd5, %rd4, %rd2;
  {
    .param .b64 p0; st.param.b64 [p0], %rd5;
    call.uni touch, (p0);
  }
  ld.local.u32 %r2, [%rd3+16];
  st.global.u32 [%rd1], %r2;
  ret;
}
"""
)


@pytest.mark.parametrize("space", [".local", ""])
def test_the_address_of_a_local_variable_in_a_function(gpu, space):
    out = gpu.array(np.zeros(1, np.int32))
    gpu.launch(POINTERS.replace(".SPACE", space), 1, 1, np.int64(out.address), np.int64(16))
    assert out.host()[0] == 42


@pytest.mark.parametrize("space", [".local", ""])
@pytest.mark.parametrize("distance", [-(1 << 20), -64, 1 << 19, 1 << 24, 18])
def test_no_address_made_of_it_leads_out_of_the_local_area(gpu, space, distance):
    out = np.int64(gpu.allocate(4))
    error = fault(gpu, POINTERS.replace(".SPACE", space), 1, 1, out, np.int64(distance))
    expected = "MISALIGNED_ADDRESS" if distance == 18 else "ILLEGAL_ADDRESS"
    assert error.cuda_name == f"CUDA_ERROR_{expected}"


WALK = (
    HEADER
    + """
.visible .entry kernel(.param .u64 out, .param .u32 count) {
  .local .align 4 .b8 own[32];
  .reg .b64 %rd<6>; .reg .b32 %r<6>; .reg .pred %p;
  ld.param.u64 %rd1, [out];
  ld.param.u32 %r1, [count];
  mov.u64 %rd2, own;
  mov.u32 %r2, 0;
AGAIN:
  st.local.u32 [%rd2], %r2;
  add.u64 %rd2, %rd2, 4;
  add.u32 %r2, %r2, 1;
  setp.lt.u32 %p, %r2, %r1;
  @%p bra AGAIN;
  ld.local.u32 %r3, [%rd2+-4];
  st.global.u32 [%rd1], %r3;
  ret;
}
"""
)


def test_a_pointer_that_walks_over_a_local_array(gpu):
    out = gpu.array(np.zeros(1, np.int32))
    gpu.launch(WALK, 1, 1, np.int64(out.address), np.int32(8))
    assert out.host()[0] == 7
    assert fault(gpu, WALK, 1, 1, np.int64(out.address), np.int32(1 << 20)).cuda_name == "CUDA_ERROR_ILLEGAL_ADDRESS"


# the stack


@cuda.jit(device=True)
def fibonacci(n):
    if n < 2:
        return n
    return fibonacci(n - 1) + fibonacci(n - 2)


def recursion(x, n):
    x[cuda.grid(1)] = fibonacci(n)


def test_recursion(gpu):
    x = np.zeros(64, np.int64)
    gpu.run(recursion, 2, 32, x, 15)
    assert (x == 610).all()


@pytest.mark.parametrize("blocks", [1, 8])
def test_recursion_without_an_end(gpu, blocks):
    error = fault(gpu, recursion, blocks, 32, gpu.array(np.zeros(256, np.int64)), 1 << 40)
    assert error.cuda_name == "CUDA_ERROR_HARDWARE_STACK_ERROR"
    assert "deeper than its stack allows" in error.message and error.details["thread"] == "(0, 0, 0)"


FRAMES = (
    HEADER
    + """
.visible .func (.param .b32 out) down(.param .b32 n) {
  .local .align 8 .b8 own[1024];
  .reg .b64 %rd<4>; .reg .b32 %r<6>; .reg .pred %p;
  ld.param.u32 %r1, [n];
  mov.u64 %rd1, own;
  cvta.local.u64 %rd2, %rd1;
  st.u32 [%rd2+1020], %r1;
  setp.eq.u32 %p, %r1, 0;
  @%p bra DONE;
  sub.u32 %r2, %r1, 1;
  {
    .param .b32 p0; st.param.b32 [p0], %r2;
    .param .b32 r0;
    call.uni (r0), down, (p0);
    ld.param.b32 %r3, [r0];
  }
  ld.u32 %r4, [%rd2+1020];
  add.u32 %r1, %r3, %r4;
DONE:
  USE
  st.param.b32 [out], %r1;
  ret;
}
.visible .entry kernel(.param .u64 out, .param .u32 n) {
  .reg .b64 %rd1; .reg .b32 %r<3>;
  ld.param.u64 %rd1, [out];
  ld.param.u32 %r1, [n];
  {
    .param .b32 p0; st.param.b32 [p0], %r1;
    .param .b32 r0;
    call.uni (r0), down, (p0);
    ld.param.b32 %r2, [r0];
  }
  st.global.u32 [%rd1], %r2;
  ret;
}
"""
)


def test_frames_of_a_recursion_do_not_share_their_variables(gpu):
    """Each call has its own, and the stack holds exactly as many as fit."""
    depth = STACK_SIZE // 1024
    text = FRAMES.replace("USE", "xor.b64 %rd3, %rd2, %rd2;")
    out = gpu.array(np.zeros(1, np.int32))
    gpu.launch(text, 1, 1, np.int64(out.address), np.int32(depth - 1))
    assert out.host()[0] == sum(range(depth))
    assert fault(gpu, text, 1, 1, np.int64(out.address), np.int32(depth)).cuda_name == "CUDA_ERROR_HARDWARE_STACK_ERROR"


@cuda.jit(device=True)
def count_calls(x, n):
    """More calls than a life is long, none of them deep."""
    if n == 0:
        cuda.atomic.add(x, 0, 1)
        return 0
    return count_calls(x, n - 1) + count_calls(x, n - 1)


def endless_calls(x, n):
    x[1] = count_calls(x, n)


def test_calls_without_an_end_can_be_stopped(gpu):
    x = gpu.array(np.zeros(2, np.int64))
    gpu.load(endless_calls, x, 60)
    ended = []
    thread = threading.Thread(target=lambda: ended.append(fault(gpu, endless_calls, 1, 1, x, 60)))
    thread.start()
    while gpu.device._launcher._record.next == 0:
        time.sleep(0.001)
    gpu.device.abort()
    thread.join(10)
    assert not thread.is_alive()
    assert "stopped because the session ended" in ended[0].message


def test_what_is_not_checked_still_runs():
    gpu = Gpu(options=CompileOptions(bounds_check=False, shared_check=False))
    for kernel, index, expected in KERNELS.values():
        x = np.zeros(64, np.int64)
        gpu.run(kernel, 1, 64, x, index)
        np.testing.assert_array_equal(x, [expected(i) for i in range(64)])
    gpu.device.close()


PARAMETER = (
    HEADER
    + """
.visible .func (.param .b32 out) second(.param .align 8 .b8 pair[16]) {
  .reg .b64 %rd<3>; .reg .b32 %r1;
  mov.b64 %rd1, pair;
  add.u64 %rd1, %rd1, 8;
  ld.local.u32 %r1, [%rd1];
  st.param.b32 [out], %r1;
  ret;
}
.visible .entry kernel(.param .u64 out) {
  .reg .b64 %rd1; .reg .b32 %r<3>;
  ld.param.u64 %rd1, [out];
  mov.u32 %r1, 7;
  {
    .param .align 8 .b8 p0[16]; st.param.b32 [p0+8], %r1;
    .param .b32 r0;
    call.uni (r0), second, (p0);
    ld.param.b32 %r2, [r0];
  }
  st.global.u32 [%rd1], %r2;
  ret;
}
"""
)


def test_the_address_of_a_parameter(gpu):
    out = gpu.array(np.zeros(1, np.int32))
    gpu.launch(PARAMETER, 1, 1, np.int64(out.address))
    assert out.host()[0] == 7


UNDEFINED = (
    HEADER
    + """
.visible .entry kernel(.param .u64 out) {
  .local .align 8 .b8 own[16];
  .reg .b64 %rd<6>; .reg .b32 %r<3>; .reg .pred %p;
  ld.param.u64 %rd1, [out];
  mov.u64 %rd2, own;
  ld.local.u64 %rd3, [%rd2+8];
  add.u64 %rd4, %rd3, %rd5;
  add.u64 %rd4, %rd4, %rd1;
  st.global.u64 [%rd4], %rd4;
  mov.u32 %r1, %tid.x;
  @%p trap;
  ret;
}
"""
)


def test_what_was_never_written_is_zeros(gpu):
    """To LLVM it would be undefined: one value for a check and another for the access behind it."""
    out = gpu.array(np.zeros(1, np.int64))
    gpu.launch(UNDEFINED, 1, 1, np.int64(out.address))
    assert out.host()[0] == out.address
