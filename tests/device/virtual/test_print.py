"""printf and assert of kernels: text to the standard output of the process, a failed assertion as a fault."""

from __future__ import annotations

import ctypes
import io
import struct
import sys

import numpy as np
import pytest
from numba import cuda

from bitfusion.device.virtual import host_functions
from bitfusion.device.virtual.printf import format_printf
from bitfusion.errors import KernelFaultError
from tests.device.virtual.gpu import HEADER


def printer(x):
    i = cuda.grid(1)
    if i < 3:
        print("i =", i, "x =", x[i], 1.5)


def test_print(gpu, capsys):
    gpu.run(printer, 2, 32, np.arange(5, 69, dtype=np.int32))
    assert capsys.readouterr().out == "".join(f"i = {i} x = {i + 5} 1.500000\n" for i in range(3))


ASSERT = (
    HEADER
    + """
.extern .func __assertfail(.param .b64 message, .param .b64 file, .param .b32 line, .param .b64 function, .param .b64 size);
.global .align 1 .b8 message[6] = {120, 32, 60, 32, 53, 0};
.global .align 1 .b8 file[5] = {97, 46, 99, 117, 0};
.global .align 1 .b8 function[2] = {102, 0};
.visible .entry kernel() {
  .reg .b32 %r<2>; .reg .b64 %rd<4>; .reg .pred %p1;
  mov.u32 %r1, %tid.x;
  setp.lt.u32 %p1, %r1, 5;
  @%p1 bra FINE;
  cvta.global.u64 %rd1, message;
  mov.u64 %rd1, message;
  mov.u64 %rd2, file;
  mov.u64 %rd3, function;
  {
    .param .b64 p0; st.param.b64 [p0], %rd1;
    .param .b64 p1; st.param.b64 [p1], %rd2;
    .param .b32 p2; st.param.b32 [p2], 17;
    .param .b64 p3; st.param.b64 [p3], %rd3;
    .param .b64 p4; st.param.b64 [p4], 1;
    call.uni __assertfail, (p0, p1, p2, p3, p4);
  }
FINE:
  ret;
}
"""
)


def test_a_failed_assertion(gpu):
    function = gpu.load(ASSERT)
    gpu.device.launch(gpu.stream, function, (1, 1, 1), (5, 1, 1), 0, b"")
    with pytest.raises(KernelFaultError) as caught:
        gpu.device.launch(gpu.stream, function, (1, 1, 1), (8, 1, 1), 0, b"")
    assert caught.value.cuda_name == "CUDA_ERROR_ASSERT"
    assert caught.value.details["thread"] == "(5, 0, 0)"
    assert "a.cu:17: f: Assertion `x < 5` failed." in caught.value.message


def test_what_kernels_print_has_an_end(gpu, capsys, caplog, monkeypatch):
    monkeypatch.setattr(host_functions, "PRINTED_SIZE_MAX", 50)
    for _ in range(3):
        gpu.run(printer, 1, 32, np.arange(5, 69, dtype=np.int32))
    assert capsys.readouterr().out == "".join(f"i = {i} x = {i + 5} 1.500000\n" for i in range(3))
    assert "printed 63 characters; what follows is dropped" in caplog.text and len(caplog.records) == 1


def test_letters_that_the_output_cannot_encode(gpu, caplog, monkeypatch):
    with io.TextIOWrapper(io.BytesIO(), "ascii") as output:
        monkeypatch.setattr(sys, "stdout", output)
        gpu.run(snowman, 1, 1)
        monkeypatch.undo()
    assert "cannot be formatted" in caplog.text


def snowman():
    print("\N{SNOWMAN}")


STRINGS = {1: "text", 2: "100%"}


@pytest.mark.parametrize(
    ("template", "layout", "values", "expected"),
    [
        ("plain", "", (), "plain"),
        ("%d|%i|%u", "<iiI", (-1, 7, 0xFFFFFFFF), "-1|7|4294967295"),
        ("%5d|%-5d|%05d|%+d", "<iiii", (42, 42, 42, 42), "   42|42   |00042|+42"),
        ("%lld %llu", "<qQ", (-(2**60), 2**63), f"{-(2**60)} {2**63}"),
        ("%d %f %d", "<i4xdi", (1, 2.5, 3), "1 2.500000 3"),
        ("%.2f|%8.3e|%g", "<ddd", (3.14159, 12345.678, 0.0001), "3.14|1.235e+04|0.0001"),
        ("%x %X %o %#x", "<IIII", (255, 255, 8, 255), "ff FF 10 0xff"),
        ("%c%c", "<ii", (72, 105), "Hi"),
        ("%s is %s%%", "<QQ", (1, 2), "text is 100%%"),
        ("%p", "<Q", (0x1000,), "0x1000"),
        ("%*d|%.*f", "<ii i4x d".replace(" ", ""), (6, 42, 1, 2.55), "    42|2.5"),
        ("%q %d", "<i", (5,), "%q 5"),
    ],
)
def test_format(template, layout, values, expected):
    packed = ctypes.create_string_buffer(struct.pack(layout, *values) + bytes(16))
    assert format_printf(template, ctypes.addressof(packed), STRINGS.get) == expected
