"""PTX that makes no sense or asks for too much: a typed error that names the line or the instruction, never a crash."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from numba import typeof

from bitfusion.device.virtual.compile import compile_module
from bitfusion.device.virtual.jit import SYSTEM_FUNCTIONS, Code, compile_ir
from bitfusion.errors import DeviceError, InvalidValueError, UnsupportedError
from tests.device.virtual.gpu import HEADER, compile_kernel
from tests.device.virtual.test_functions import FACTORIAL, POINTERS, barriers_inside, local_arrays
from tests.device.virtual.test_shared import NAMED
from tests.device.virtual.test_warp import REDUX


def body(*statements, registers=".reg .b32 %r<9>; .reg .b64 %rd<9>; .reg .pred %p<3>; .reg .f32 %f<3>;"):
    """A kernel with one parameter; the statements begin in line 5."""
    lines = "\n".join(statements)
    return f"{HEADER}.visible .entry kernel(.param .u64 a) {{ {registers}\n{lines}\nret; }}"


NONSENSE = {
    "nothing": ("no PTX at all", "line 1"),
    "character": (HEADER + "\N{SNOWMAN}", "line 4: unexpected character"),
    "end": (HEADER + ".visible .entry kernel(", "ends in the middle"),
    "statement": (HEADER + "\n\nfoo bar;", "line 6"),
    "brace": (HEADER + ".visible .entry kernel() { ret; ", "ends"),
    "linkage": (HEADER + ".common .common .nonsense x;", "line 4"),
    "register": (body("add.u32 %r1, %q5, %r2;"), "line 5.*q5"),
    "label": (body("bra NOWHERE;"), "NOWHERE"),
    "twice": (body("A:", "A:"), "A"),
    "symbol": (body("ld.global.u32 %r1, [nowhere];"), "nowhere"),
    "operands": (body("add.u32 %r1, %r2;"), "line 5.*2 operands"),
    "no operands": (body("mov.u32;"), "line 5.*0 operands"),
    "no type": (body("add %r1, %r2, %r3;"), "line 5.*needs a type"),
    "negation": (body("add.u64 %rd1, !%rd2, %rd3;"), "line 5"),
    "component": (body("mov.u32 %r1, %tid.q;"), "line 5"),
    "special register": (body("mov.u32 %r1, %tid2;"), "line 5"),
    "range": (body(registers=".reg .b32 %r<100000000>;"), "line 4"),
    "number": (body("mov.u32 %r1, 99999999999999999999999999;"), "line 5"),
    "offset": (
        HEADER + ".shared .b8 s[4]; .entry k() { .reg .b32 %r1; ld.shared.u32 %r1, [s+4]; ret; }",
        "outside of s",
    ),
    "alignment": (HEADER + ".global .align 3 .b8 x[4];", "line 4.*alignment of 3"),
    "huge variable": (HEADER + ".global .b8 x[99999999999];", "line 4"),
    "huge variables": (HEADER + "".join(f".global .b64 x{i}[60000000];" for i in range(20)), "bytes"),
    "initial value": (HEADER + ".global .u64 x = nowhere; .entry k() { ret; }", "nowhere"),
    "parameter": (body("ld.param.u64 %rd1, [b];"), "line 5.*b"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_an_error_that_names_the_place(gpu, name):
    text, words = NONSENSE[name]
    with pytest.raises(InvalidValueError, match=re.compile(words, re.DOTALL)):
        gpu.device.load(text.encode()).function("kernel" if "kernel" in text else "k")


UNSUPPORTED = {
    "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64": "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%rd1}, {%rd2}, {%rd3}, {%rd4};",
    "tex.2d.v4.f32.s32": "tex.2d.v4.f32.s32 {%r1, %r2, %r3, %r4}, [a, {%r5, %r6}];",
    "wgmma.fence.sync.aligned": "wgmma.fence.sync.aligned;",
    "add.nonsense.u32": "add.nonsense.u32 %r1, %r2, %r3;",
    "frobnicate.b32": "frobnicate.b32 %r1, %r2;",
    "add.u8": "add.u8 %r1, %r2, %r3;",
    "add.rn.f32.f16": "add.rn.f32.f16 %f1, %r1, %f2;",
    "fma.rn.f32.bf16": "fma.rn.f32.bf16 %f1, %r1, %r2, %f2;",
    "redux.sync.min.f32": "redux.sync.min.f32 %f1, %f2, -1;",
    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes": (
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1], 16, [%r2];"
    ),
    "mbarrier.arrive.expect_tx.shared::cta.b64": "mbarrier.arrive.expect_tx.shared::cta.b64 %rd1, [%r1], 16;",
    "barrier.cluster.arrive": "barrier.cluster.arrive;",
    "alloca.u64": "bar.sync 0; alloca.u64 %rd1, 16;",
    "ldmatrix.sync.aligned.m8n8.x1.shared.b16": "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r1}, [%r2];",
}


@pytest.mark.parametrize("instruction", UNSUPPORTED)
def test_an_unsupported_instruction_is_named_with_its_line(gpu, instruction):
    module = gpu.device.load(body(UNSUPPORTED[instruction]).encode())  # found when the kernel is asked for, not before
    with pytest.raises(UnsupportedError) as caught:
        module.function("kernel")
    assert caught.value.details["instruction"] == instruction
    assert caught.value.details["line"] == 5
    assert instruction in caught.value.message and "line 5" in caught.value.message


def test_a_kernel_that_works_beside_one_that_does_not(gpu):
    text = HEADER + ".entry good() { ret; } .entry bad() { wgmma.fence.sync.aligned; ret; }"
    module = gpu.device.load(text.encode())
    with pytest.raises(UnsupportedError):
        module.function("bad")
    gpu.device.launch(gpu.stream, module.function("good"), (1, 1, 1), (32, 1, 1), 0, b"")


def test_a_function_without_a_body_is_named(gpu):
    text = HEADER + ".extern .func missing(); .entry k() { call missing; ret; }"
    with pytest.raises(UnsupportedError, match="missing"):
        gpu.device.load(text.encode()).function("k")


def test_a_function_that_is_not_declared_is_named(gpu):
    with pytest.raises(UnsupportedError, match=r"missing has no body .*: link the code"):
        gpu.load(body("call.uni missing;"))


def test_a_kernel_that_is_not_there(gpu):
    module = gpu.device.load((HEADER + ".entry a() { ret; } .entry b() { ret; }").encode())
    with pytest.raises(InvalidValueError, match="no kernel 'c'; it has a, b"):
        module.function("c")


def test_machine_code_can_only_call_what_is_listed():
    ir = "declare i32 @system(ptr) define i32 @f(ptr %p) { %r = call i32 @system(ptr %p) ret i32 %r }"
    with pytest.raises(UnsupportedError, match="system"):
        Code(compile_ir(ir))
    assert "system" not in SYSTEM_FUNCTIONS


def test_ir_that_llvm_refuses_is_no_crash():
    with pytest.raises(InvalidValueError, match="LLVM"):
        compile_ir("define i32 @f() { ret i64 0 }")


def test_mutilated_ptx_is_compiled_or_refused():
    """A few hundred of the mutations that found the mistakes above; each is compiled to verified IR or refused."""
    array = typeof(np.zeros(1, np.float32))
    texts = [FACTORIAL, POINTERS, NAMED, REDUX]
    texts += [compile_kernel(kernel, (array, array)) for kernel in (local_arrays, barriers_inside)]
    choice = random.Random(1)
    outcomes = {True: 0, False: 0}
    for _ in range(400):
        tokens = re.findall(r"[%.\w$:]+|\s+|.", choice.choice(texts))
        for _ in range(choice.randint(1, 3)):
            place, other = choice.randrange(len(tokens)), choice.randrange(len(tokens))
            match choice.randrange(4):
                case 0:
                    tokens[place] = ""
                case 1:
                    tokens[place] = tokens[other]
                case 2:
                    tokens[place], tokens[other] = tokens[other], tokens[place]
                case 3:
                    tokens[place] += tokens[other]
        try:
            module = compile_module("".join(tokens))
            for kernel in module.kernels:
                module.kernel(kernel)
        except DeviceError:
            outcomes[False] += 1
        else:
            outcomes[True] += 1
    assert min(outcomes.values()) > 20


def test_calls_within_calls_around_a_barrier_end(gpu):
    bodies = ["bar.sync 0;", *(f"call f{index};" for index in range(2000))]
    functions = "".join(f".func f{index}() {{ {body} ret; }}\n" for index, body in enumerate(bodies))
    with pytest.raises(UnsupportedError, match="calls within calls"):
        gpu.load(f"{HEADER}{functions}.visible .entry kernel() {{ call f2000; ret; }}")
    gpu.load(f"{HEADER}{functions}.visible .entry kernel() {{ call f60; ret; }}")
