"""Which kernels of a PTX text wait for their whole grid."""

from __future__ import annotations

import pytest

from bitfusion.device.cooperative import cooperative_kernels

DECLARED = b".extern .func (.param .b32 r) cudaCGSynchronize(.param .b64 a);\n.extern .func (.param .b64 r) cudaCGGetIntrinsicHandle();"
PLAIN = b".visible .entry plain(.param .u64 a) { ret; }"
NVCC = b".visible .entry nvcc(.param .u64 a) { mov.u32 %r1, %envreg2; ret; }"
NUMBA = b".visible .entry numba() {{ call.uni (retval0),\n cudaCGSynchronize,\n (param0, param1); } ret; }"
HANDLE = b".visible .entry handle() { call (r), cudaCGGetIntrinsicHandle, (p); }"
FUNCTION = b".visible .func (.param .b32 result) wait(.param .b64 a) { mov.b32 %r1, %envreg1; ret; }"


@pytest.mark.parametrize(
    ("image", "names"),
    [
        (b"", set()),
        (b"\x7fELF .entry %envreg1", set()),
        (PLAIN, set()),
        (DECLARED + PLAIN, set()),
        (PLAIN + NVCC, {b"nvcc"}),
        (DECLARED + NUMBA + PLAIN, {b"numba"}),
        (PLAIN + HANDLE, {b"handle"}),
        (PLAIN + FUNCTION, {b"plain"}),
        (PLAIN.replace(b"{", b"{ mov.u32 %r1, %envreg3;"), set()),
    ],
)
def test_kernels_that_ask_for_the_workspace(image, names):
    assert cooperative_kernels(image) == names


@pytest.mark.parametrize("text", [b".func (", b".func ", b"call ", b".entry x() call ("])
def test_a_hostile_text_takes_no_time(text):
    assert cooperative_kernels(text * 100_000) == set()
