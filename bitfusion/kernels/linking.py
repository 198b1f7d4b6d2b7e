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

INCLUDED = re.compile(r"<([\w./]+)>(?:\s|/|$)")
LIBCUXX = re.compile(r"cuda/(?:std/)?[a-z_]+")

DIRECTIVES = frozenset("define undef if ifdef ifndef elif else endif error pragma".split())  # noqa: SIM905 (words)
"""Preprocessor directives without a file in them; a pragma is ``once`` or ``unroll``."""

DIRECTIVE = re.compile(r"(?<!#)(?=((?:#(?!#)|%:|\?\?=)(?:[ \t\v\f]|/\*.{0,4096}?\*/)*(\w*)([^\n]{0,256})))", re.DOTALL)
"""What may be a directive, wherever it stands: what is a comment or a string to the compiler is not for a simpler reader to say."""

FILE_OPERATORS = re.compile(r"__has_include|__has_embed|_Pragma")
"""What looks for a file, or hides a directive."""

HEADER = re.compile(r"^\s*\.(?:version|target|address_size)\b[^\n]*$", re.MULTILINE)
VERSION = re.compile(r"^\s*\.version\s+(\d+)\.(\d+)", re.MULTILINE)
EXTERN = re.compile(
    r"\.extern\s+\.func\b\s*(?:\([^)]{0,8192}\))?\s*([A-Za-z_$%][\w$]*)\s*(?:\([^)]{0,8192}\))?(?:\s*\.noreturn)?\s*;"
)
DEFINED = re.compile(
    r"\.func\b(?:\s*\.noreturn)?\s*(?:\([^)]{0,8192}\))?\s*([A-Za-z_$%][\w$]*)\s*(?:\([^)]{0,8192}\))?[^;{]{0,512}\{"
)
VOID = re.compile(r"\.func\b(?:\s*\.noreturn)?\s*([A-Za-z_$%][\w$]*)\s*(?:\([^)]{0,8192}\))?[^;{]{0,512}\{")
CALL = re.compile(r"(call(?:\.uni)?\s*)\(\s*[\w$%]+\s*\)\s*,(\s*([A-Za-z_$%][\w$]*))")
PTX_COMMENT = re.compile(r"//[^\n]*|/\*.*?(?:\*/|\Z)", re.DOTALL)


def joined(kernel: str, texts: Sequence[str]) -> str:
    """One module of the kernel's PTX and others: definitions before the kernel that calls them."""
    if not texts:
        return kernel
    plain = [PTX_COMMENT.sub(" ", text) for text in texts]
    defined = {name for text in plain for name in DEFINED.findall(text)}
    version = max(_version(text) for text in (kernel, *plain))
    bodies = [_without(defined, HEADER.sub("", text)) for text in plain]
    own = _without(defined, _without_results({name for text in plain for name in VOID.findall(text)}, kernel))
    head = list(HEADER.finditer(own))[-1].end()
    newest = VERSION.sub(f".version {version[0]}.{version[1]}", own[:head])
    return "\n".join([newest, *bodies, own[head:]])


def _without_results(names: set[str], text: str) -> str:
    """The kernel's calls of functions that return nothing, without the result that Numba asks of a C function declared ``void``."""
    return CALL.sub(lambda found: f"{found[1]}{found[2]}" if found[3] in names else found[0], text)


def _version(text: str) -> tuple[int, int]:
    found = VERSION.search(text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _without(names: set[str], text: str) -> str:
    """The text without ``.extern`` declarations of functions that are defined."""
    return EXTERN.sub(lambda found: "" if found[1] in names else found[0], text)


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
    for found in (*DIRECTIVE.finditer(text), *DIRECTIVE.finditer(spliced)):
        if not _is_harmless(found[2], found[3].strip()):
            raise KernelSourceError(
                f"{name}: CUDA C++ on an appliance cannot contain {found[1].strip()[:60]!r}, not even in a comment: there are no"
                f" files but <{'>, <'.join(sorted(HEADERS))}> and libcu++'s <cuda/...>"
            )


def _is_harmless(directive: str, rest: str) -> bool:
    match directive:
        case "include":
            header = INCLUDED.match(rest)
            return header is not None and _is_header(header[1])
        case "pragma":
            return re.match(r"(?:once|unroll)\b", rest) is not None
        case "":
            return not rest or rest.startswith("//")
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
