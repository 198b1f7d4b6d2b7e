"""What is decided for all rows of a block by a look at its corners is what every thread decides: numbers that wrap around, saturate or
change their sign in between, pitches of any size and sign.
"""

from __future__ import annotations

import numpy as np
import pytest
from numba import cuda, float32

from bitfusion.errors import KernelFaultError
from tests.device.virtual.ptx import kernel, run

PLANES = {
    "a pitch": ("mad.lo.u32 %r3, %r1, 40, %r0;", lambda x, y: 40 * y + x),
    "a pitch of 64 bits": (
        "cvt.s64.s32 %rd3, %r1; cvt.s64.s32 %rd4, %r0; mul.lo.s64 %rd6, %rd3, 40; add.s64 %rd7, %rd6, %rd4; cvt.u32.u64 %r3, %rd7;",
        lambda x, y: 40 * y + x,
    ),
    "rows upside down": (
        "sub.u32 %r4, 15, %r1; mad.lo.u32 %r3, %r4, 40, %r0;",
        lambda x, y: 40 * (15 - y) + x,
    ),
    "rows that lie on each other": ("mov.u32 %r3, %r0;", lambda x, y: x + 0 * y),
    "rows that overlap": ("add.u32 %r3, %r0, %r1;", lambda x, y: x + y),
    "threads backwards": ("mad.lo.u32 %r4, %r1, 40, 31; sub.u32 %r3, %r4, %r0;", lambda x, y: 40 * y + 31 - x),
    "a sum of products": ("mul.lo.u32 %r4, %r0, 3; mad.lo.u32 %r3, %r1, %r4, %r0;", lambda x, y: 3 * x * y + x),
    "the square of a row": ("mad.lo.u32 %r3, %r1, %r1, %r0;", lambda x, y: y * y + x),
    "rows that wrap around in 32 bits and are halved": (
        "mad.lo.u32 %r4, %r1, 0x10000000, 0x40000000; shr.u32 %r5, %r4, 28; mad.lo.u32 %r3, %r5, 40, %r0;",
        lambda x, y: (y + 4) % 16 * 40 + x,
    ),
    "numbers made wider, one up and one down": (
        "sub.u32 %r4, %r1, 5; sub.u32 %r5, 5, %r1; cvt.u64.u32 %rd3, %r4; cvt.u64.u32 %rd4, %r5; add.u64 %rd6, %rd3, %rd4;"
        "shr.u64 %rd7, %rd6, 32; cvt.u32.u64 %r6, %rd7; mad.lo.u32 %r3, %r6, 40, %r0;",
        lambda x, y: ((y - 5) % 2**32 + (5 - y) % 2**32) // 2**32 * 40 + x,
    ),
    "jumps that cancel in the corners": (
        "sub.u32 %r4, %r1, 5; sub.u32 %r5, 9, %r1; cvt.u64.u32 %rd3, %r4; cvt.u64.u32 %rd4, %r5; add.u64 %rd6, %rd3, %rd4;"
        "shr.u64 %rd7, %rd6, 32; cvt.u32.u64 %r6, %rd7; mad.lo.u32 %r3, %r6, 40, %r0;",
        lambda x, y: ((y - 5) % 2**32 + (9 - y) % 2**32) // 2**32 * 40 + x,
    ),
    "jumps of 32 bits that cancel": (
        "add.u32 %r4, %r1, 0xFFFFFFF6; sub.u32 %r5, 4, %r1; cvt.u64.u32 %rd3, %r4; cvt.u64.u32 %rd4, %r5; add.u64 %rd6, %rd3, %rd4;"
        "add.u64 %rd7, %rd6, 6; mul.lo.u64 %rd8, %rd7, 0x2000000000000; cvt.s64.s32 %rd9, %r0; add.s64 %rd10, %rd8, %rd9;"
        "cvt.u32.u64 %r3, %rd10;",
        lambda x, y: x + 0 * y,
    ),
    "16 bits that wrap around": (
        "cvt.u16.u32 %h1, %r1; mul.lo.u16 %h2, %h1, 8192; cvt.u32.u16 %r4, %h2; shr.u32 %r5, %r4, 13; mad.lo.u32 %r3, %r5, 40, %r0;",
        lambda x, y: y % 8 * 40 + x,
    ),
    "16 bits that wrap around and come back": (
        "cvt.u16.u32 %h1, %r1; mul.lo.u16 %h2, %h1, 8192; mul.wide.u16 %r4, %h2, 40; mad.lo.u32 %r5, %r4, 1, %r0;"
        "shr.u32 %r3, %r5, 6;",
        lambda x, y: (y * 8192 % 65536 * 40 + x) // 64,
    ),
    "bytes of rows": (
        "mul.lo.u32 %r4, %r1, 100; cvt.u32.u8 %r5, %r4; add.u32 %r3, %r5, %r0;",
        lambda x, y: y * 100 % 256 + x,
    ),
    "bytes in a wide register": (
        "mul.lo.u32 %r4, %r1, 100; cvt.u8.u32 %r5, %r4; add.u32 %r3, %r5, %r0;",
        lambda x, y: y * 100 % 256 + x,
    ),
    "NumPy's negative rows": (
        "cvt.s64.s32 %rd3, %r1; add.s64 %rd4, %rd3, -5; shr.s64 %rd6, %rd4, 63; and.b64 %rd7, %rd6, 16; add.s64 %rd8, %rd4, %rd7;"
        "cvt.s64.s32 %rd9, %r0; mad.lo.s64 %rd10, %rd8, 40, %rd9; cvt.u32.u64 %r3, %rd10;",
        lambda x, y: (y - 5) % 16 * 40 + x,
    ),
    "NumPy's negative columns": (
        "add.s32 %r4, %r0, -5; shr.s32 %r5, %r4, 31; and.b32 %r6, %r5, 32; add.s32 %r7, %r4, %r6; mad.lo.u32 %r3, %r1, 40, %r7;",
        lambda x, y: y * 40 + (x - 5) % 32,
    ),
    "a sign that changes twice": (
        "mul.lo.u32 %r4, %r1, 0x18000000; shr.s32 %r5, %r4, 31; and.b32 %r6, %r5, 7; mad.lo.u32 %r7, %r1, 40, %r0;"
        "add.u32 %r3, %r7, %r6;",
        lambda x, y: y * 40 + x + 7 * (y * 0x18000000 % 2**32 >= 2**31),
    ),
    "a sign that rows and threads change": (
        "sub.s32 %r4, %r1, %r0; add.s32 %r5, %r4, 8; shr.s32 %r6, %r5, 31; and.b32 %r7, %r6, 7; mad.lo.u32 %r8, %r1, 40, %r0;"
        "add.u32 %r3, %r8, %r7;",
        lambda x, y: y * 40 + x + 7 * (y - x + 8 < 0),
    ),
    "saturation": (
        "mul.lo.u32 %r4, %r1, 30; cvt.sat.u8.u32 %r5, %r4; add.u32 %r3, %r5, %r0;",
        lambda x, y: np.minimum(y * 30, 255) + x,
    ),
    "the smaller of two": (
        "min.u32 %r4, %r1, 7; mad.lo.u32 %r3, %r4, 40, %r0;",
        lambda x, y: np.minimum(y, 7) * 40 + x,
    ),
    "every other row": ("and.b32 %r4, %r1, 1; mad.lo.u32 %r3, %r4, 40, %r0;", lambda x, y: y % 2 * 40 + x),
}
"""PTX that computes an index in %r3 from %tid.x in %r0 and %tid.y in %r1; the same in Python."""

SHAPES = [(32, 16), (1, 11), (32, 3)]


def threads(shape):
    """(%tid.x, %tid.y) of all threads of a block, in order."""
    y, x = np.divmod(np.arange(shape[0] * shape[1]), shape[0])
    return x, y


@pytest.mark.parametrize("suspended", ["", "bar.sync 0;"])
@pytest.mark.parametrize("case", PLANES)
def test_indices(gpu, case, suspended):
    body, index = PLANES[case]
    body = f"""mov.u32 %r1, %tid.y; {suspended} {body}
    mul.wide.u32 %rd5, %r3, 4; add.u64 %rd2, %rd5, %rd0; mad.lo.u32 %r5, %r1, 64, %r0; red.global.add.u32 [%rd2], %r5;"""
    for shape in SHAPES:
        x, y = threads(shape)
        out = np.zeros(70_000, np.int32)
        run(gpu, kernel(body), out, block=shape)
        np.testing.assert_array_equal(out, np.bincount(index(x, y), 64 * y + x, out.size), case)


LARGE_PLANES = {
    "signed bytes of threads": (
        (200, 5),
        "cvt.s64.s8 %rd3, %r0; add.s64 %rd4, %rd3, 128;",
        lambda x, y: (x + 128) % 256,
    ),
    "bytes of rows": ((1, 300), "cvt.u64.u8 %rd3, %r1; mul.lo.s64 %rd4, %rd3, 40;", lambda x, y: y % 256 * 40),
    "one of two for all threads": (
        (32, 16),
        "mov.u32 %r6, %ntid.x; setp.gt.u32 %p1, %r6, 1000; cvt.u64.u32 %rd6, %r0; cvt.u64.u32 %rd7, %r1; mov.u64 %rd8, 5;"
        "selp.b64 %rd9, %rd6, %rd8, %p1; mad.lo.u64 %rd4, %rd7, 40, %rd9;",
        lambda x, y: 5 + 40 * y,
    ),
}
"""Blocks, PTX that computes an index of 64 bits in %rd4 and nothing that is narrower, and the same in Python."""


@pytest.mark.parametrize("case", LARGE_PLANES)
def test_indices_of_64_bits(gpu, case):
    shape, body, index = LARGE_PLANES[case]
    body = f"""mov.u32 %r1, %tid.y; {body} shl.b64 %rd5, %rd4, 2; add.u64 %rd2, %rd5, %rd0; mad.lo.u32 %r5, %r1, 512, %r0;
    red.global.add.u32 [%rd2], %r5;"""
    x, y = threads(shape)
    out = np.zeros(70_000, np.int32)
    run(gpu, kernel(body), out, block=shape)
    np.testing.assert_array_equal(out, np.bincount(index(x, y), 512 * y + x, out.size))


def test_jumps_that_a_sum_hides(gpu):
    """A product of 16 bits wraps around in rows 8 and 16, each time by half of what its sum wraps around by."""
    body = """mov.u32 %r1, %tid.y; cvt.u16.u32 %h1, %r1; mul.lo.u16 %h2, %h1, 8192; mul.lo.u32 %r4, %r1, 0xF0000028;
    mad.wide.u16 %r3, %h2, 0x8000, %r4; mul.wide.u32 %rd5, %r3, 4; add.u64 %rd2, %rd5, %rd0; red.global.add.u32 [%rd2], %r1;"""
    with pytest.raises(KernelFaultError) as caught:
        run(gpu, kernel(body), np.zeros(1000, np.int32), block=(8, 24))
    assert caught.value.details["thread"] == "(0, 8, 0)"


def put(out, first, pitch):
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    cuda.atomic.add(out, first + y * pitch + x, 3)


@pytest.mark.parametrize("pitch", [0, 1, 32, 33, 4000, -1, -40, 1 << 18, -(1 << 18)])
def test_pitches_that_only_the_launch_knows(gpu, pitch):
    """Also where rows are so far apart that they are looked at one by one."""
    first, last = max(0, -15 * pitch), max(0, 15 * pitch)
    x, y = threads((32, 16))
    out = np.zeros(first + last + 32, np.int32)
    gpu.run(put, 1, (32, 16), out, first, pitch)
    np.testing.assert_array_equal(out, np.bincount(first + pitch * y + x, np.full(x.size, 3), out.size))


@pytest.mark.parametrize("pitch", [40, -40, 1 << 18])
def test_the_fault_names_the_row(gpu, pitch):
    first, last = max(0, -15 * pitch), max(0, 15 * pitch)
    out = gpu.array(np.zeros(first + last + 31, np.int32))
    with pytest.raises(KernelFaultError) as caught:
        gpu.launch(put, 1, (32, 16), out, first, pitch)
    assert caught.value.details["thread"] == f"(31, {15 if pitch > 0 else 0}, 0)"
    assert caught.value.details["address"] == out.address + 4 * (first + last + 31)


def compare_signed(out, width, height):
    x, y = cuda.grid(2)
    if x + y < width and y < height and x - y > -width:
        out[y, x] += 1


@pytest.mark.parametrize(("width", "height"), [(1, 1), (31, 15), (32, 16), (33, 40), (64, 32), (200, 200), (-3, 10)])
def test_comparisons(gpu, width, height):
    out = np.zeros((32, 64), np.int32)
    gpu.run(compare_signed, (2, 2), (32, 16), out, width, height)
    y, x = np.indices(out.shape)
    np.testing.assert_array_equal(out, (x + y < width) & (y < height) & (x - y > -width))


@pytest.mark.parametrize("limit", [0, 1, 5, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0])
@pytest.mark.parametrize("kind", ["u32", "s32"])
@pytest.mark.parametrize("step", [1, 0x10000000, 0x7FFFFFFF])
def test_comparisons_of_numbers_that_wrap_around(gpu, kind, limit, step):
    body = f"""mov.u32 %r1, %tid.y; mad.lo.u32 %r4, %r1, {step}, %r0; add.u32 %r4, %r4, -4; setp.lt.{kind} %p1, %r4, {limit};
    mad.lo.u32 %r3, %r1, 32, %r0; mul.wide.u32 %rd5, %r3, 4; add.u64 %rd2, %rd5, %rd0; @!%p1 bra L; mov.u32 %r5, 1;
    st.global.u32 [%rd2], %r5; L:"""
    out = np.zeros(512, np.int32)
    run(gpu, kernel(body), out, block=(32, 16))
    x, y = threads((32, 16))
    values = ((step * y + x - 4) % 2**32).astype(np.uint32)
    if kind == "s32":
        wanted = values.astype(np.int32) < np.uint32(limit).astype(np.int32)
    else:
        wanted = values < np.uint32(limit)
    np.testing.assert_array_equal(out, wanted)


@pytest.mark.parametrize("odd", [0, 2, 15])
def test_rows_that_are_not_aligned(gpu, odd):
    """The pitch is no multiple of an element in the row that ``odd`` says; with 0 in all."""
    pitch = (
        "mul.lo.u32 %r4, %r1, 130"
        if not odd
        else f"setp.eq.u32 %p1, %r1, {odd}; selp.u32 %r5, 2, 0, %p1; mad.lo.u32 %r4, %r1, 128, %r5"
    )
    body = f"""mov.u32 %r1, %tid.y; {pitch}; mad.lo.u32 %r3, %r0, 4, %r4; cvt.u64.u32 %rd5, %r3; add.u64 %rd2, %rd5, %rd0;
    st.global.u32 [%rd2], %r0;"""
    with pytest.raises(KernelFaultError) as caught:
        run(gpu, kernel(body), np.zeros(1024, np.int32), block=(32, 16))
    assert caught.value.cuda_name == "CUDA_ERROR_MISALIGNED_ADDRESS"
    assert caught.value.details["thread"] == f"(0, {odd or 1}, 0)"


def tiles(source, target):
    """Shared memory in two dimensions, transposed, and a border of its own."""
    tile = cuda.shared.array((17, 33), float32)
    column, row = cuda.grid(2)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    if column < source.shape[1] and row < source.shape[0]:
        tile[ty + 1, tx] = source[row, column]
    cuda.syncthreads()
    if column < source.shape[1] and row < source.shape[0]:
        target[row, column] = tile[16 - ty, tx] if 15 - ty + row - ty < source.shape[0] else float32(-1)


@pytest.mark.parametrize(("rows", "columns"), [(16, 32), (48, 96), (50, 70), (3, 5)])
def test_tiles(gpu, rows, columns):
    source = np.arange(rows * columns, dtype=np.float32).reshape(rows, columns)
    target = np.zeros_like(source)
    gpu.run(tiles, (-(-columns // 32), -(-rows // 16)), (32, 16), source, target)
    for row in range(rows):
        other = row // 16 * 16 + 15 - row % 16
        if other < rows:
            np.testing.assert_array_equal(target[row], source[other])
