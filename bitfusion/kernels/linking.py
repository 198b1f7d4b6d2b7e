"""Code that a client links to its kernels: PTX as it is, CUDA C++ compiled to it, and all of it joined to one module.

A module has one header and no name twice, so the headers of all but the kernel's go, and declarations of what the others define. The
device checks the result as it checks any PTX. CUDA C++ is hostile text for a compiler that can open files: its only directives are those
that cannot name one, and of ``#include`` those of CUDA's own headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bitfusion.errors import KernelCompileError, KernelSourceError
from bitfusion.kernels.program import Link

CU_SIZE_MAX = 256 * 1024
"""Bytes of one CUDA C++ source."""

HEADERS = frozenset(
    "cuda_fp16.h cuda_bf16.h cuda_fp8.h cooperative_groups.h cuda_runtime.h stdint.h cstdint stddef.h cstddef math.h".split()  # noqa: SIM905 (words)
)
"""What CUDA C++ may include, beside ``<cuda/...>`` and ``<cuda/std/...>``, which are libcu++'s."""

LIBCUXX = re.compile(r"cuda/(?:std/)?[a-z_]+")

DIRECTIVES = frozenset("define undef if ifdef ifndef elif else endif error pragma".split())  # noqa: SIM905 (words)
"""Preprocessor directives without a file in them; a pragma is ``once`` or ``unroll``."""

DIRECTIVE = re.compile(r"(?:#|%:|\?\?=)\s*(\w*)\s*(.*)")
COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
FILE_OPERATORS = re.compile(r"__has_include|__has_embed|_Pragma|\bR\"")
"""What looks for a file, or hides a directive: raw strings, whose text may look like a comment's end, are refused with them."""

HEADER = re.compile(r"^\s*\.(?:version|target|address_size)\b[^\n]*$", re.MULTILINE)
VERSION = re.compile(r"^\s*\.version\s+(\d+)\.(\d+)", re.MULTILINE)
EXTERN = re.compile(
    r"\.extern\s+\.func\b[^;{]*?([A-Za-z_$%][\w$]*)\s*\([^;{)]*\)\s*;|\.extern\s+\.func\s+([A-Za-z_$%][\w$]*)\s*;"
)
DEFINED = re.compile(r"\.func\b(?:\s*\.noreturn)?\s*(?:\([^)]*\))?\s*([A-Za-z_$%][\w$]*)\s*(?:\([^)]*\))?[^;{]*\{")
PTX_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


def joined(kernel: str, texts: Sequence[str]) -> str:
    """One module of the kernel's PTX and others: definitions before the kernel that calls them."""
    if not texts:
        return kernel
    plain = [PTX_COMMENT.sub(" ", text) for text in texts]
    defined = {name for text in plain for name in DEFINED.findall(text)}
    version = max(_version(text) for text in (kernel, *plain))
    bodies = [_without(defined, HEADER.sub("", text)) for text in plain]
    own = _without(defined, kernel)
    head = list(HEADER.finditer(own))[-1].end()
    newest = VERSION.sub(f".version {version[0]}.{version[1]}", own[:head])
    return "\n".join([newest, *bodies, own[head:]])


def _version(text: str) -> tuple[int, int]:
    found = VERSION.search(text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _without(names: set[str], text: str) -> str:
    """The text without ``.extern`` declarations of functions that are defined."""
    return EXTERN.sub(lambda found: "" if (found[1] or found[2]) in names else found[0], text)


def ptx_of(links: Iterable[Link], capability: tuple[int, int]) -> list[str]:
    """The PTX of linked code. KernelSourceError for what must not be compiled, KernelCompileError with the compiler's words."""
    return [_text(link) if link.kind == "ptx" else _compiled(link, capability) for link in links]


def _text(link: Link) -> str:
    try:
        return link.data.decode()
    except UnicodeDecodeError:
        raise KernelSourceError(f"{link.name}: what is linked to a kernel must be text") from None


def check_source(name: str, text: str) -> None:
    """KernelSourceError for CUDA C++ that could name a file, or is too long."""
    if len(text) > CU_SIZE_MAX:
        raise KernelSourceError(f"{name}: CUDA C++ of {len(text)} characters is too long ({CU_SIZE_MAX} at most)")
    if not text.isascii():
        raise KernelSourceError(f"{name}: CUDA C++ that is linked to a kernel must be ASCII")
    spliced = re.sub(r"(?:\\|\?\?/)[ \t\v\f]*\r?\n", "", text.replace("\r\n", "\n").replace("\r", "\n"))
    if FILE_OPERATORS.search(spliced):
        raise KernelSourceError(f"{name}: CUDA C++ on an appliance cannot use {FILE_OPERATORS.search(spliced)[0]}")  # type: ignore[index]  # found a line above
    bare = COMMENT.sub(lambda found: found[0] if found[0].startswith('"') else " ", spliced)
    for number, line in enumerate(bare.split("\n"), 1):
        found = DIRECTIVE.match(line.strip())
        if found and not _is_harmless(found[1], found[2].strip()):
            raise KernelSourceError(
                f"{name}:{number}: CUDA C++ on an appliance cannot contain {line.strip()[:60]!r}: no files but"
                f" <{'>, <'.join(sorted(HEADERS))}>"
            )


def _is_harmless(directive: str, rest: str) -> bool:
    match directive:
        case "include":
            return rest.startswith("<") and rest.endswith(">") and _is_header(rest[1:-1])
        case "pragma":
            return rest == "once" or rest.startswith("unroll")
        case "":
            return not rest
    return directive in DIRECTIVES


def _is_header(name: str) -> bool:
    return name in HEADERS or LIBCUXX.fullmatch(name) is not None


def _compiled(link: Link, capability: tuple[int, int]) -> str:
    text = _text(link)
    check_source(link.name, text)
    return compiled_cu(text, link.name, capability)


def compiled_cu(text: str, name: str, capability: tuple[int, int]) -> str:
    """CUDA C++ as PTX, by NVRTC. KernelCompileError with its words, or where the machine has no NVRTC."""
    try:
        from bitfusion.kernels import cuda_cpp
    except ImportError as error:
        raise KernelCompileError(f"{name}: this appliance cannot compile CUDA C++: {error}") from None
    return cuda_cpp.to_ptx(text, name, capability)
