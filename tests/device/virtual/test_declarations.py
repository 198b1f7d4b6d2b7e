"""Variables with every form of initial value, constant expressions, aliases: what kernels find in memory."""

from __future__ import annotations

import re

import numpy as np
import pytest

from bitfusion.device.virtual.compile import compile_module
from bitfusion.errors import InvalidValueError
from tests.device.virtual.gpu import HEADER
from tests.device.virtual.ptx import kernel, run

INITIAL = {
    "flat": (".global .s32 x[4] = {1, -2, 0x30};", np.array([1, -2, 0x30, 0], np.int32)),
    "rows": (".global .s32 x[3][2] = {{1}, {2, 3}, 4};", np.array([1, 0, 2, 3, 4, 0], np.int32)),
    "rows of rows": (".global .u8 x[2][2][2] = {{{1}, {2, 3}}, {{4}}};", np.array([1, 0, 2, 3, 4, 0, 0, 0], np.uint8)),
    "open": (".global .s16 x[] = {1, 2, 3};", np.array([1, 2, 3], np.int16)),
    "open rows": (".global .s16 x[][2] = {{1}, {2, 3}, {4}};", np.array([1, 0, 2, 3, 4, 0], np.int16)),
    "scalar": (".global .u64 x = -1;", np.array([-1], np.int64)),
    "floats": (".global .f32 x[] = {1.5, -2.25, 0f40490FDB, 0d3FF0000000000000, -0f3F800000};",
               np.array([1.5, -2.25, np.float32(np.pi), 1, -1], np.float32)),
    "doubles": (".const .f64 x[] = {1.5, -1.0e10, 0d400921FB54442D18, 0f3F800000};", np.array([1.5, -1e10, np.pi, 1])),
    "halfs": (".global .b16 x[] = {0x3C00, 0xC000};", np.array([1, -2], np.float16)),
    "vectors": (".const .v4 .f32 x[] = {{1.0, 2.0}, {3.0, 4.0, 5.0, 6.0}};", np.array([1, 2, 0, 0, 3, 4, 5, 6], np.float32)),
    "string": ('.global .b8 x[] = "hello";', np.frombuffer(b"hello\0", np.uint8)),
    "characters": (".global .align 1 .b8 x[6] = {104, 101, 108, 108, 111};", np.frombuffer(b"hello\0", np.uint8)),
    "expressions": (
        ".global .s64 x[] = {1+2*3, (1+2)*3, -(4), ~0, 1<<40, -8>>1, 7/2, -7/2, -7%3, 1?2:3, 0x10|1, 6&3, 6^3, 3>2, !5,"
        " (.u64)-1>>60, 2==2&&1!=1, 0xFFFFFFFFFFFFFFFFU, 2-1-1};",
        np.array([7, 9, -4, -1, 1 << 40, -4, 3, -3, -1, 2, 17, 2, 5, 1, 0, 15, 0, -1, 0], np.int64),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", INITIAL)
def test_initial_values(gpu, name):
    declaration, expected = INITIAL[name]
    space = declaration[1:].split()[0]
    lines = "".join(f"ld.{space}.u8 %h1, [x+{k}]; st.global.u8 [%rd0+{k}], %h1;" for k in range(expected.nbytes))
    out = np.zeros(expected.nbytes, np.uint8)
    run(gpu, kernel(lines, declarations=declaration), out)
    np.testing.assert_array_equal(out, np.ascontiguousarray(expected).view(np.uint8))


ADDRESSES = """
.global .u32 target[4] = {10, 11, 12, 13};
.global .u64 first[3] = {target, generic(target)+8, target + 2*2};
.global .u8 pieces[8] = {0xFF(target), 0xFF00(target), 0xFF0000(target), 0xFF000000(target), 0xFF00000000(target),
                         0xFF0000000000(generic(target)), 0xFF000000000000(target), 0xFF00000000000000(target)};
.func (.param .b32 r) double(.param .b32 x) { .reg .b32 %r<2>; ld.param.b32 %r0, [x]; shl.b32 %r1, %r0, 1; st.param.b32 [r], %r1; ret; }
.func (.param .b32 r) twice(.param .b32 x);
.alias twice, double;
.global .u64 table[2] = {double, twice};
.global .u64 loop[2] = {loop, table};
"""


def test_addresses_of_variables_and_functions_in_initial_values(gpu):
    call = """ld.global.u64 %rd3, [{table}+{offset}]; {{ .param .b32 a; .param .b32 r; st.param.b32 [a], {value};
    call (r), %rd3, (a), prototype; ld.param.b32 %r1, [r]; }} st.global.u32 [%rd0+{place}], %r1;"""
    body = """prototype: .callprototype (.param .b32 _) _ (.param .b32 _);
    ld.global.u64 %rd1, [first]; ld.u32 %r1, [%rd1]; st.global.u32 [%rd0], %r1;
    ld.global.u64 %rd1, [first+8]; ld.u32 %r1, [%rd1]; st.global.u32 [%rd0+4], %r1;
    ld.global.u64 %rd1, [first+16]; ld.u32 %r1, [%rd1]; st.global.u32 [%rd0+8], %r1;
    ld.global.u64 %rd1, [pieces]; ld.u32 %r1, [%rd1+12]; st.global.u32 [%rd0+12], %r1;
    ld.global.u64 %rd1, [loop]; ld.global.u64 %rd2, [%rd1+8];"""
    body += call.format(table="table", offset=0, value=21, place=16)
    body += call.format(table="%rd2", offset=8, value=4, place=20)
    body += "{ .param .b32 a; .param .b32 r; st.param.b32 [a], 50; call (r), twice, (a); ld.param.b32 %r1, [r]; }"
    body += "st.global.u32 [%rd0+24], %r1;"
    out = np.zeros(7, np.uint32)
    run(gpu, kernel(body, declarations=ADDRESSES), out)
    assert out.tolist() == [10, 12, 11, 13, 42, 8, 100]


def test_a_register_plus_a_constant_is_a_value(gpu):
    body = """mov.u32 %r1, 40; mov.u32 %r2, %r1+2; st.global.u32 [%rd0], %r1 - 8;
    add.u32 %r3, %r2 + 2 * 4, %r1+1; st.global.u32 [%rd0+4], %r3; setp.eq.u32 %p1, %r1, 0; @!%p1 mov.u32 %r1, %r1+1;
    mov.u64 %rd1, %rd0+8; st.global.u32 [%rd1+1*4], %r1; st.global.u32 [%rd1], 3 * (4 + 1);"""
    out = np.zeros(4, np.uint32)
    run(gpu, kernel(body), out)
    assert out.tolist() == [32, 91, 15, 41]


def test_parameters_that_are_vectors_are_aligned_to_their_size(gpu):
    text = f"""{HEADER}.visible .entry kernel(.param .u64 out, .param .u32 a, .param .v4 .f32 b) {{
    .reg .b64 %rd<3>; .reg .f32 %f<5>;
    ld.param.u64 %rd1, [out]; ld.param.v4.f32 {{%f1, %f2, %f3, %f4}}, [b];
    st.global.v4.f32 [%rd1], {{%f4, %f3, %f2, %f1}}; ret; }}"""
    assert gpu.load(text).info.parameters == ((0, 8), (8, 4), (16, 16))


MISTAKES = {
    "too many": (".global .u32 x[2] = {1, 2, 3};", "line 4.*3 initial values for 2"),
    "too long a row": (".global .u32 x[2][2] = {{1, 2, 3}};", "row of 2"),
    "float in an integer": (".global .u32 x = 1.5;", "does not fit"),
    "integer in a float": (".global .f32 x = 1;", "floating-point"),
    "string of words": ('.global .u32 x[] = "a";', "only bytes"),
    "mask": (".global .u32 y; .global .u8 x = 0xF0(y);", "mask 0xf0"),
    "division": (".global .u32 x = 1/0;", "division by zero"),
    "depth": (f".global .u32 x = {'(' * 99}1{')' * 99};", "nested too deeply"),
    "signs": (f".global .u32 x = {'-' * 9999}1;", "nested too deeply"),
    "braces": (f".global .u32 x{'[1]' * 99} = {'{' * 99}1{'}' * 99};", "dimensions"),
    "braces too deep": (f".global .u32 x[1] = {'{' * 9999}1;", "expected a name"),
    "gaps": (".global .b8 x[60][1000000] = {{1}, {1}, {1}, {1}, {1}, {1}, {1}, {1}};", "initial values"),
    "elements": (".global .b8 x[100000][100000];", "too large"),
    "unfinished": (".global .u32 x = 1 +", "the end of the text"),
    "alias": (".func f(); .alias g, f;", "alias g"),
    "many variables": ("".join(f".global .b8 x{k}<60000>;" for k in range(9)), "too many variables"),
    "many registers": (
        "".join(f".func f{k}() {{ .reg .b32 %r<200000>; ret; }}" for k in range(9)),
        "too many registers",
    ),
    "many locals": (".func f() { .local .b8 x<60000>; .local .b8 y<60000>; ret; }", "too many variables"),
    "predicate plus one": (".func f() { .reg .pred %p; mov.pred %p, %p+1; ret; }", "constant cannot be added"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_declarations_are_named(name):
    text, words = MISTAKES[name]
    with pytest.raises(InvalidValueError, match=re.compile(words, re.DOTALL)):
        _ = compile_module(HEADER + text).initial_values
