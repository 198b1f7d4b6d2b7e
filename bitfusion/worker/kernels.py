"""A session's kernels: the sources its client has sent, and their PTX, from the cache or the compiler.

The compiler, and Numba with it, is imported when something is to be compiled that the cache does not have.
"""

from __future__ import annotations

import logging
import re
import time
from hashlib import sha256
from pathlib import Path

from bitfusion import limits
from bitfusion.errors import InvalidHandleError, InvalidValueError, KernelCompileError, RemoteProtocolError
from bitfusion.kernels import gate, options, program, signatures, wanted
from bitfusion.kernels.cache import Cache, Compiled, key
from bitfusion.kernels.types import Signature, none
from bitfusion.kernels.wanted import TEXT_SIZE_MAX

log = logging.getLogger(__name__)

SOURCE_COUNT_MAX = 4096
"""Kernels of one session; a large application has some hundreds."""

SOURCES_SIZE_MAX = 64 * limits.MIB
"""Bytes of all of them together."""


class Kernels:
    """The sources of one session, and how to get PTX for them."""

    def __init__(self, cache_dir: Path | None) -> None:
        self._cache = Cache(cache_dir)
        self._sources: dict[bytes, bytes] = {}
        self._size = 0

    def add_source(self, digest: bytes, source: bytes) -> None:
        """Keep a captured kernel. RemoteProtocolError if its bytes are not what the digest says, InvalidValueError for too many."""
        if sha256(source).digest() != digest:
            raise RemoteProtocolError("a kernel's source does not have the hash it was sent with")
        if digest in self._sources:
            return
        if len(self._sources) >= SOURCE_COUNT_MAX or self._size + len(source) > SOURCES_SIZE_MAX:
            raise InvalidValueError(
                f"a session can hold {SOURCE_COUNT_MAX} kernels and {SOURCES_SIZE_MAX} bytes of source; close it and connect again"
            )
        self._sources[digest] = source
        self._size += len(source)

    def compile(
        self, digest: bytes, signature_tree: object, options_tree: object, compute_capability: tuple[int, int]
    ) -> tuple[Compiled, str]:
        """A source compiled for a signature, and what people call it. InvalidHandleError for a source not sent, KernelError."""
        source = self._source(digest)
        signature = signatures.decode_signature(signature_tree)
        chosen = options.decode(options_tree)
        captured = program.decode(source)
        return self._compiled(captured, signature, chosen, compute_capability), _label(captured.functions[0])

    def _source(self, digest: bytes) -> bytes:
        source = self._sources.get(digest)
        if source is None:
            raise InvalidHandleError(
                f"the kernel's source {digest.hex()[:16]} has not been sent in this session; send it first"
            )
        return source

    def _compiled(
        self, captured: program.Program, signature: Signature, chosen: options.Options, capability: tuple[int, int]
    ) -> Compiled:
        place = key(captured, signature, chosen, capability)
        found = self._cache.get(place)
        if found is None:
            found = _compile(captured, signature, chosen, capability)
            self._cache.put(place, found)
        return found

    def compile_text(
        self,
        digest: bytes,
        signature_tree: object,
        options_tree: object,
        wanted_tree: object,
        compute_capability: tuple[int, int],
    ) -> tuple[bytes, object]:
        """A source compiled to what is wanted, and the tree of the type it returns. InvalidHandleError, KernelError."""
        captured = program.decode(self._source(digest))
        signature, chosen = signatures.decode_signature(signature_tree), options.decode(options_tree)
        asked = wanted.decode(wanted_tree)
        capability = asked.capability or compute_capability
        if asked.output == "ptx" and not asked.device and signature.return_type is none:
            found = self._compiled(captured, signature, chosen, capability)
            if len(found.ptx) > TEXT_SIZE_MAX:
                raise KernelCompileError(f"the PTX has {len(found.ptx)} bytes; {TEXT_SIZE_MAX} can be sent")
            return found.ptx, signatures.encode(none)
        accepted = gate.check(captured)
        from bitfusion.kernels.compiler import compile_text

        code, result = compile_text(accepted, signature, chosen, asked, capability)
        return code, signatures.encode(result)


def _label(kernel: program.Function) -> str:
    """A kernel for messages, ``scale (train.py:16)``: its entry in the PTX has a name that nobody has given it."""
    file = re.split(r"[/\\]", kernel.file)[-1]
    return f"{kernel.name} ({file}:{kernel.line})"


def _compile(
    captured: program.Program, signature: Signature, chosen: options.Options, capability: tuple[int, int]
) -> Compiled:
    accepted = gate.check(captured)
    from bitfusion.kernels.compiler import compile_kernel

    started = time.perf_counter()
    compiled = compile_kernel(accepted, signature, chosen, capability, captured.links)
    log.info("compiled %s in %.0f ms", captured.functions[0].name, (time.perf_counter() - started) * 1e3)
    return compiled
