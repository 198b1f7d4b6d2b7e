"""Code that is linked: what CUDA C++ may not say, and how PTX is joined."""

from __future__ import annotations

import re

import pytest

from bitfusion.errors import KernelCompileError, KernelSourceError
from bitfusion.kernels.linking import joined, ptx_of
from bitfusion.kernels.program import Link

HEAD = ".version {}\n.target sm_80\n.address_size 64\n"
KERNEL = (
    HEAD.format("8.0")
    + """.extern .func  (.param .b32 func_retval0) outer
(
    .param .b64 outer_param_0
)
;
.extern .func (.param .b32 r) vprintf(.param .b64 a, .param .b64 b);
.visible .entry kernel() { ret; }
"""
)
OTHER = (
    HEAD.format("8.4")
    + ".extern .func inner;\n.visible .func (.param .b32 r) outer(.param .b64 a) { ret; } // .func x {\n"
)
INNER = HEAD.format("7.8") + ".visible .func inner { ret; }\n"


def test_one_header_and_no_declaration_of_what_is_defined():
    text = joined(KERNEL, [OTHER, INNER])
    assert text.count(".version") == text.count(".target") == text.count(".address_size") == 1
    assert ".version 8.4" in text
    assert ".extern .func (.param .b32 r) vprintf" in text
    assert text.count(".extern") == 1
    assert text.index("outer(") < text.index(".entry kernel")


def test_a_function_without_a_result_is_called_for_none():
    """Numba asks one of every C function."""
    kernel = KERNEL.replace("{ ret; }", "{ call.uni (retval0), \n inner, (); call.uni (retval0), outer, (a); ret; }")
    text = joined(kernel, [OTHER, INNER])
    assert re.search(r"call\.uni\s+inner, \(\);", text) and "(retval0), outer" in text


def test_nothing_linked_changes_nothing():
    assert joined(KERNEL, []) == KERNEL


@pytest.mark.parametrize(
    "text",
    [
        ".func" + " " * 500_000,
        "\n" * 500_000,
        ".extern .func" + " " * 500_000,
        ".version " + "1" * 500_000,
        ".func (" * 70_000,
    ],
)
def test_hostile_ptx_is_read_in_no_time(text):
    """A pattern that goes over its text again and again would take hours here, with the interpreter's lock held."""
    assert joined(KERNEL, [text]).count(".version 8.0") == 1


def test_cuda_c_becomes_ptx():
    source = b'#include <cuda_fp16.h>\nextern "C" __device__ int twice(int value) { return 2 * value; }'
    (text,) = ptx_of([Link("cu", "mine.cu", source)], (8, 0))
    assert ".visible .func" in text and "twice" in text


@pytest.mark.parametrize(
    ("link", "error", "match"),
    [
        (Link("cu", "mine.cu", b"int x"), KernelCompileError, r"mine\.cu does not compile: mine\.cu"),
        (Link("cu", "mine.cu", b'#include "x.h"'), KernelSourceError, "cannot contain"),
        (Link("cu", "mine.cu", b"\xff"), KernelSourceError, "text"),
        (Link("ptx", "mine.ptx", b"\xff"), KernelSourceError, "text"),
    ],
)
def test_what_cannot_be_linked(link, error, match):
    with pytest.raises(error, match=match):
        ptx_of([link], (8, 0))


def test_an_error_in_a_header_does_not_say_where_the_appliance_has_it():
    with pytest.raises(KernelCompileError, match=r"\ncuda_fp16\.h|: cuda_fp16\.h") as caught:
        ptx_of([Link("cu", "mine.cu", b"#define __half 1\n#include <cuda_fp16.h>\n")], (8, 0))
    assert "site-packages" not in str(caught.value) and "/include" not in str(caught.value)
