"""Code that kernels are linked with: PTX and CUDA C++, in memory or in files of this machine, whose text travels with the kernel.

Owns numba.cuda's classes for it, and ``declare_device``. What is compiled already (cubin, fatbin, objects, archives, LTO-IR) is refused:
the appliance joins text to one module, which is the same for the virtual GPU and a real one.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from bitfusion.cuda.declared import is_signature
from bitfusion.cuda.declared import signature as as_signature
from bitfusion.errors import KernelTypeError, UnsupportedError
from bitfusion.kernels.external import ExternalFunction
from bitfusion.kernels.program import Link
from bitfusion.kernels.types import Signature, Type


class LinkableCode:
    """Code in memory. ``data`` is text, bytes, or a StringIO or BytesIO of them; ``name`` stands in messages."""

    kind: ClassVar[str] = ""
    default_name: ClassVar[str] = "<unnamed>"

    def __init__(
        self,
        data: str | bytes | io.StringIO | io.BytesIO,
        name: str | None = None,
        setup_callback: Any = None,
        teardown_callback: Any = None,
        nrt: bool = False,
    ) -> None:
        for callback in (setup_callback, teardown_callback):
            if callback and not callable(callback):
                raise TypeError("setup_callback and teardown_callback must be callable")
            if callback:
                raise UnsupportedError(
                    "a module on a leased GPU has no handle here that a callback could use; call a kernel of it instead",
                    feature="callback",
                )
        if nrt:
            raise UnsupportedError("Numba's runtime cannot be linked on a leased GPU", feature="nrt")
        self._data = data
        self._name = name

    @property
    def name(self) -> str:
        """What messages call it."""
        return self._name or self.default_name

    @property
    def data(self) -> str | bytes:
        """The code."""
        return self._data.getvalue() if isinstance(self._data, io.StringIO | io.BytesIO) else self._data

    def link(self) -> Link:
        """As it travels. UnsupportedError for what is not text."""
        if self.kind not in ("ptx", "cu"):
            raise UnsupportedError(
                f"{self.name}: kernels on a leased GPU can be linked with PTX (PTXSource, .ptx) and CUDA C++ (CUSource, .cu), not with"
                f" {type(self).__name__}; nvcc -ptx makes PTX of the source",
                feature=type(self).__name__,
            )
        data = self.data
        return Link(self.kind, self.name, data.encode() if isinstance(data, str) else bytes(data))


class PTXSource(LinkableCode):
    """PTX text."""

    kind, default_name = "ptx", "<unnamed-ptx>"


class CUSource(LinkableCode):
    """CUDA C++, which the appliance compiles; of ``#include`` it takes some of CUDA's own headers."""

    kind, default_name = "cu", "<unnamed-cu>"


class Fatbin(LinkableCode):
    """Compiled code: refused when it is used."""

    default_name = "<unnamed-fatbin>"


class Cubin(Fatbin):
    """Compiled code: refused when it is used."""

    default_name = "<unnamed-cubin>"


class Archive(Fatbin):
    """Compiled code: refused when it is used."""

    default_name = "<unnamed-archive>"


class Object(Fatbin):
    """Compiled code: refused when it is used."""

    default_name = "<unnamed-object>"


class LTOIR(Fatbin):
    """Compiled code: refused when it is used."""

    default_name = "<unnamed-ltoir>"


KINDS: dict[str, type[LinkableCode]] = {
    ".ptx": PTXSource,
    ".cu": CUSource,
    ".fatbin": Fatbin,
    ".cubin": Cubin,
    ".a": Archive,
    ".o": Object,
    ".ltoir": LTOIR,
}
"""By the end of a file's name."""


def links(given: object) -> tuple[Link, ...]:
    """What ``link=`` names: code objects and paths, one or several. OSError for a file, KernelTypeError, UnsupportedError."""
    if given is None:
        return ()
    items: Iterable[object] = given if isinstance(given, list | tuple | set | frozenset) else (given,)
    return tuple(map(_link, items))


def _link(item: object) -> Link:
    if isinstance(item, LinkableCode):
        return item.link()
    if isinstance(item, str | os.PathLike):
        path = Path(item)
        if path.suffix not in KINDS:
            raise RuntimeError(f"Don't know how to link file with extension {path.suffix or 'none'}: {path}")
        return KINDS[path.suffix](path.read_bytes(), path.name).link()
    if {"kind", "name", "data"} <= set(dir(item)):  # numba.cuda's own, where a program has that package
        kind = item.kind if item.kind in ("ptx", "cu") else type(item).__name__  # type: ignore[attr-defined]  # the line above has looked
        by_name = {"ptx": PTXSource, "cu": CUSource}
        return by_name.get(str(kind), Fatbin)(item.data, item.name).link()  # type: ignore[attr-defined]  # likewise
    raise KernelTypeError(
        f"a kernel cannot be linked with an object of type {type(item).__qualname__}; give a path, PTXSource or CUSource"
    )


def declare_device(
    name: str, sig: Any, link: Any = None, use_cooperative: bool = False, abi: str = "numba"
) -> ExternalFunction:
    """Declare a function that linked code defines, so that kernels can call it: as text ``"int32(int32, int32)"`` or as types.

    KernelTypeError (a TypeError) without a return type; NotImplementedError for an ABI other than ``numba`` and ``c``.
    """
    if abi not in ("numba", "c"):
        raise NotImplementedError(f"Unsupported ABI: {abi}")
    signature = as_signature(sig)
    if not _has_return_type(sig, signature):
        raise KernelTypeError("Return type must be provided for device declarations")
    return ExternalFunction(name, signature, abi, bool(use_cooperative), links(link))


def _has_return_type(given: object, signature: Signature) -> bool:
    """Whether a signature says what is returned: ``void(...)`` does, ``(int32,)`` does not."""
    if isinstance(given, str):
        return not given.lstrip().startswith("(")
    return is_signature(given) and not isinstance(given, tuple) and isinstance(signature.return_type, Type)
