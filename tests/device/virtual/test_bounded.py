"""What is said of the integers a register can hold is true, and is what an access needs that looks up a table."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from bitfusion.device.virtual.bounded import Bound, Bounds
from bitfusion.device.virtual.datatypes import TYPES
from bitfusion.device.virtual.flow import build_graph
from bitfusion.device.virtual.liveness import Liveness
from bitfusion.device.virtual.parse import parse
from bitfusion.device.virtual.syntax import Register
from tests.device.virtual.ptx import kernel, run

VALUES = np.random.default_rng(3).integers(0, 1 << 32, 2048).astype(np.uint32)
VALUES[:6] = 0, 1, 255, 256, 0xFFFF, 0xFFFFFFFF

BOUNDS = {
    "ld.global.u8 %r2, [%rd3];": Bound(255, 1),
    "ld.global.v2.u8 {%r3, %r2}, [%rd3];": Bound(255, 1),
    "ld.global.u16 %h1, [%rd3]; cvt.u32.u16 %r2, %h1;": Bound(65535, 1),
    "ld.global.s8 %r2, [%rd3];": None,
    "cvt.u32.u8 %r2, %r1;": Bound(255, 1),
    "cvt.u32.s8 %r2, %r1;": None,
    "cvt.u16.u32 %h1, %r1; and.b16 %h2, %h1, 255; cvt.s32.s16 %r2, %h2;": Bound(255, 1),
    "cvt.u16.u32 %h1, %r1; cvt.s32.s16 %r2, %h1;": None,
    "and.b32 %r2, %r1, 60;": Bound(60, 4),
    "and.b32 %r3, %r1, 255; and.b32 %r2, %r3, -4;": Bound(255, 4),
    "and.b32 %r2, 12, %r1;": Bound(12, 1),
    "and.b32 %r2, %r1, -4;": None,
    "shr.u32 %r2, %r1, 24;": Bound(255, 1),
    "shr.u32 %r2, %r1, 40;": Bound(0, 1),
    "shr.s32 %r2, %r1, 24;": None,
    "and.b32 %r3, %r1, 255; shl.b32 %r2, %r3, 4;": Bound(4080, 16),
    "and.b32 %r3, %r1, 255; shl.b32 %r2, %r3, 26;": None,
    "and.b32 %r3, %r1, 255; mul.lo.s32 %r2, %r3, 12;": Bound(3060, 12),
    "and.b32 %r3, %r1, 255; mul.lo.s32 %r2, %r3, -4;": None,
    "and.b32 %r3, %r1, 0xFFFF; mul.lo.u32 %r2, %r3, %r3;": None,
    "and.b32 %r3, %r1, 255; mul.hi.u32 %r2, %r3, 4;": None,
    "and.b32 %r3, %r1, 15; mad.lo.u32 %r2, %r3, 16, %r3;": Bound(255, 1),
    "and.b32 %r3, %r1, 15; mad.lo.u32 %r2, %r3, 16, %r1;": None,
    "and.b32 %r3, %r1, 240; add.u32 %r2, %r3, 8;": Bound(248, 8),
    "and.b32 %r3, %r1, 240; sub.u32 %r2, %r3, 8;": None,
    "min.u32 %r2, %r1, 40;": Bound(40, 1),
    "min.s32 %r2, %r1, 40;": None,
    "rem.u32 %r2, %r1, 10;": Bound(9, 1),
    "rem.s32 %r2, %r1, 10;": None,
    "rem.u32 %r2, %r1, 0;": None,
    "cvt.u16.u32 %h1, %r1; rem.u16 %h2, %h1, 65536; cvt.u32.u16 %r2, %h2;": Bound(65535, 1),
    "bfe.u32 %r2, %r1, 3, 5;": Bound(31, 1),
    "bfe.s32 %r2, %r1, 3, 5;": None,
    "and.b32 %r3, %r1, 8; and.b32 %r4, %r1, 6; setp.lt.u32 %p1, %r1, 9; selp.b32 %r2, %r3, %r4, %p1;": Bound(8, 2),
    "and.b32 %r3, %r1, 0x1FFFC; mov.b32 {%h1, %h2}, %r3; cvt.u32.u16 %r2, %h2;": Bound(65535, 1),
    "and.b32 %r2, %r1, 15; @%p1 mov.u32 %r2, 77;": None,
    "and.b32 %r2, %r1, 15; setp.lt.u32 %p1, %r1, 9; @%p1 add.u32 %r2, %r2, 1;": None,
    "setp.lt.u32 %p1, %r1, 9; @%p1 and.b32 %r2, %r1, 15;": None,
    "mov.u32 %r2, %r1;": None,
    "mov.f32 %r2, 0f3F800000;": None,
    "add.cc.u32 %r2, 7, 8;": None,
    "cvt.sat.u8.u32 %r2, %r1;": None,
}
"""PTX that computes %r2 from the word %r1 at the address %rd3."""


@pytest.mark.parametrize("text", BOUNDS)
def test_bounds_are_found_and_hold(gpu, text):
    body = f"""mul.wide.u32 %rd5, %r0, 4; add.u64 %rd3, %rd5, %rd0; add.u64 %rd4, %rd5, %rd1; ld.global.u32 %r1, [%rd3];
    {text} st.global.u32 [%rd4], %r2;"""
    (function,) = parse(kernel(body, 2)).functions.values()
    found = Bounds(Liveness(function, build_graph(function)).definitions).of(Register("%r2"), TYPES["u32"])
    assert found == BOUNDS[text]
    out = np.zeros_like(VALUES)
    run(
        gpu,
        kernel(body.replace("%r0, 4", "%r9, 4").replace("mul", INDEX, 1), 2),
        VALUES.copy(),
        out,
        grid=2,
        block=1024,
    )
    if found is not None:
        assert out.max() <= found.high
        assert not np.any(out % found.step)


INDEX = "mov.u32 %r8, %ctaid.x; mad.lo.u32 %r9, %r8, 1024, %r0; mul"


def test_what_follows_from_itself_and_long_chains_have_no_bound(gpu):
    doubling = "ld.global.u8 %r2, [%rd0];" + " add.u32 %r3, %r2, %r2; add.u32 %r2, %r3, %r3;" * 200
    (function,) = parse(kernel(doubling)).functions.values()
    bounds = Bounds(Liveness(function, build_graph(function)).definitions)
    assert bounds.of(Register("%r2"), TYPES["u32"]) is None
    names = [f"%s{number}" for number in range(300)]
    chain = "".join(f"mov.u32 {after}, {before};" for before, after in pairwise(names))
    (function,) = parse(kernel(f".reg .b32 %s<300>; and.b32 %s0, %r0, 7; {chain}")).functions.values()
    bounds = Bounds(Liveness(function, build_graph(function)).definitions)
    assert bounds.of(Register("%s299"), TYPES["u32"]) is None
    assert bounds.of(Register("%s9"), TYPES["u32"]) == Bound(7, 1)
