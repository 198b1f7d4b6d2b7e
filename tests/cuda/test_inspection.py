"""What a kernel tells of itself, when declared signatures are compiled, and the ``compile`` family."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.cuda import float32, int32, void
from bitfusion.errors import KernelCompileError, KernelTypeError, UnsupportedError

pytestmark = pytest.mark.usefixtures("client")


def scale(values, factor):
    values[cuda.grid(1)] *= factor


def wrong(values):
    values[0] = cuda.threadIdx.nothing


def add(left, right):
    return left + right


SIGNATURE = (float32[::1], float32)


def test_a_declared_signature_is_compiled_at_the_definition():
    made = cuda.jit(void(*SIGNATURE))(scale)
    assert made.specialized and made.signatures == [SIGNATURE]
    assert list(made.overloads) == [SIGNATURE]
    line = scale.__code__.co_firstlineno
    assert (made.get_regs_per_thread(), made.get_shared_mem_per_block()) != (None, None)

    def unknown(values):
        values[0] = values.nothing

    with pytest.raises(
        KernelCompileError, match=rf"test_inspection\.py:{unknown.__code__.co_firstlineno + 1}: in unknown"
    ):
        cuda.jit("void(float32[:])")(unknown)
    assert line > 0


def test_what_a_kernel_shows():
    made = cuda.jit([void(*SIGNATURE), void(float32[::1], int32)])(scale)
    for texts, part in (
        (made.inspect_asm(), ".visible .entry"),
        (made.inspect_llvm(), "define"),
        (made.inspect_lto_ptx(), ".visible .entry"),
    ):
        assert list(texts) == made.signatures
        assert all(part in text for text in texts.values())
    assert made.inspect_asm(SIGNATURE) == made.inspect_asm()[SIGNATURE]
    listing = io.StringIO()
    made.inspect_types(listing)
    assert "values[cuda.grid(1)] *= factor" in listing.getvalue() and "0x" not in listing.getvalue()
    assert made.get_regs_per_thread().keys() == made.overloads.keys()
    assert len(made.stats.cache_misses) == 2
    with pytest.raises(UnsupportedError, match="SASS"):
        made.inspect_sass()


def test_numba_s_own_types_find_what_was_compiled():
    numba = pytest.importorskip("numba")
    made = cuda.jit(scale)
    made[1, 1](cuda.to_device(np.zeros(1, np.float32)), np.float32(1))
    assert made.overloads[numba.float32[::1], numba.float32] is made.overloads[SIGNATURE]
    with pytest.raises(KeyError):
        made.overloads[numba.float64[::1], numba.float32]


@pytest.mark.parametrize(
    ("options", "directives"),
    [
        ({"launch_bounds": 128}, [".maxntid 128"]),
        ({"launch_bounds": (64, 2)}, [".maxntid 64", ".minnctapersm 2"]),
        ({"max_registers": 40}, [".maxnreg 40"]),
        ({"lineinfo": True}, [".loc"]),
        ({"fastmath": True}, ["ex2.approx.ftz.f32"]),
        ({"debug": True, "opt": False}, ["__errcode__"]),
    ],
)
def test_options_show_in_the_code(options, directives):
    def power(values):
        values[0] = values[0] ** values[1]

    text = cuda.jit("void(float32[::1])", **options)(power).inspect_asm(void(float32[::1]))
    plain = cuda.jit("void(float32[::1])")(power).inspect_asm(void(float32[::1]))
    assert all(directive in text and directive not in plain for directive in directives)


def test_a_device_function_keeps_its_own_options():
    def inner(value):
        return value ** np.float32(0.3)

    fast, slow = (cuda.jit(device=True, fastmath=how)(inner) for how in (True, False))
    texts = []
    for called in (fast, slow):

        @cuda.jit("void(float32[::1])")
        def kernel(values):
            values[0] = called(values[0])  # noqa: B023 (compiled here)

        texts.append(next(iter(kernel.inspect_asm().values())))
    assert ["lg2.approx" in text for text in texts] == [True, False]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"launch_bounds": (1, 2, 3, 4)}, ValueError),
        ({"shared_memory_carveout": "most"}, ValueError),
        ({"shared_memory_carveout": 101}, ValueError),
        ({"shared_memory_carveout": 1.5}, TypeError),
        ({"inline": len}, UnsupportedError),
        ({"max_registers": 1000}, KernelTypeError),
    ],
)
def test_options_that_cannot_be(options, error):
    with pytest.raises(error):
        cuda.jit("void(float32[::1], float32)", **options)(scale)


def test_specialize_and_recompile():
    made = cuda.jit(scale)
    values = cuda.to_device(np.ones(4, np.float32))
    special = made.specialize(values, 2)
    assert special is made.specialize(values, 2) and special.specialized and not made.specialized
    with pytest.raises(RuntimeError, match="already specialized"):
        special.specialize(values, 2)
    special[1, 4](values, 2)
    special.recompile()
    special[1, 4](values, 2)
    assert values.copy_to_host().tolist() == [4] * 4
    made.disable_compile()
    with pytest.raises(KernelTypeError, match="compiling is disabled"):
        made[1, 4](values, 2)


def test_recompiling_sees_new_values():
    factor = 2

    @cuda.jit
    def by_factor(values):
        values[0] *= factor

    values = cuda.to_device(np.ones(1, np.int64))
    by_factor[1, 1](values)
    factor = 3
    by_factor[1, 1](values)
    assert values.copy_to_host()[0] == 4
    by_factor.recompile()
    by_factor[1, 1](values)
    assert values.copy_to_host()[0] == 12


def test_the_compile_family():
    ptx, result = cuda.compile(add, (int32, int32))
    assert result is cuda.int64 and re.search(r"\.func .*\badd\(", ptx, re.DOTALL)
    ptx, result = cuda.compile(add, int32(int32, int32), abi_info={"abi_name": "sum_of"}, cc=(9, 0))
    assert result is int32 and "sum_of(" in ptx and ".target sm_90" in ptx
    ptx, result = cuda.compile_ptx(scale, SIGNATURE)
    assert result is cuda.none and ".visible .entry" in ptx
    assert cuda.compile_ptx_for_current_device(scale, SIGNATURE)[0] == ptx
    code, _ = cuda.compile_for_current_device(add, (int32, int32), output="ltoir")
    assert isinstance(code, bytes) and code
    (only,), _ = cuda.compile_all(add, (int32, int32), output="ptx")
    assert "add(" in only


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((add, (int32, int32)), {"output": "sass"}, NotImplementedError, "output"),
        ((add, (int32, int32)), {"abi": "pascal"}, NotImplementedError, "ABI"),
        ((scale, SIGNATURE), {"device": False}, NotImplementedError, "C ABI"),
        ((add, (int32, int32)), {"forceinline": True}, ValueError, "LTO-IR"),
        ((add, int32(int32, int32)), {"device": False, "abi": "numba"}, KernelTypeError, "void return type"),
        ((add, (int32, int32)), {"device": False, "abi": "numba"}, KernelCompileError, "must have void return type"),
        ((add, (int32, int32)), {"abi_info": {"abi_name": "a b"}}, KernelTypeError, "C name"),
        ((add, (int32, int32)), {"cc": (1, 0)}, KernelCompileError, "1.0"),
        ((add, (int32, float32[:])), {}, KernelCompileError, "in add"),
    ],
)
def test_compiles_that_cannot_be(arguments, options, error, match):
    with pytest.raises(error, match=match):
        cuda.compile(*arguments, **options)


def test_device_functions_show_their_code():
    made = cuda.jit("int32(int32, int32)", device=True)(add)
    assert made.signatures == [(int32, int32)]
    assert ".func" in made.inspect_asm()[int32, int32]
    assert "define" in made.inspect_llvm((int32, int32))
    with pytest.raises(UnsupportedError, match="no resources"):
        made.get_regs_per_thread()
