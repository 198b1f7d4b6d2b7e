"""Grids whose blocks wait for each other (CUDA C++ Programming Guide, Cooperative Groups): which kernels do, how, and too large a grid."""

from __future__ import annotations

import re
from typing import Final

from bitfusion.errors import LaunchError

_HEAD: Final = re.compile(rb"\.(entry|func)\b(?:\s{0,100}\([^)]{0,1000}\))?\s{0,100}([\w$%]+)")
"""The head of a kernel or device function, behind the results of the latter."""

_WORKSPACE: Final = re.compile(rb"%envreg[12]\b|\bcall\b[^;]{0,200}\bcudaCG(?:GetIntrinsicHandle|Synchronize)\b")
"""Asks for the grid's workspace: as nvcc and NVRTC write it, and as Numba does. Repetitions are bounded: the text is a client's."""

SYNCHRONIZE: Final = """
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
"""``grid.sync()``: the first thread of each block adds to a counter in the grid's workspace, whose top bit flips when all have come."""

_HANDLE: Final = """
.func (.param .b64 func_retval0) cudaCGGetIntrinsicHandle (.param .b32 scope)
{
    .reg .b32 %r<3>;
    .reg .b64 %rd<2>;
    mov.u32 %r1, %envreg1;
    mov.u32 %r2, %envreg2;
    mov.b64 %rd1, {%r2, %r1};
    st.param.b64 [func_retval0], %rd1;
    ret;
}
"""
"""Where the grid's workspace is: the high half of its address in one register, the low half in the next."""

_DEFINITIONS: Final = {b"Synchronize": SYNCHRONIZE.encode(), b"GetIntrinsicHandle": _HANDLE.encode()}

_DECLARATION: Final = re.compile(
    rb"\.extern\s{1,100}\.func\s{0,100}\([^)]{0,200}\)\s{0,100}cudaCG(GetIntrinsicHandle|Synchronize)\s{0,100}\([^)]{0,400}\)\s{0,100};"
)


def defined(text: bytes) -> bytes:
    """A PTX text with definitions where it declares the functions Numba calls, which are NVIDIA's only in a library to link."""
    return _DECLARATION.sub(lambda declaration: _DEFINITIONS[declaration[1]], text)


def cooperative_kernels(image: bytes) -> frozenset[bytes]:
    """Kernels of a PTX text that wait for their whole grid, and must be launched so; none of an image without text.

    Where a device function of the text does, all its kernels may.
    """
    heads = list(_HEAD.finditer(image))
    starts = [head.start() for head in heads]
    asking = [
        head
        for head, end in zip(heads, [*starts[1:], len(image)], strict=False)
        if _WORKSPACE.search(image, head.end(), end)
    ]
    if any(head[1] == b"func" for head in asking):
        asking = heads
    return frozenset(head[2] for head in asking if head[1] == b"entry")


def too_large(kernel: str, blocks: int, held: int) -> LaunchError:
    """The error for a grid of more blocks than the device holds at once: some would wait for others that cannot start."""
    return LaunchError(
        f"kernel {kernel} waits for all {blocks} blocks of its grid, and the device runs {held} of them at once: launch no more than "
        "that (max_cooperative_grid_blocks, resident_blocks), and let each do more",
        cuda_name="CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE",
    )
