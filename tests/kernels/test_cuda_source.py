"""What linked CUDA C++ may say to the preprocessor, and what would name a file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bitfusion.errors import KernelSourceError
from bitfusion.kernels import cuda_cpp, nvrtc
from bitfusion.kernels.cuda_source import SIZE_MAX, checked


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
        # NVRTC passes over carriage returns, and a page of them hides what follows
        "#" + "\r" * 300 + "include <x.h>",
        "# \x1c include <x.h>",
        "#" + " " * 5000 + "include <x.h>",
        "#/*" + "*" * 5000 + "*/include <x.h>",
        "#include " + " " * 2000 + "<cuda_fp16.h>",
        # whether a file is there, by a macro that becomes __has_include
        "#define CAT(a, b) a##b\n#if CAT(__has_inc, lude)(<x.h>)\n#endif",
        "#if _CCCL_PP_CAT(__has_inc, lude)(<x.h>)\n#endif",
        "#if 0\n#elif _CCCL_PP_CAT (__has_inc, lude)(<x.h>)\n#endif",
        "#define N _CCCL_PP_CAT(__has_inc, lude)(<x.h>)\n#if N\n#endif",
        "#define N 3\n#undef N\n#define N F(x)\n#if N\n#endif",
        "#define N 3" + " " * 2000 + "F(x)\n#if N\n#endif",
        "#define N 3 /*\n*/ F(x)\n#if N\n#endif",
        "#define N 3 \\\nF(x)\n#if N\n#endif",
        "#if 1 /*\n*/ F(x)\n#endif",
        "#if 1 \\\n F(x)\n#endif",
        "#if 1" + " " * 2000 + "F(x)\n#endif",
        # NVRTC computes it in code as well
        "#define CAT(a, b) a##b\nint f() { return CAT(__has_inc, lude)(<x.h>); }",
        "#define CAT(a, b) a##b\nint f() { return CAT(CAT(_, _), CAT(has_inc, lude))(<x.h>); }",
        "int f() { return _CCCL_PP_CAT(__h, as_include)(<x.h>); }",
        "int f() { return _CCCL_PP_CAT(__has\\\n_inc, lude)(<x.h>); }",
        "#define W(x) _CCCL_CHECK_BUILTIN(x)\nint f() { return W(_CCCL_PP_CAT(has_inc, lude)(<x.h>)); }",
        "#define CAT(a, b) a##b\nint f() { return CAT(_CC, CL_CHECK_BUILTIN)(1); }",
        # what headers would take for theirs
        "#define CUDA_VERSION F(x)\n#include <cuda_fp16.h>",
        '#define __THRUST_HOST_SYSTEM_ROOT "/etc"\n#include <cuda/buffer>',
        "// \u00e9",
        "x" * (SIZE_MAX + 1),
    ],
)
def test_cuda_c_that_could_name_a_file(text):
    if text == "#include <cuda_fp16.h> ":  # the one that may be
        checked("mine.cu", text)
        return
    with pytest.raises(KernelSourceError, match=r"mine\.cu"):
        checked("mine.cu", text)


@pytest.mark.parametrize(
    "text",
    [
        "#define N 3 // the number\n#if N > 2\n#pragma unroll 4\n#endif",
        "#include <cuda_fp16.h> // half\n",
        "#define JOINED(a, b) a##b",
        "#define DEBUG\n#define N 0x10u // hex\n#include <math.h>\n#if defined(DEBUG) && (N > 2) || !defined X\n#endif",
        "#if __CUDA_ARCH__ >= 900\n#elif __CUDA_ARCH__ >= 800 /* older */\n#endif",
        "#\n#pragma once\n",
        "#include <cuda/std/atomic>\n#include <cuda/barrier>",
    ],
)
def test_cuda_c_that_may_be(text):
    checked("mine.cu", text)


def test_the_compiler_gets_the_text_that_was_looked_at():
    assert checked("mine.cu", "int a;\r\n\fint b;\n") == "int a;\n int b;\n"


def test_what_is_refused_is_what_the_compiler_would_open(tmp_path):
    """The bare compiler quotes the file: the reason for all of this."""
    (tmp_path / "secret").write_text("word_of_the_file")
    text = "#" + "\r" * 300 + f'include "{tmp_path / "secret"}"\n'
    code, log = nvrtc.compiled(text.encode(), "compute_80", [])
    assert code == nvrtc.EXIT_REFUSED and b"word_of_the_file" in log
    with pytest.raises(KernelSourceError):
        checked("mine.cu", text)


def test_one_macro_of_the_headers_puts_a_beginning_before_what_it_is_given():
    pasted = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)\(.*(?<![\w#])_(?:_(?:h(?:as?_?)?)?)?[ \t]*##", re.MULTILINE)
    places = {Path(place) for place in cuda_cpp._own_folders()}
    files = {file for place in places for file in place.rglob("*") if file.is_file()}
    assert len(files) > 1000
    found = {name for file in files for name in pasted.findall(file.read_text(errors="replace"))}
    assert found == {"_CCCL_CHECK_BUILTIN"}
