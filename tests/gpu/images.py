"""Four kernels as PTX, and how to launch them. The driver's double knows them by name."""

from __future__ import annotations

import struct

ADD = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry add(.param .u64 address, .param .u32 count, .param .u32 value)
{
    .reg .pred %p<2>;
    .reg .b32 %r<8>;
    .reg .b64 %rd<5>;
    ld.param.u64 %rd1, [address];
    ld.param.u32 %r1, [count];
    ld.param.u32 %r2, [value];
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mov.u32 %r5, %tid.x;
    mad.lo.s32 %r6, %r3, %r4, %r5;
    setp.ge.u32 %p1, %r6, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r6, 4;
    add.s64 %rd4, %rd2, %rd3;
    ld.global.u32 %r7, [%rd4];
    add.s32 %r7, %r7, %r2;
    st.global.u32 [%rd4], %r7;
DONE:
    ret;
}
"""
"""``value`` onto each of ``count`` 32-bit integers."""

FAULT = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry fault()
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    mov.u64 %rd1, 16;
    mov.u32 %r1, 1;
    st.global.u32 [%rd1], %r1;
    ret;
}
"""
"""A write to an address that nobody has."""

FOREVER = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry forever()
{
AGAIN:
    bra AGAIN;
}
"""
"""A kernel that only a process's end stops."""

TALK = b"""
.version 7.0
.target sm_70
.address_size 64
.extern .func (.param .b32 count) vprintf(.param .b64 format, .param .b64 arguments);
.global .align 1 .b8 format[9] = {115, 97, 105, 100, 32, 37, 117, 10, 0};
.visible .entry talk(.param .u32 number)
{
    .local .align 8 .b8 packed[8];
    .reg .b32 %r<3>;
    .reg .b64 %rd<4>;
    ld.param.u32 %r1, [number];
    mov.u64 %rd1, packed;
    cvta.local.u64 %rd2, %rd1;
    st.local.u32 [%rd1], %r1;
    mov.u64 %rd3, format;
    cvta.global.u64 %rd3, %rd3;
    {
        .param .b64 p0;
        st.param.b64 [p0], %rd3;
        .param .b64 p1;
        st.param.b64 [p1], %rd2;
        .param .b32 r0;
        call.uni (r0), vprintf, (p0, p1);
        ld.param.b32 %r2, [r0];
    }
    ret;
}
"""
"""Prints a line with ``number`` in it."""


class Adder:
    """The kernel ``add`` of one session."""

    def __init__(self, client):
        self.function = client.load_module(ADD).function("add")

    def __call__(self, array, value, stream=0):
        """Add ``value`` to every element of an array of 32-bit integers."""
        arguments = struct.pack("<QII", array.address, array.size, value)
        self.function.launch(-(-array.size // 256), 256, arguments, stream)
