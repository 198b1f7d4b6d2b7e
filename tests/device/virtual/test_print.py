"""printf and assert of kernels: text for the program's standard output, a failed assertion as a fault and a line for its standard error."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from numba import cuda

from bitfusion.device.virtual.printf import ARGUMENTS_MAX, format_printf
from bitfusion.errors import KernelFaultError
from bitfusion.session.output import STDERR, STDOUT
from tests.device.virtual.gpu import HEADER


def printed(gpu, descriptor=STDOUT):
    """What kernels have printed since."""
    return b"".join(data for place, data in gpu.device.take_output() if place == descriptor).decode()


def printer(x):
    i = cuda.grid(1)
    if i < 3:
        print("i =", i, "x =", x[i], 1.5)


def snowman():
    print("\N{SNOWMAN}")


def test_print(gpu):
    gpu.run(printer, 2, 32, np.arange(5, 69, dtype=np.int32))
    assert printed(gpu) == "".join(f"i = {i} x = {i + 5} 1.500000\n" for i in range(3))
    gpu.run(snowman, 1, 1)
    assert printed(gpu) == "\N{SNOWMAN}\n"
    assert printed(gpu) == ""


def data(name, values):
    """A variable of bytes with a zero behind them."""
    items = ", ".join(map(str, [*values, 0]))
    return f".global .align 1 .b8 {name}[{len(values) + 1}] = {{{items}}};\n"


ASSERT = (
    HEADER
    + """
.extern .func __assertfail(.param .b64 message, .param .b64 file, .param .b32 line, .param .b64 function, .param .b64 size);
"""
    + data("message", b"x < 5")
    + data("file", b"a.cu")
    + data("function", b"f")
    + """
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
        gpu.device.launch(gpu.stream, function, (3, 1, 1), (6, 1, 1), 0, b"")
    assert caught.value.cuda_name == "CUDA_ERROR_ASSERT"
    assert caught.value.details["thread"] == "(5, 0, 0)"
    assert "a.cu:17: f: Assertion `x < 5` failed." in caught.value.message
    said = printed(gpu, STDERR).splitlines()
    assert said and {line[len("a.cu:17: f: block: [") + 1 :] for line in said} == {
        ",0,0], thread: [5,0,0] Assertion `x < 5` failed."
    }


PRINTF = (
    HEADER
    + """
.extern .func (.param .b32 count) vprintf(.param .b64 format, .param .b64 arguments);
FORMAT
.visible .entry kernel(.param .u64 out, .param .u64 other) {
  .local .align 8 .b8 packed[SIZE];
  .reg .b32 %r1; .reg .b64 %rd<6>;
  ld.param.u64 %rd5, [other];
  mov.u64 %rd1, packed;
  cvta.local.u64 %rd2, %rd1;
  mov.u64 %rd3, 0x0000000700000005;
  st.local.u64 [%rd1], %rd3;
  mov.u64 %rd4, format;
  {
    .param .b64 p0; st.param.b64 [p0], %rd4;
    .param .b64 p1; st.param.b64 [p1], ARGUMENTS;
    .param .b32 r0;
    call.uni (r0), vprintf, (p0, p1);
    ld.param.b32 %r1, [r0];
  }
  ld.param.u64 %rd3, [out];
  st.global.u32 [%rd3], %r1;
  ret;
}
"""
)


@pytest.mark.parametrize(
    ("template", "size", "arguments", "expected", "count"),
    [
        (b"%d %d|", 8, "%rd2", "5 7|", 2),
        (b"%d %d %d %lld|", 8, "%rd2", "5 7 %d %lld|", 2),  # never beyond the packed arguments
        (b"%d %d|", 4096, "%rd2", "5 7|", 2),
        (b"%s|", 8, "%rd2", "|", 1),  # a pointer to nowhere
        (b"%d|", 8, "0", "%d|", 0),
        (b"%d %d|", 8, "%rd5", "%d %d|", 0),  # an address of the host
        (b"nothing|", 8, "%rd2", "nothing|", 0),
    ],
)
def test_a_format_that_asks_for_more_than_there_is(gpu, template, size, arguments, expected, count):
    text = PRINTF.replace("FORMAT", data("format", template)).replace("SIZE", str(size))
    function = gpu.load(text.replace("ARGUMENTS", arguments))
    out, host = gpu.array(np.zeros(1, np.int32)), np.zeros(4, np.int32)
    gpu.device.launch(gpu.stream, function, (1, 1, 1), (1, 1, 1), 0, struct.pack("<QQ", out.address, host.ctypes.data))
    assert (printed(gpu), out.host()[0]) == (expected, count)


def chatter(x):
    i = cuda.grid(1)
    print("a line that is somewhat long, of thread", i, "of many")
    x[i] += 1


def test_the_oldest_go_when_there_is_too_much(gpu, monkeypatch):
    monkeypatch.setattr(gpu.device._launcher.output, "_size_max", 100_000)
    gpu.run(chatter, 40, 256, np.zeros(40 * 256, np.int32))
    lines = printed(gpu).splitlines()
    assert lines[0].startswith("[bitfusion: ") and lines[0].endswith(" waits for the GPU]")
    lost = int(lines[0].split()[1])
    assert all(line.startswith("a line") and line.endswith("of many") for line in lines[1:])
    total = sum(len(f"a line that is somewhat long, of thread {i} of many\n") for i in range(40 * 256))
    assert lost + sum(len(line) + 1 for line in lines[1:]) == total
    assert 50_000 < total - lost <= 100_000


STRINGS = {1: b"text", 2: b"100%", 3: b"%d%n", 4: b"\xff"}


@pytest.mark.parametrize(
    ("template", "layout", "values", "expected"),
    [
        ("plain", "", (), "plain"),
        ("%d|%i|%u", "<iiI", (-1, 7, 0xFFFFFFFF), "-1|7|4294967295"),
        ("%5d|%-5d|%05d|%+d|% d", "<iiiii", (42, 42, 42, 42, 42), "   42|42   |00042|+42| 42"),
        ("%.0d|%.5d|%08.5d|%+u", "<iiii", (0, 42, 42, 42), "|00042|   00042|42"),
        ("%hhd %hd %hhu", "<iii", (300, 70000, -1), "44 4464 255"),
        ("%lld %llu %ld %zu", "<qQqQ", (-(2**60), 2**63, -1, 5), f"{-(2**60)} {2**63} -1 5"),
        ("%d %f %d", "<i4xdi", (1, 2.5, 3), "1 2.500000 3"),
        ("%.2f|%8.3e|%g|%G", "<dddd", (3.14159, 12345.678, 0.0001, 1e-10), "3.14|1.235e+04|0.0001|1E-10"),
        ("%f %F %e %010f", "<dddd", (float("nan"), float("inf"), -float("inf"), float("inf")), "nan INF -inf        inf"),
        ("%a %A %.1a", "<ddd", (1.5, -2.0, 1.0), "0x1.8p+0 -0X1P+1 0x1.0p+0"),
        ("%.3f|%.f|%#.f", "<ddd", (1e300, 2.5, 2.0), f"{1e300:.3f}|2|2."),
        ("%x %X %o %#x %#X %#o %#x", "<IIIIIII", (255, 255, 8, 255, 255, 8, 0), "ff FF 10 0xff 0XFF 010 0"),
        ("%c%c%3c", "<iii", (72, 105, 33), "Hi  !"),
        ("%s is %s%%", "<QQ", (1, 2), "text is 100%%"),
        ("%8s|%-8s|%.2s", "<QQQ", (1, 1, 1), "    text|text    |te"),
        ("%s", "<Q", (3,), "%d%n"),
        ("%p %20p %p", "<QQQ", (0x1000, 0x20, 0), "0x1000                 0x20 (nil)"),
        ("%*d|%.*f|%-*d|%*d|%.*d", "<ii i4x d ii ii ii".replace(" ", ""), (6, 42, 1, 2.55, 4, 1, -4, 1, -1, 7), "    42|2.5|1   |1   |7"),
        ("%q %d %n %ls %lc %", "<i", (5,), "%q 5 %n %ls %lc %"),
        ("%99999d %d", "<i", (5,), "%99999d 5"),
    ],
)  # fmt: skip
def test_format(template, layout, values, expected):
    found, _ = format_printf(template.encode(), struct.pack(layout, *values), STRINGS.get)
    assert found.decode() == expected


def test_bytes_that_are_no_text_stay_what_they_are():
    packed = struct.pack("<iiQ", 0xFF, 0, 4)
    assert format_printf(b"%c%c%s", packed, STRINGS.get) == (b"\xff\0\xff", 3)


def test_no_more_than_32_arguments_and_no_endless_width():
    packed = struct.pack(f"<{2 * ARGUMENTS_MAX}i", *[7] * 2 * ARGUMENTS_MAX)
    assert format_printf(b"%d" * 40, packed, STRINGS.get) == (b"7" * 32 + b"%d" * 8, 32)
    found, _ = format_printf(b"%*d", struct.pack("<ii", 2**31 - 1, 1), STRINGS.get)
    assert len(found) == 1024
