"""Code that a client links to its kernels: PTX as it is, CUDA C++ compiled to it, and all of it joined to one module.

A module has one header and no name twice, so the headers of all but the kernel's go, and declarations of what the others define. The
device checks the result as it checks any PTX. The patterns never go over a text twice (``*+``): nothing can interrupt one at work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bitfusion.errors import KernelCompileError, KernelSourceError
from bitfusion.kernels.cuda_source import checked
from bitfusion.kernels.program import Link

HEADER = re.compile(r"^[^\S\n]*+\.(?:version|target|address_size)\b[^\n]*+$", re.MULTILINE)
VERSION = re.compile(r"^[^\S\n]*+\.version\s++(\d{1,3}+)\.(\d{1,3}+)", re.MULTILINE)
_RESULT = r"\s*+(?:\([^)]{0,8192}+\)\s*+)?+"
_NAME = r"([A-Za-z_$%][\w$]*+)"
_PARAMETERS = r"\s*+(?:\([^)]{0,8192}+\))?+"
_BODY = r"[^;{]{0,512}+\{"
EXTERN = re.compile(rf"\.extern\s++\.func\b{_RESULT}{_NAME}{_PARAMETERS}\s*+(?:\.noreturn)?+\s*+;")
DEFINED = re.compile(rf"\.func\b\s*+(?:\.noreturn)?+{_RESULT}{_NAME}{_PARAMETERS}{_BODY}")
VOID = re.compile(rf"\.func\b\s*+(?:\.noreturn)?+\s*+{_NAME}{_PARAMETERS}{_BODY}")
CALL = re.compile(r"(call(?:\.uni)?\s*+)\(\s*+[\w$%]++\s*+\)\s*+,(\s*+([A-Za-z_$%][\w$]*+))")
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


def _compiled(link: Link, capability: tuple[int, int]) -> str:
    text = checked(link.name, _text(link))
    try:
        from bitfusion.kernels import cuda_cpp
    except ImportError as error:
        raise KernelCompileError(f"{link.name}: this appliance cannot compile CUDA C++: {error}") from None
    return cuda_cpp.to_ptx(text, link.name, capability)
