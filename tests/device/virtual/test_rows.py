"""What is decided for a row of threads by a look at its ends is what every thread decides: values that wrap around, saturate or
change their sign in between.
"""

from __future__ import annotations

import numpy as np
import pytest

from bitfusion.errors import KernelFaultError
from tests.device.virtual.ptx import kernel, run

INDEX = {
    "16-bit values that wrap around at the same thread": (
        "cvt.u16.u32 %h1, %r0; add.u16 %h2, %h1, 65530; sub.u16 %h3, 6, %h1;"
        "cvt.u32.u16 %r1, %h2; cvt.u32.u16 %r2, %h3; add.u32 %r3, %r1, %r2;",
        lambda i: (i + 65530) % 65536 + (6 - i) % 65536,
        13,
    ),
    "bytes that wrap around at the row's ends": (
        "sub.u32 %r4, 256, %r0; cvt.u32.u8 %r1, %r0; cvt.u32.u8 %r2, %r4; add.u32 %r3, %r1, %r2;",
        lambda i: i % 256 + (256 - i) % 256,
        257,
    ),
    "32-bit values that wrap around at the same thread": (
        "sub.u32 %r1, %r0, 5; sub.u32 %r2, 5, %r0; cvt.u64.u32 %rd3, %r1; cvt.u64.u32 %rd4, %r2; add.u64 %rd6, %rd3, %rd4;"
        "shr.u64 %rd7, %rd6, 32; cvt.u32.u64 %r4, %rd7; add.u32 %r3, %r4, %r0;",
        lambda i: ((i - 5) % 2**32 + (5 - i) % 2**32) // 2**32 + i,
        11,
    ),
    "saturation at either end": (
        "sub.u32 %r4, 511, %r0; cvt.sat.u8.u32 %r1, %r0; cvt.sat.u8.u32 %r2, %r4; add.u32 %r3, %r1, %r2;",
        lambda i: np.minimum(i, 255) + np.minimum(511 - i, 255),
        512,
    ),
    "a 16-bit sign that changes and changes back": (
        "mul.lo.u32 %r1, %r0, 65; cvt.u16.u32 %h1, %r1; shr.s16 %h2, %h1, 15; cvt.s32.s16 %r2, %h2; sub.u32 %r3, %r0, %r2;",
        lambda i: i + (65 * i % 65536 >= 32768),
        1010,
    ),
}
"""PTX that computes an index in %r3 from the thread in %r0; the same in Python; threads of the row."""


@pytest.mark.parametrize("case", INDEX)
def test_indices_that_jump_between_the_ends(gpu, case):
    body, index, threads = INDEX[case]
    access = "mul.wide.u32 %rd5, %r3, 4; add.u64 %rd2, %rd5, %rd0; add.u32 %r5, %r0, 1; red.global.add.u32 [%rd2], %r5;"
    out = np.zeros(70_000, np.int32)
    run(gpu, kernel(body + access), out, block=threads)
    i = np.arange(threads)
    np.testing.assert_array_equal(out, np.bincount(index(i), i + 1, out.size))


@pytest.mark.parametrize("shape", [(17, 1), (2, 4), (3, 4)])
@pytest.mark.parametrize("bits", [59, 62, 63])
def test_addresses_that_go_round_the_address_space(gpu, bits, shape):
    """Those of the row's ends are one, or near: in between they are anywhere."""
    doubled = "".join(f"add.s64 %w{number + 1}, %w{number}, %w{number};" for number in range(2, bits))
    body = f""".reg .b64 %w<{bits + 1}>; mul.wide.u32 %w2, %r0, 4; {doubled} add.u64 %rd2, %w{bits}, %rd0;
    red.global.add.u32 [%rd2], %r0;"""
    with pytest.raises(KernelFaultError) as caught:
        run(gpu, kernel(body), np.zeros(64, np.int32), block=shape)
    assert caught.value.details["thread"] == "(1, 0, 0)"


@pytest.mark.parametrize("limit", [-30_000, -1, 0, 100, 20_000])
@pytest.mark.parametrize("factor", [1, 63, 64, 65, 127])
def test_comparisons_of_16_bits(gpu, factor, limit):
    body = f"""mul.lo.u32 %r1, %r0, {factor}; cvt.u16.u32 %h1, %r1; setp.lt.s16 %p1, %h1, {limit};
    mul.wide.u32 %rd5, %r0, 4; add.u64 %rd2, %rd5, %rd0; @!%p1 bra L; mov.u32 %r5, 1; st.global.u32 [%rd2], %r5; L:"""
    out = np.zeros(1024, np.int32)
    run(gpu, kernel(body), out, block=1024)
    np.testing.assert_array_equal(out, (np.arange(1024) * factor).astype(np.int16) < limit)


@pytest.mark.parametrize("suspended", ["", "bar.sync 0;"])
def test_short_shared_addresses_wrap_around(gpu, suspended):
    """As compilers write them: a register below the variable, and an offset that brings it back."""
    body = f"""mov.u32 %r9, s; shl.b32 %r1, %r0, 2; add.u32 %r2, %r9, %r1; add.u32 %r3, %r2, -128;
    st.shared.u32 [%r3+128], %r0; {suspended} ld.shared.u32 %r4, [%r3+128];
    mul.wide.u32 %rd5, %r0, 4; add.u64 %rd2, %rd5, %rd0; st.global.u32 [%rd2], %r4;"""
    out = np.zeros(64, np.int32)
    run(gpu, kernel(body, declarations=".shared .align 16 .b8 s[256];\n"), out, block=64)
    np.testing.assert_array_equal(out, np.arange(64))


@pytest.mark.parametrize("barrier", ["%r1, 32,", "0,"])
def test_results_of_barriers_that_groups_of_threads_share(gpu, barrier):
    body = f"""shr.u32 %r1, %r0, 5; and.b32 %r2, %r0, 31; add.u32 %r3, %r1, 3; setp.lt.u32 %p1, %r2, %r3;
    bar.red.popc.u32 %r4, {barrier} %p1; bar.sync 9;
    mul.wide.u32 %rd5, %r0, 4; add.u64 %rd2, %rd5, %rd0; st.global.u32 [%rd2], %r4;"""
    counted = "32" in barrier
    out = np.zeros(128, np.int32)
    run(gpu, kernel(body), out, block=out.size)
    warps = np.arange(out.size) // 32
    np.testing.assert_array_equal(out, warps + 3 if counted else np.sum(np.arange(out.size) % 32 < warps + 3))
