"""Linked code in kernels, from the declaration to the result."""

from __future__ import annotations

import io

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.errors import KernelCompileError, KernelSourceError, KernelTypeError, UnsupportedError

pytestmark = pytest.mark.usefixtures("client")

MUL = """
.version 7.0
.target sm_70
.address_size 64
.visible .func (.param .b32 status) mul(.param .b64 result, .param .b32 left, .param .b32 right)
{
    .reg .b32 %r<4>;
    .reg .b64 %a;
    ld.param.u64 %a, [result];
    ld.param.u32 %r1, [left];
    ld.param.u32 %r2, [right];
    mul.lo.s32 %r3, %r1, %r2;
    st.u32 [%a], %r3;
    mov.u32 %r0, 0;
    st.param.b32 [status], %r0;
    ret;
}
"""
ADD = 'extern "C" __device__ int plus(int left, int right) { return left + right; }'


def ran(function, **options):
    values = cuda.to_device(np.arange(8, dtype=np.int32))
    cuda.jit(**options)(function)[1, 8](values)
    return values.copy_to_host().tolist()


@pytest.mark.parametrize("data", [MUL, MUL.encode(), io.StringIO(MUL), io.BytesIO(MUL.encode())])
def test_ptx_in_memory(data):
    mul = cuda.declare_device("mul", "int32(int32, int32)", link=cuda.PTXSource(data))

    def kernel(values):
        i = cuda.grid(1)
        values[i] = mul(values[i], 3)

    assert ran(kernel) == [3 * i for i in range(8)]


def test_a_c_function_that_returns_nothing():
    code = cuda.CUSource(
        """__device__ int kept;
        extern "C" __device__ void keep(int value) { kept = value; }
        extern "C" __device__ int tell() { return kept; }"""
    )
    keep = cuda.declare_device("keep", "void(int32)", link=code, abi="c")
    tell = cuda.declare_device("tell", "int32()", link=code, abi="c")

    def kernel(values):
        if cuda.grid(1) == 3:
            keep(values[3] + 40)
            values[3] = tell()

    assert ran(kernel) == [0, 1, 2, 43, 4, 5, 6, 7]


def test_files_and_kernels_links(tmp_path):
    (tmp_path / "mul.ptx").write_text(MUL)
    (tmp_path / "plus.cu").write_text(ADD)
    mul = cuda.declare_device("mul", cuda.int32(cuda.int32, cuda.int32))
    plus = cuda.declare_device("plus", "int32(int32, int32)", link=str(tmp_path / "plus.cu"), abi="c")

    @cuda.jit(device=True)
    def both(value):
        return plus(mul(value, value), 1)

    def kernel(values):
        i = cuda.grid(1)
        values[i] = both(values[i])

    assert ran(kernel, link=[tmp_path / "mul.ptx"]) == [i * i + 1 for i in range(8)]


def test_what_the_user_is_told(tmp_path):
    (tmp_path / "mul.so").write_bytes(b"x")
    with pytest.raises(RuntimeError, match=r"Don't know how to link file with extension \.so"):
        cuda.jit(link=[str(tmp_path / "mul.so")])
    with pytest.raises(UnsupportedError, match=r"PTX .* not with Cubin"):
        cuda.jit(link=cuda.Cubin(b"x"))
    with pytest.raises(UnsupportedError, match="callback"):
        cuda.PTXSource(MUL, setup_callback=print)
    with pytest.raises(KernelTypeError, match="Return type must be provided"):
        cuda.declare_device("mul", "(int32, int32)")
    with pytest.raises(NotImplementedError, match="Unsupported ABI"):
        cuda.declare_device("mul", "int32()", abi="fortran")
    with pytest.raises(ValueError, match="link keyword invalid"):
        cuda.jit(device=True, link=cuda.PTXSource(MUL))


@pytest.mark.parametrize(
    ("link", "error", "match"),
    [
        (cuda.CUSource("int x", name="mine.cu"), KernelCompileError, r"mine\.cu does not compile"),
        (cuda.CUSource('#include "/etc/passwd"', name="mine.cu"), KernelSourceError, r"mine\.cu: .* no files"),
    ],
)
def test_code_that_is_refused(link, error, match):
    with pytest.raises(error, match=match):
        ran(lambda values: None, link=link)


BF16 = cuda.CUSource(
    """#include <cuda_bf16.h>
extern "C" __device__ int plus_bf16(unsigned short *out, unsigned short a, unsigned short b)
{
    *out = __bfloat16_as_ushort(__hadd(__ushort_as_bfloat16(a), __ushort_as_bfloat16(b)));
    return 0;
}
"""
)


def test_bfloat16_as_its_bits(client):
    plus = cuda.declare_device("plus_bf16", "uint16(uint16, uint16)", link=BF16)

    @cuda.jit
    def add(values):
        values[0] = plus(values[1], values[2])

    values = np.array([0, 0x3FC0, 0x4010], np.uint16)  # 1.5 and 2.25
    add[1, 1](values)
    assert values[0] == 0x4070  # 3.75
