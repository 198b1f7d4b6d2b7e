"""Code that is linked: what CUDA C++ may not say, and how PTX is joined."""

from __future__ import annotations

import re

import pytest

from bitfusion.errors import KernelCompileError, KernelSourceError
from bitfusion.kernels.linking import CU_SIZE_MAX, check_source, joined, ptx_of
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
        '#include "/etc/passwd"',
        "#include </etc/passwd>",
        "#include <cuda_fp16.h> ",
        "  #  include <../x.h>",
        "#include <cuda/../../x>",
        "#include <cuda//etc/passwd>",
        "#/**/include <x.h>",
        "/* */ # include <x.h>",
        "#inc\\\nlude <x.h>",
        "#inc\\ \t\nlude <x.h>",
        "#inc??/\nlude <x.h>",
        "%:include <x.h>",
        "??=include <x.h>",
        "#include_next <x.h>",
        "#import <x.h>",
        "#embed <x.h>",
        "#define F <x.h>\n#include F",
        "#if __has_include(<x.h>)\n#endif",
        "#if __has_embed(<x.h>)\n#endif",
        '_Pragma("x")',
        "#pragma include_alias(<a>, <b>)",
        '#line 1 "x.h"',
        '# 1 "x.h"',
        '"\n#include <x.h>\n"',
        "'\"'\n#include <x.h>\n'\"'",
        "\r#include <x.h>",
        "\f#include <x.h>",
        "# /* over\nlines */ include <x.h>",
        # what a reader of comments and strings could be led to take for one
        'char a=\'"\'; const char* b="/*";\n#include <x.h>\nconst char* c="*/";',
        'int a=1\'0; const char* b="\'/*";\n#include <x.h>\nconst char* c="*/";',
        'auto a = u8R"("/*)";\n#include <x.h>\nauto b = "*/";',
        "// #include <x.h>",
        'auto a = "#/*";\n#include <x.h>\nauto b = "*/define x";',
        'const char* text = "# include";',
        "// \u00e9",
        "x" * (CU_SIZE_MAX + 1),
    ],
)
def test_cuda_c_that_could_name_a_file(text):
    if text == "#include <cuda_fp16.h> ":  # the one that may be
        check_source("mine.cu", text)
        return
    with pytest.raises(KernelSourceError, match=r"mine\.cu"):
        check_source("mine.cu", text)


@pytest.mark.parametrize(
    "text",
    [
        "#define N 3 // the number\n#if N > 2\n#pragma unroll 4\n#endif",
        "#include <cuda_fp16.h> // half\n",
        "#define JOINED(a, b) a##b",
        "#\n#pragma once\n",
        "#include <cuda/std/atomic>\n#include <cuda/barrier>",
    ],
)
def test_cuda_c_that_may_be(text):
    check_source("mine.cu", text)


def test_cuda_c_becomes_ptx():
    source = b'#include <cuda_fp16.h>\nextern "C" __device__ int twice(int value) { return 2 * value; }'
    (text,) = ptx_of([Link("cu", "mine.cu", source)], (8, 0))
    assert ".visible .func" in text and "twice" in text


@pytest.mark.parametrize(
    ("link", "error", "match"),
    [
        (Link("cu", "mine.cu", b"int x"), KernelCompileError, r"mine\.cu does not compile: mine\.cu"),
        (Link("cu", "mine.cu", b"\xff"), KernelSourceError, "text"),
        (Link("ptx", "mine.ptx", b"\xff"), KernelSourceError, "text"),
    ],
)
def test_what_cannot_be_linked(link, error, match):
    with pytest.raises(error, match=match):
        ptx_of([link], (8, 0))
