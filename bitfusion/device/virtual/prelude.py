"""Device functions of CUDA's own libraries that PTX may declare without a body, written in PTX."""

from __future__ import annotations

from functools import cache
from typing import Final

from bitfusion.device.virtual.parse import parse
from bitfusion.device.virtual.syntax import Function

_TEXT: Final = """
.version 8.0
.target sm_70
.address_size 64

// grid.sync(): the first thread of each block adds to a counter in the grid's workspace, whose top bit flips when all have come
.func (.param .b32 func_retval0) cudaCGSynchronize (.param .b64 workspace, .param .b32 flags)
{
    .reg .pred %p<4>;
    .reg .b32 %r<16>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [workspace];
    bar.sync 0;
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, %tid.y;
    mov.u32 %r3, %tid.z;
    or.b32 %r1, %r1, %r2;
    or.b32 %r1, %r1, %r3;
    setp.ne.s32 %p1, %r1, 0;
    @%p1 bra $done;
    mov.u32 %r4, %ctaid.x;
    mov.u32 %r5, %ctaid.y;
    mov.u32 %r6, %ctaid.z;
    or.b32 %r4, %r4, %r5;
    or.b32 %r4, %r4, %r6;
    setp.eq.s32 %p2, %r4, 0;
    mov.u32 %r7, %nctaid.x;
    mov.u32 %r8, %nctaid.y;
    mov.u32 %r9, %nctaid.z;
    mul.lo.s32 %r7, %r7, %r8;
    mul.lo.s32 %r7, %r7, %r9;
    sub.s32 %r10, -2147483647, %r7;
    selp.b32 %r11, %r10, 1, %p2;
    atom.add.release.gpu.u32 %r12, [%rd1+4], %r11;
$spin:
    ld.acquire.gpu.u32 %r13, [%rd1+4];
    xor.b32 %r14, %r13, %r12;
    setp.gt.s32 %p3, %r14, -1;
    @%p3 bra $spin;
$done:
    bar.sync 0;
    st.param.b32 [func_retval0], 0;
    ret;
}
"""


@cache
def prelude() -> dict[str, Function]:
    """Functions by name."""
    return parse(_TEXT).functions
