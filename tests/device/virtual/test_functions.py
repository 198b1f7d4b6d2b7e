"""Local arrays, constants and device functions: inlined, called, recursive, through pointers, with barriers inside."""

from __future__ import annotations

import numpy as np
import pytest
from numba import cuda, float32, int32

from bitfusion.errors import InvalidValueError, UnsupportedError
from tests.device.virtual.gpu import HEADER

RANDOM = np.random.default_rng(17)


def local_arrays(x, y):
    i = cuda.grid(1)
    buffer = cuda.local.array(8, float32)
    if i < x.size:
        for k in range(8):
            buffer[k] = x[i] * k
        j = int(abs(x[i])) % 8
        buffer[j] += 100
        total = float32(0)
        for k in range(8):
            total += buffer[(k * 3 + j) % 8] * (k + 1)
        y[i] = total


def test_local_arrays_are_each_threads_own(gpu):
    x = (RANDOM.standard_normal(300) * 10).astype(np.float32)
    y = np.zeros_like(x)
    gpu.run(local_arrays, 3, 128, x, y)
    expected = []
    for value in x:
        buffer = [value * np.float32(k) for k in range(8)]
        j = int(abs(value)) % 8
        buffer[j] += np.float32(100)
        expected.append(sum(float(buffer[(k * 3 + j) % 8]) * (k + 1) for k in range(8)))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-3)


def local_across_barrier(x, y):
    buffer = cuda.local.array(4, int32)
    t = cuda.threadIdx.x
    for k in range(4):
        buffer[k] = x[t] * (k + 1)
    cuda.syncthreads()
    y[t] = buffer[t % 4] + buffer[(t + 1) % 4]


def test_local_arrays_survive_a_barrier(gpu):
    x = RANDOM.integers(0, 100, 96).astype(np.int32)
    y = np.zeros_like(x)
    gpu.run(local_across_barrier, 2, 96, x, y)
    t = np.arange(96)
    np.testing.assert_array_equal(y, x * (t % 4 + 1) + x * ((t + 1) % 4 + 1))


TABLE = np.arange(16, dtype=np.float32) ** 2


def constants(x, y):
    table = cuda.const.array_like(TABLE)
    i = cuda.grid(1)
    if i < x.size:
        y[i] = x[i] + table[i % 16]


def test_constant_arrays(gpu):
    x = RANDOM.standard_normal(100).astype(np.float32)
    y = np.zeros_like(x)
    gpu.run(constants, 1, 128, x, y)
    np.testing.assert_array_equal(y, x + TABLE[np.arange(100) % 16])


@cuda.jit(device=True, inline="never")
def polynomial(x, y):
    return x * x + y * float32(3) - float32(1)


@cuda.jit(device=True)
def pair(x):
    return x + 1, x * 2


def calls(x, y):
    i = cuda.grid(1)
    if i < x.size:
        a, b = pair(x[i])
        y[i] = polynomial(a, b) + polynomial(b, a)


def test_device_functions(gpu):
    x = RANDOM.standard_normal(300).astype(np.float32)
    y = np.zeros_like(x)
    gpu.run(calls, 3, 128, x, y)
    a, b = x.astype(np.float64) + 1, x.astype(np.float64) * 2
    np.testing.assert_allclose(y, a * a + 3 * b - 1 + b * b + 3 * a - 1, rtol=1e-5, atol=1e-5)


@cuda.jit(device=True, inline="never")
def block_sum(shared, t, value):
    shared[t] = value
    cuda.syncthreads()
    if t == 0:
        total = float32(0)
        for k in range(cuda.blockDim.x):
            total += shared[k]
        shared[0] = total
    cuda.syncthreads()
    result = shared[0]
    cuda.syncthreads()
    return result


def barriers_inside(x, y):
    shared = cuda.shared.array(128, float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    y[i] = block_sum(shared, t, x[i]) + block_sum(shared, t, x[i] * x[i])


def test_barriers_inside_a_device_function(gpu):
    x = RANDOM.integers(0, 10, 384).astype(np.float32)
    y = np.zeros_like(x)
    gpu.run(barriers_inside, 3, 128, x, y)
    blocks = x.reshape(3, 128)
    np.testing.assert_array_equal(y, np.repeat(blocks.sum(1) + (blocks**2).sum(1), 128))


FACTORIAL = (
    HEADER
    + """
.func (.reg .u32 %result) factorial(.reg .u32 %n) {
  .reg .pred %p1;
  .reg .b32 %r<4>;
  setp.le.u32 %p1, %n, 1;
  @%p1 bra ONE;
  sub.u32 %r1, %n, 1;
  call (%r2), factorial, (%r1);
  mul.lo.u32 %result, %r2, %n;
  ret;
ONE:
  mov.u32 %result, 1;
  ret;
}
.visible .entry kernel(.param .u64 out) {
  .reg .b64 %rd<4>;
  .reg .b32 %r<4>;
  ld.param.u64 %rd1, [out];
  mov.u32 %r1, %tid.x;
  mul.wide.u32 %rd2, %r1, 4;
  add.u64 %rd1, %rd1, %rd2;
  call (%r2), factorial, (%r1);
  st.global.u32 [%rd1], %r2;
  ret;
}
"""
)


def test_recursion(gpu):
    out = gpu.array(np.zeros(13, np.uint32))
    gpu.device.launch(gpu.stream, gpu.load(FACTORIAL), (1, 1, 1), (13, 1, 1), 0, out.address.to_bytes(8, "little"))
    expected = [1]
    for n in range(1, 13):
        expected.append(expected[-1] * n)
    np.testing.assert_array_equal(out.host(), expected)


POINTERS = (
    HEADER
    + """
.func (.param .b32 result) twice(.param .b32 value) {
  .reg .b32 %r<3>;
  ld.param.b32 %r1, [value];
  add.u32 %r2, %r1, %r1;
  st.param.b32 [result], %r2;
  ret;
}
.func (.param .b32 result) square(.param .b32 value) {
  .reg .b32 %r<3>;
  ld.param.b32 %r1, [value];
  mul.lo.u32 %r2, %r1, %r1;
  st.param.b32 [result], %r2;
  ret;
}
.global .align 8 .u64 table[2] = {twice, square};
.global .align 4 .u32 seen[2] = {17, 18};
.visible .entry kernel(.param .u64 out) {
  .reg .b64 %rd<8>;
  .reg .b32 %r<6>;
  prototype: .callprototype (.param .b32 _) _ (.param .b32 _);
  ld.param.u64 %rd1, [out];
  mov.u32 %r1, %tid.x;
  and.b32 %r2, %r1, 1;
  mul.wide.u32 %rd2, %r2, 8;
  mov.u64 %rd3, table;
  add.u64 %rd3, %rd3, %rd2;
  ld.global.u64 %rd4, [%rd3];
  {
    .param .b32 argument;
    .param .b32 result;
    st.param.b32 [argument], %r1;
    call (result), %rd4, (argument), prototype;
    ld.param.b32 %r3, [result];
  }
  ld.global.u32 %r4, [seen+4];
  add.u32 %r3, %r3, %r4;
  mul.wide.u32 %rd5, %r1, 4;
  add.u64 %rd6, %rd1, %rd5;
  st.global.u32 [%rd6], %r3;
  ret;
}
"""
)


def test_function_pointers_in_a_table_and_initialised_variables(gpu):
    out = gpu.array(np.zeros(8, np.uint32))
    gpu.device.launch(gpu.stream, gpu.load(POINTERS), (1, 1, 1), (8, 1, 1), 0, out.address.to_bytes(8, "little"))
    np.testing.assert_array_equal(out.host(), [18 + (i * i if i % 2 else 2 * i) for i in range(8)])


def test_variables_of_a_module_live_between_launches(gpu):
    text = (
        HEADER
        + """
    .global .u32 counter;
    .visible .entry kernel(.param .u64 out) {
      .reg .b64 %rd1; .reg .b32 %r<3>;
      ld.param.u64 %rd1, [out];
      atom.global.add.u32 %r1, [counter], 1;
      st.global.u32 [%rd1], %r1;
      ret;
    }
    """
    )
    out, function = gpu.array(np.zeros(1, np.uint32)), gpu.load(text)
    for expected in range(3):
        gpu.device.launch(gpu.stream, function, (1, 1, 1), (1, 1, 1), 0, out.address.to_bytes(8, "little"))
        assert out.host()[0] == expected


def test_texts_one_behind_the_other_are_linked_by_name(gpu):
    """As Numba gives them for debug builds: a text for the kernel, one for each device function."""
    kernel = (
        HEADER
        + """
    .extern .func (.param .b32 result) twice(.param .b32 value);
    .visible .entry kernel(.param .u64 out) {
      .reg .b64 %rd1; .reg .b32 %r1;
      .param .b32 a; .param .b32 b;
      ld.param.u64 %rd1, [out];
      st.param.b32 [a], 21;
      call (b), twice, (a);
      ld.param.b32 %r1, [b];
      st.global.u32 [%rd1], %r1;
      ret;
    }
    """
    )
    twice = (
        HEADER
        + """
    .visible .func (.param .b32 result) twice(.param .b32 value) {
      .reg .b32 %r1;
      ld.param.b32 %r1, [value]; add.u32 %r1, %r1, %r1; st.param.b32 [result], %r1; ret;
    }
    """
    )
    for text in (kernel + twice, twice + kernel):
        out = gpu.array(np.zeros(1, np.uint32))
        gpu.device.launch(gpu.stream, gpu.load(text), (1, 1, 1), (1, 1, 1), 0, out.address.to_bytes(8, "little"))
        assert out.host()[0] == 42


@pytest.mark.parametrize("values", [(5, 2.5, True, 1 + 2j), (-(2**63), float("inf"), False, -1j)])
def test_scalar_arguments(gpu, values):
    def scalars(a, b, c, d, out):
        out[0] = a
        out[1] = b
        out[2] = c
        out[3] = d.real
        out[4] = d.imag

    out = np.zeros(5)
    gpu.run(scalars, 1, 1, *values, out)
    a, b, c, d = values
    np.testing.assert_array_equal(out, [a, b, c, d.real, d.imag])


POINTED_AT = (
    HEADER
    + """
.visible .func (.param .b32 out) waits(.param .b32 x) { bar.sync 0; st.param.b32 [out], 3; ret; }
.visible .func (.param .b32 out) plain(.param .b32 x) {
  .reg .b32 %r1; ld.param.u32 %r1, [x]; add.u32 %r1, %r1, 1; st.param.b32 [out], %r1; ret;
}
.visible .entry good(.param .u64 out) {
  .reg .b64 %rd<3>; .reg .b32 %r<3>;
  ld.param.u64 %rd1, [out];
  mov.u64 %rd2, plain;
  mov.u32 %r1, 41;
  KIND: .callprototype (.param .b32 _) _ (.param .b32 _);
  call (%r2), %rd2, (%r1), KIND;
  st.global.u32 [%rd1], %r2;
  ret;
}
.visible .entry bad(.param .u64 out) {
  .reg .b64 %rd<3>;
  ld.param.u64 %rd1, [out];
  mov.u64 %rd2, waits;
  st.global.u64 [%rd1], %rd2;
  ret;
}
"""
)


def test_a_function_that_cannot_be_called_through_a_pointer_is_an_error_of_who_mentions_it(gpu):
    module, out = gpu.device.load(POINTED_AT.encode()), gpu.array(np.zeros(2, np.int32))
    gpu.device.launch(gpu.stream, module.function("good"), (1, 1, 1), (1, 1, 1), 0, out.address.to_bytes(8, "little"))
    assert out.host()[0] == 42
    with pytest.raises(UnsupportedError, match="called through a pointer"):
        module.function("bad")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (".param .b8 p; st.param.b8 [p], %h; call (r), plain, (p);", "plain takes 4 bytes as x"),
        (".param .b8 r1; call (r1), plain, (q);", "plain takes 4 bytes as out"),
        ("call (%r2), %rd2, (5), KIND;", "the size of a constant is not known"),
        (".param .b8 p; st.param.b8 [p], %h; call (r), vprintf, (p, p);", "argument 1 has 8 bytes"),
    ],
)
def test_calls_that_do_not_fit(gpu, call, words):
    body = "\n".join([
        ".reg .b64 %rd<3>; .reg .b32 %r<3>; .reg .b16 %h; mov.b16 %h, 1; mov.u64 %rd2, plain;",
        "KIND: .callprototype (.param .b32 _) _ (.param .b32 _);",
        ".param .b32 r; .param .b32 q; st.param.b32 [q], 1;",
        call,
    ])  # fmt: skip
    text = POINTED_AT + ".extern .func (.param .b32 c) vprintf(.param .b64 f, .param .b64 a);\n"
    text += f".visible .entry misfit() {{ {body} ret; }}"
    with pytest.raises(InvalidValueError, match=words):
        gpu.device.load(text.encode()).function("misfit")
