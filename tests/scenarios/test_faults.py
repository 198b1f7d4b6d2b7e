"""Two sessions of one appliance: what a kernel of the first does wrong is told it as CUDA would, and the second notices nothing."""

from __future__ import annotations

import struct

import numpy as np
import pytest

import bitfusion
from bitfusion.errors import KernelFaultError
from tests.appliance import Appliance
from tests.gpu.images import Adder

HEADER = ".version 8.0\n.target sm_80\n.address_size 64\n"
SIZE = 1000
"""Bytes of the array whose address the kernels get."""


def entry(body, *, outside=""):
    """A kernel that gets an address in %a."""
    return f"""{HEADER}{outside}
.visible .entry kernel(.param .u64 address) {{
  .reg .b64 %a, %b, %c; .reg .b32 %r<4>; .reg .b16 %h; .reg .f32 %f<4>; .reg .pred %p;
  .local .align 16 .b8 own[64];
  ld.param.u64 %a, [address];
  mov.u32 %r1, %tid.x;
  {body}
  ret;
}}
"""


def access(text):
    """The access, by the first thread alone."""
    return entry(f"setp.ne.u32 %p, %r1, 0; @%p bra FINE; {text} FINE:")


CALLS = """
.visible .func again(.param .b64 n) {
  .reg .b64 %n; ld.param.u64 %n, [n];
  { .param .b64 p0; st.param.b64 [p0], %n; call.uni again, (p0); }
  { .param .b64 p0; st.param.b64 [p0], %n; call.uni again, (p0); }
  ret;
}
"""
ASSERT = """
.extern .func __assertfail(.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, .param .b64 s);
.global .align 1 .b8 text[2] = {120, 0};
"""
SHARED = ".shared .align 16 .b8 tile[256];\n.extern .shared .align 16 .b8 dynamic[];\n"
THREE = ".visible .func (.param .b32 out) three(.param .b32 x) { st.param.b32 [out], 3; ret; }\n"
VICTIM = ".visible .func (.param .b64 out) other(.param .b64 x) { ret; }\n"

THROUGH = """{}
  {{
    .param .b32 x; st.param.b32 [x], %r1;
    .param .b32 y;
    KIND: .callprototype (.param .b32 _) _ (.param .b32 _);
    call (y), %b, (x), KIND;
    ld.param.b32 %r2, [y];
  }}
  st.global.u32 [%a], %r2;"""
ILLEGAL, MISALIGNED = "CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_MISALIGNED_ADDRESS"
FAILED, TIMEOUT = "CUDA_ERROR_LAUNCH_FAILED", "CUDA_ERROR_LAUNCH_TIMEOUT"

MISALIGNED_ACCESSES = {
    f"{space or '.generic'} {width}": access(text.replace("SPACE", space))
    for space in (".global", "")
    for width, text in {
        "u16": "ldSPACE.u16 %h, [%a+1];",
        "u32": "ldSPACE.u32 %r2, [%a+2];",
        "u64": "ldSPACE.u64 %b, [%a+4];",
        "v2.u32": "ldSPACE.v2.u32 {%r2, %r3}, [%a+4];",
        "v4.f32": "ldSPACE.v4.f32 {%f0, %f1, %f2, %f3}, [%a+8];",
        "v2.u64": "stSPACE.v2.u64 [%a+8], {%a, %a};",
        "atom": "atomSPACE.add.u32 %r2, [%a+2], 1;",
        "red": "redSPACE.add.u64 [%a+4], 1;",
    }.items()
}

FAULTS = {
    "behind the array": (ILLEGAL, access(f"st.global.u8 [%a+{SIZE}], 1;")),
    "half behind it": (ILLEGAL, access(f"st.global.u64 [%a+{SIZE - 8}], %a; st.global.u32 [%a+{SIZE}], 1;")),
    "null": (ILLEGAL, access("mov.u64 %b, 0; ld.u32 %r2, [%b];")),
    "the highest address": (ILLEGAL, access("mov.u64 %b, -4; ld.global.u32 %r2, [%b];")),
    "an atomic": (ILLEGAL, access(f"atom.global.add.u32 %r2, [%a+{SIZE}], 1;")),
    "the host's memory": (ILLEGAL, access("mov.u64 %b, 0x7f0000000000; st.u64 [%b], %a;")),
    "shared": (ILLEGAL, entry("mul.wide.u32 %b, %r1, 4; mov.u64 %c, tile; add.u64 %c, %c, %b; st.shared.u32 [%c+256], 1;", outside=SHARED)),
    "shared, far": (ILLEGAL, entry("mov.u64 %b, 0x7fffffff0; ld.shared.u32 %r2, [%b];", outside=SHARED)),
    "shared, negative": (ILLEGAL, entry("mov.u64 %b, -8; ld.shared.u32 %r2, [%b]; bar.sync 0;", outside=SHARED)),
    "dynamic shared": (ILLEGAL, entry("st.shared.u32 [dynamic+64], 1;", outside=SHARED)),
    "shared, misaligned": (MISALIGNED, entry("mov.u64 %b, 2; st.shared.u32 [%b], 1;", outside=SHARED)),
    "local": (ILLEGAL, entry("mov.u64 %b, own; mul.wide.u32 %c, %r1, 64; add.u64 %b, %b, %c; st.local.u32 [%b], %r1;")),
    "local, far": (ILLEGAL, entry("mov.u64 %b, own; add.u64 %b, %b, %a; st.local.u32 [%b], %r1;")),
    "local, made up": (ILLEGAL, entry("mov.u64 %b, 0x7ffc00000000; st.local.u32 [%b], %r1;")),
    "trap": (FAILED, entry("trap;")),
    "an assertion": (
        "CUDA_ERROR_ASSERT",
        entry("mov.u64 %b, text; { .param .b64 p; st.param.b64 [p], %b; call.uni __assertfail, (p, p, 7, p, 1); }", outside=ASSERT),
    ),
    "calls without an end": (
        "CUDA_ERROR_HARDWARE_STACK_ERROR",
        entry("{ .param .b64 p; st.param.b64 [p], %a; call.uni again, (p); }", outside=CALLS),
    ),
    "a call of nothing": ("CUDA_ERROR_INVALID_PC", entry(THROUGH.format("mov.u64 %b, 0;"), outside=THREE + VICTIM)),
    "a call of data": ("CUDA_ERROR_INVALID_PC", entry(THROUGH.format("mov.u64 %b, %a;"), outside=THREE + VICTIM)),
    "a call into a function": (
        "CUDA_ERROR_INVALID_PC",
        entry(THROUGH.format("mov.u64 %b, three; add.u64 %b, %b, 4;"), outside=THREE + VICTIM),
    ),
    "a call of another kind of function": (
        "CUDA_ERROR_INVALID_PC",
        entry(THROUGH.format("mov.u64 %b, other;"), outside=THREE + VICTIM),
    ),
    "a loop": (TIMEOUT, entry("AGAIN: bra AGAIN;")),
    "a loop of brx": (TIMEOUT, entry("JUMPS: .branchtargets AGAIN, BACK; BACK: AGAIN: brx.idx %r1, JUMPS;")),
    "a loop at a barrier": (TIMEOUT, entry("AGAIN: bar.sync 0; bra AGAIN;")),
    "a barrier nobody completes": (
        TIMEOUT,
        entry("setp.lt.u32 %p, %r1, 16; @%p bar.sync 1, 64; bar.sync 0;"),
    ),
    **{f"misaligned {name}": (MISALIGNED, text) for name, text in MISALIGNED_ACCESSES.items()},
}  # fmt: skip


def test_a_call_through_a_pointer_works_where_it_fits(appliance):
    text = entry(THROUGH.format("mov.u64 %b, three;"), outside=THREE + VICTIM)
    with bitfusion.connect(appliance.address, memory="4MiB", deadline=60) as client:
        array = client.to_device(np.zeros(SIZE, np.uint8))
        client.load_module(text).function("kernel").launch(2, 32, struct.pack("<Q", array.address))
        assert array.copy_to_host()[0] == 3


@pytest.fixture(scope="module")
def appliance(tmp_path_factory):
    with Appliance("virtual:1x1GiB", tmp_path_factory.mktemp("faults"), "--kernel-timeout", "0.5") as appliance:
        yield appliance


@pytest.fixture(scope="module")
def other(appliance):
    """The session that computes on."""
    with bitfusion.connect(appliance.address, memory="8MiB", deadline=60) as client:
        yield client


@pytest.fixture(scope="module")
def computing(other):
    """A step of what the other session does, checked."""
    add, array = Adder(other), other.to_device(np.arange(10_000, dtype=np.int32))
    expected = np.arange(10_000, dtype=np.int32)

    def step():
        nonlocal expected
        add(array, 3)
        expected = expected + 3
        np.testing.assert_array_equal(array.copy_to_host(), expected)

    return step


def test_a_fault_ends_no_turn_of_others_and_is_kept_while_they_wait(appliance):
    """Another session waits for the GPU when a kernel fails: the fault is still reported by the next call, and then as an earlier one."""
    cuda_name, text = FAULTS["a loop"]
    with (
        bitfusion.connect(appliance.address, memory="4MiB", deadline=60) as client,
        bitfusion.connect(appliance.address, memory="4MiB", deadline=60) as other,
    ):
        array, theirs = (session.to_device(np.zeros(SIZE, np.uint8)) for session in (client, other))
        functions = [session.load_module(text).function("kernel") for session in (client, other)]
        for function, each in zip(functions, (array, theirs), strict=True):
            function.launch(2, 32, struct.pack("<Q", each.address))
        for session, each in ((client, array), (other, theirs)):
            with pytest.raises(KernelFaultError) as caught:
                session.synchronize()
            assert caught.value.cuda_name == cuda_name
            with pytest.raises(KernelFaultError, match="an earlier launch failed"):
                each.copy_to_host()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_its_own_sessions(appliance, computing, name):
    cuda_name, text = FAULTS[name]
    computing()
    with bitfusion.connect(appliance.address, memory="4MiB", deadline=60) as client:
        array = client.to_device(np.zeros(SIZE, np.uint8))
        function = client.load_module(text).function("kernel")
        function.launch(2, 32, struct.pack("<Q", array.address))
        computing()
        with pytest.raises(KernelFaultError) as caught:
            client.synchronize()
        error = caught.value
        assert error.cuda_name == cuda_name and error.details["kernel"] == "kernel", error.message
        if cuda_name != TIMEOUT:
            assert error.details["block"] in ("(0, 0, 0)", "(1, 0, 0)")
            assert error.details["thread"].endswith(", 0, 0)")
        with pytest.raises(KernelFaultError, match="an earlier launch failed"):
            array.copy_to_host()
    computing()
    assert not [line for line in appliance.lines if "died" in line]
