"""What programs ask of a kernel beside launching it: its resources, its code, its types; as numba.cuda's dispatchers answer it.

Each question takes a signature (a tuple of types, or an object with ``args``) and answers for it, or for everything compiled so far as a
dict by argument types. Code is compiled by the worker again where it is not PTX, and comes back as text.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn, Protocol, TextIO

from bitfusion.cuda.declared import signature as as_signature
from bitfusion.cuda.not_offered import NotOffered
from bitfusion.errors import UnsupportedError
from bitfusion.kernels.types import Signature, Type, none

Arguments = tuple[Type, ...]


class Compiled(Protocol):
    """A kernel or device function for one signature."""

    @property
    def info(self) -> Any: ...

    def code(self, output: str) -> bytes: ...


class CompileStats(NamedTuple):
    """As Numba's. The appliance's cache is its own affair: every compile that was asked for counts as a miss."""

    cache_path: None
    cache_hits: Counter[Arguments]
    cache_misses: Counter[Arguments]


class Overloads(dict[Any, Any]):
    """What has been compiled, by argument types; Numba's own type objects find it as well."""

    def __missing__(self, key: object) -> Any:
        arguments = _arguments(key)
        if arguments == key or arguments not in self:
            raise KeyError(key)
        return self[arguments]


def _arguments(signature: Any) -> Arguments:
    return as_signature(signature).args


class Inspection:
    """The part of a dispatcher that answers questions."""

    device: bool
    declared: tuple[Signature, ...]

    @property
    def overloads(self) -> Mapping[Arguments, Any]:
        """What has been compiled in the current session, by argument types."""
        raise NotImplementedError

    def compile(self, signature: Any) -> Any:
        """Compile for a signature."""
        raise NotImplementedError

    @property
    def specialized(self) -> bool:
        """Whether there is one declared signature."""
        return len(self.declared) == 1

    @property
    def signatures(self) -> list[Arguments]:
        """Argument types of what has been compiled, or declared."""
        return list(dict.fromkeys([*(signature.args for signature in self.declared), *self.overloads]))

    @property
    def nopython_signatures(self) -> list[Signature]:
        """The same as signatures."""
        return [Signature(none, *arguments) for arguments in self.signatures]

    @property
    def stats(self) -> CompileStats:
        """What has been compiled."""
        return CompileStats(None, Counter(), Counter(self.overloads.keys()))

    # resources

    def get_regs_per_thread(self, signature: Any = None) -> Any:
        """Registers of a thread: of one signature (a tuple of types), of the only one, or of all as a dict."""
        return self._about(signature, lambda found: found.info.registers)

    def get_shared_mem_per_block(self, signature: Any = None) -> Any:
        """Bytes of static shared memory."""
        return self._about(signature, lambda found: found.info.shared_size)

    def get_const_mem_size(self, signature: Any = None) -> Any:
        """Bytes of constant memory."""
        return self._about(signature, lambda found: found.info.constant_size)

    def get_local_mem_per_thread(self, signature: Any = None) -> Any:
        """Bytes of local memory."""
        return self._about(signature, lambda found: found.info.local_size)

    def get_max_threads_per_block(self, signature: Any = None) -> Any:
        """Threads that a block may have."""
        return self._about(signature, lambda found: found.info.threads_max)

    def _about(self, signature: Any, read: Callable[[Any], Any]) -> Any:
        if self.device:
            raise UnsupportedError(
                "a device function has no resources of its own; ask a kernel that calls it", feature="info"
            )
        if signature is None and self.specialized:
            return read(self.compile(self.declared[0]))
        return self._each(signature, read)

    def _each(self, signature: Any, read: Callable[[Any], Any]) -> Any:
        if signature is not None:
            return read(self.compile(Signature(none, *_arguments(signature))))
        return {arguments: read(found) for arguments, found in self.overloads.items()}

    # code

    def inspect_asm(self, signature: Any = None) -> Any:
        """The PTX: of one signature, or of all as a dict."""
        return self._each(signature, lambda found: found.code("ptx").decode())

    def inspect_llvm(self, signature: Any = None) -> Any:
        """The LLVM IR, before NVVM's optimisations."""
        return self._each(signature, lambda found: found.code("llvm").decode())

    def inspect_lto_ptx(self, signature: Any = None) -> Any:
        """The PTX after link-time optimisation; what linked PTX defines is not in it."""
        return self._each(signature, lambda found: found.code("lto_ptx").decode())

    def inspect_types(self, file: TextIO | None = None) -> None:
        """Write the source with Numba's intermediate code and types to ``file`` or to the standard output."""
        for found in self.overloads.values():
            print(found.code("types").decode(), end="", file=file or sys.stdout)

    def inspect_sass(self, signature: Any = None) -> NoReturn:
        """UnsupportedError: there is no such code on the virtual GPU, and no disassembler for it on an appliance."""
        if self.device:
            raise RuntimeError("Cannot inspect SASS of a device function")
        raise UnsupportedError(
            "a leased GPU shows no SASS: the virtual one has none; for a real one give inspect_asm's PTX to ptxas and nvdisasm",
            feature="inspect_sass",
        )

    inspect_sass_cfg = inspect_sass
    get_metadata = NotOffered()
