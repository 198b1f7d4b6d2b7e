"""PTX that shows what the language has, in little: material for mutation, held right by ``test_ptx``."""

HEADER = ".version 8.0\n.target sm_80\n.address_size 64\n"

SAXPY = (
    HEADER
    + """
.visible .entry saxpy(.param .u64 x, .param .align 8 .b8 rest[24], .param .f32 a)
.maxntid 256, 1, 1
{
    .reg .pred %p<3>;
    .reg .b32 %r<9>;
    .reg .b64 %rd<9>;
    .reg .f32 %f<9>;
    ld.param.u64 %rd1, [x];
    ld.param.b64 %rd2, [rest+8];
    ld.param.f32 %f1, [a];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    setp.ge.s32 %p1, %r4, 100;
    @%p1 bra DONE;
    cvta.to.global.u64 %rd3, %rd1;
    mul.wide.s32 %rd4, %r4, 4;
    add.s64 %rd5, %rd3, %rd4;
    ld.global.f32 %f2, [%rd5+-4];
    fma.rn.f32 %f3, %f1, %f2, 0f3F800000;
    selp.f32 %f4, %f3, %f2, %p1;
    st.global.f32 [%rd5], %f3;
DONE:
    ret;
}
"""
)

SHARED = (
    HEADER
    + """
.extern .shared .align 16 .b8 dynamic[];
.shared .align 4 .f32 tile[32];
.global .align 4 .u32 counts[4] = {1, 2, 3};
.const .align 8 .b8 text[6] = "hello";
.const .f64 factor = 0d3FF0000000000000;
.global .u64 pointer = generic(counts)+8;
.visible .entry reduce(.param .u64 out)
{
    .reg .pred %p<3>; .reg .b32 %r<12>; .reg .b64 %rd<6>; .reg .f32 %f<6>;
    .local .align 8 .b8 stack[16];
    mov.u32 %r1, %tid.x;
    cvt.rn.f32.u32 %f1, %r1;
    mov.u32 %r2, tile;
    shl.b32 %r3, %r1, 2;
    add.s32 %r4, %r2, %r3;
    st.shared.f32 [%r4], %f1;
    bar.sync 0;
LOOP:
    shfl.sync.down.b32 %r5|%p1, %r1, 1, 31, -1;
    vote.sync.ballot.b32 %r6, %p1, 0xffffffff;
    atom.shared.add.u32 %r7, [dynamic], 1;
    red.global.add.u32 [counts+4], %r7;
    {
        .reg .b32 %r<2>;
        mov.b64 {%r0, %r1}, %rd1;
        st.local.v2.b32 [stack], {%r0, %r1};
    }
    sub.u32 %r1, %r1, 1;
    setp.ne.and.b32 %p2, %r1, 0, %p1;
    @%p2 bra.uni LOOP;
    barrier.sync.aligned 1, 64;
    ld.param.u64 %rd2, [out];
    st.u32 [%rd2], %r7;
    exit;
}
"""
)

CALLS = (
    HEADER
    + """
.extern .func (.param .b32 result) vprintf(.param .b64 format, .param .b64 arguments);
.func (.reg .f64 y) square(.reg .f64 x) { mul.f64 y, x, x; ret; }
.alias twice, square;
.func (.param .b32 r) pick(.param .b32 n, .param .align 4 .b8 all[8]) .noreturn;
.weak .func (.param .b32 r) pick(.param .b32 n, .param .align 4 .b8 all[8])
{
    .reg .b32 %r<4>; .reg .pred %p;
    ld.param.b32 %r1, [n];
    ts: .branchtargets A, B;
    brx.idx %r1, ts;
A:  add.u32 %r2, %r1, 1;
    bra.uni END;
B:  {.reg .b64 %d; cvt.u64.u32 %d, %r1; cvt.sat.u8.u64 %r2, %d;}
END: st.param.b32 [r], %r2;
    ret;
}
.visible .entry calls(.param .u64 out) .reqntid 32, 1, 1 .minnctapersm 2
{
    .reg .b32 %r<4>; .reg .b64 %rd<4>; .reg .f64 %d<4>; .reg .v4 .f32 v;
    .loc 1 3 5, function_name info+4, inlined_at 1 2 3
    .pragma "nounroll";
    { .param .b32 n; .param .align 4 .b8 all[8]; .param .b32 r;
      st.param.b32 [n], 1; st.param.b32 [all+4], 2;
      call.uni (r), pick, (n, all);
      ld.param.b32 %r1, [r]; }
    mov.u64 %rd1, square;
    proto: .callprototype (.reg .f64 _) _ (.reg .f64 _);
    call (%d1), %rd1, (%d2), proto;
    call (%d3), square, (%d1);
    trap;
}
"""
)

CORPUS = (SAXPY, SHARED, CALLS)

WORDS = [
    ".b8",
    ".b16",
    ".b128",
    ".f16",
    ".f16x2",
    ".bf16",
    ".pred",
    ".v8",
    ".param",
    ".func",
    ".entry",
    ".extern",
    ".weak",
    ".common",
    ".shared",
    ".ptr",
    ".align",
    ".branchtargets",
    ".calltargets",
    "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32",
    "tex.1d.v4.f32.s32",
    "cp.async.ca.shared.global",
    "wgmma.fence",
    "lop3.b32",
    "prmt.b32",
    "cvt.rni.ftz.sat.s8.f32",
    "div.rn.f64",
    "atom.cas.b128",
    "%laneid",
    "%clock64",
    "%envreg3",
    "%pm0",
    "WARP_SZ",
    "0f7fc00000",
    "0d7ff8000000000000",
    "1e999",
]
"""Tokens that none of the texts has."""
