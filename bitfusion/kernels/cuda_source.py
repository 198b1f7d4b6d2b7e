"""What CUDA C++ of a client's may say to a preprocessor that can open files: nothing that names one but a few headers of CUDA's.

Every ``#`` is looked at, wherever it stands: what is a comment or a string to the compiler is not for a simpler reader to say. The
compiler gets the text that was looked at, with ``\\n`` for every line end.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bitfusion.errors import KernelSourceError

SIZE_MAX = 256 * 1024
"""Characters of one source."""

HEADERS = frozenset(
    {
        "cuda_fp16.h",
        "cuda_bf16.h",
        "cuda_fp8.h",
        "cooperative_groups.h",
        "cuda_runtime.h",
        "stdint.h",
        "cstdint",
        "stddef.h",
        "cstddef",
        "math.h",
    }
)
"""What may be included, beside ``<cuda/...>`` and ``<cuda/std/...>``, which are libcu++'s."""

REST_MAX = 1024
"""Characters of a directive that are looked at; a longer one is none of the harmless."""

CONTROL = re.compile(r"[^\t\n -~]")
"""What is neither ASCII text nor one of the two controls that every reader takes alike: NVRTC passes over a carriage return alone."""

SPLICE = re.compile(r"(?:\\|\?\?/)[ \t]*\n")

DIRECTIVE = re.compile(r"(?<!#)(?=((?:#(?!#)|%:|\?\?=)(?:[ \t]|/\*.{0,4096}?\*/)*+(\w*+)([^\n]{0,1025}+)))", re.DOTALL)
FILE_OPERATORS = re.compile(r"__has_include|__has_embed|_Pragma|_CCCL_CHECK_BUILTIN")
"""What looks for a file, or hides a directive; of CUDA's headers the one macro that puts ``__`` before what it is given."""

BEGINNINGS = frozenset(
    word[:size]
    for word in ("__has_include_next", "__has_embed", "_Pragma", "_CCCL_CHECK_BUILTIN")
    for size in range(1, len(word))
)
"""What macros could paste one of these to, the compiler's own too: outside of directives as well NVRTC looks for a file."""

INCLUDED = re.compile(r"<([\w./]+)>(?:\s|/|$)")
LIBCUXX = re.compile(r"cuda/(?:std/)?[a-z_]+")
COMMENT = re.compile(r"//.*|/\*.*?\*/")
INTEGER = re.compile(r"(?:\s(?:0[xX][0-9a-fA-F]+|[0-9]+)[uUlL]*)?")
DEFINED = re.compile(r"\s*(\w+)(.*)")
CALLED = re.compile(r"(?!defined\b)\b[A-Za-z_]\w*\s*\(")

PLAIN = frozenset({"define", "undef", "ifdef", "ifndef", "else", "endif", "error"})
"""Directives that neither name a file nor compute anything."""


def checked(name: str, text: str) -> str:
    """The text as the compiler may have it. KernelSourceError for what could name a file, or is too long."""
    if len(text) > SIZE_MAX:
        raise KernelSourceError(f"{name}: CUDA C++ of {len(text)} characters is too long ({SIZE_MAX} at most)")
    text = text.replace("\r\n", "\n").replace("\f", " ").replace("\v", " ")
    if odd := CONTROL.search(text):
        raise KernelSourceError(f"{name}: CUDA C++ that is linked to a kernel must be ASCII text, without {odd[0]!r}")
    spliced = SPLICE.sub("", text)
    if operator := FILE_OPERATORS.search(spliced):
        raise KernelSourceError(f"{name}: CUDA C++ on an appliance cannot use {operator[0]}")
    if parts := BEGINNINGS.intersection(re.findall(r"\w+", f"{text} {spliced}")):
        raise KernelSourceError(f"{name}: CUDA C++ on an appliance cannot use the name {min(parts)}")
    for reading in (text, spliced):
        _check_directives(name, [(found[2], found[3]) for found in DIRECTIVE.finditer(reading)])
    return text


def _check_directives(name: str, directives: list[tuple[str, str]]) -> None:
    """All of one reading, in their order.

    A macro can be pasted together to ``__has_include``, which counts where a condition is computed. So headers, whose conditions name
    anything, come before all macros but integers, and conditions of the client's name integers.
    """
    computed: set[str] = set()
    for word, rest in directives:
        if word == "define" and (macro := _computed(rest)) is not None:
            computed.add(macro)
        if word == "include" and computed:
            raise KernelSourceError(
                f"{name}: CUDA C++ on an appliance has its #include lines before its macros: {rest.strip()[:60]}"
            )
    for word, rest in directives:
        if not _is_harmless(word, rest, computed):
            raise KernelSourceError(
                f"{name}: CUDA C++ on an appliance cannot contain {f'#{word}{rest}'.strip()[:60]!r}, not even in a comment: there are"
                f" no files but <{'>, <'.join(sorted(HEADERS))}> and libcu++'s <cuda/...>, and conditions are of integers"
            )


def _computed(rest: str) -> str | None:
    """The name of a macro that is anything but nothing or an integer."""
    found = DEFINED.fullmatch(_without_comments(rest))
    if found is None:
        return rest
    is_plain = len(rest) <= REST_MAX and INTEGER.fullmatch(found[2].rstrip())
    return None if is_plain else found[1]


def _without_comments(rest: str) -> str:
    return COMMENT.sub(" ", rest)


def _is_harmless(word: str, rest: str, computed: Iterable[str]) -> bool:
    match word:
        case "include":
            header = INCLUDED.match(rest.strip())
            return header is not None and _is_header(header[1])
        case "pragma":
            return re.match(r"\s*(?:once|unroll)\b", rest) is not None
        case "if" | "elif":
            return len(rest) <= REST_MAX and _is_of_integers(_without_comments(rest), computed)
        case "":
            return not rest.strip() or rest.startswith("//")
    return word in PLAIN


def _is_of_integers(condition: str, computed: Iterable[str]) -> bool:
    """Whether a condition calls no macro, and names none that is more than an integer. One that does not end on its line is none."""
    words = set(re.findall(r"\w+", condition))
    return not (
        CALLED.search(condition)
        or "/*" in condition
        or condition.rstrip().endswith(("\\", "??/"))
        or words.intersection(computed)
    )


def _is_header(name: str) -> bool:
    return name in HEADERS or LIBCUXX.fullmatch(name) is not None
