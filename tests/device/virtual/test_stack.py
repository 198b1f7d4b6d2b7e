"""``alloca``: memory that lives as long as its function, or its thread; no more than there is."""

from __future__ import annotations

import numpy as np
import pytest

from bitfusion.errors import KernelFaultError
from tests.device.virtual.ptx import kernel, run

FILL = """
.func (.param .b32 result) sum_below(.param .b32 count) {
  .reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .pred %p<2>;
  ld.param.b32 %r1, [count]; mul.wide.u32 %rd1, %r1, 4;
  stacksave.u64 %rd5; alloca.u64 %rd2, %rd1, 16; cvta.local.u64 %rd3, %rd2; mov.u32 %r2, 0;
WRITE: mad.wide.u32 %rd4, %r2, 4, %rd3; st.u32 [%rd4], %r2; add.u32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, %r1; @%p1 bra WRITE;
  alloca.u64 %rd6, %rd1; st.local.u32 [%rd6], -1; mov.u32 %r2, 0; mov.u32 %r3, 0;
READ: mad.wide.u32 %rd4, %r2, 4, %rd2; ld.local.u32 %r4, [%rd4]; add.u32 %r3, %r3, %r4;
  add.u32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, %r1; @%p1 bra READ;
  stackrestore.u64 %rd5; st.param.b32 [result], %r3; ret;
}
"""

CALL = "{ .param .b32 a; .param .b32 r; st.param.b32 [a], %r1; call (r), sum_below, (a); ld.param.b32 %r2, [r]; }"
STORE = "mad.wide.u32 %rd1, %r0, 4, %rd0; st.global.u32 [%rd1], %r2;"


def test_memory_of_a_function_is_given_back(gpu):
    """A thousand calls in each of 64 threads would need far more than there is."""
    body = f"mov.u32 %r3, 0; add.u32 %r1, %r0, 100; AGAIN: {CALL} add.u32 %r3, %r3, 1; setp.lt.u32 %p1, %r3, 1000; @%p1 bra AGAIN; {STORE}"
    out = np.zeros(64, np.uint32)
    run(gpu, kernel(body, declarations=FILL), out, block=64)
    assert out.tolist() == [(k + 100) * (k + 99) // 2 for k in range(64)]


def test_memory_of_a_kernel_is_given_back_with_its_thread(gpu):
    body = f"""alloca.u64 %rd2, 1000, 128; mul.wide.u32 %rd3, %r0, 4; and.b64 %rd3, %rd3, 127; add.u64 %rd3, %rd2, %rd3;
    st.local.u32 [%rd3], %r0; alloca.u32 %rd4, 64; st.local.u32 [%rd4], 7; ld.local.u32 %r2, [%rd3]; {STORE}"""
    out = np.zeros(1024, np.uint32)
    run(gpu, kernel(body), out, block=1024)
    assert out.tolist() == list(range(1024))


def test_more_than_there_is_fails(gpu):
    with pytest.raises(KernelFaultError, match="STACK"):
        run(
            gpu,
            kernel("mov.u64 %rd2, 0x7fffffffffff; alloca.u64 %rd3, %rd2; st.local.u32 [%rd3], 1;"),
            np.zeros(1, np.uint32),
        )
