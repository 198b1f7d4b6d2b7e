"""A PTX text as machine code: compiled on demand, kernel by kernel, and kept on disk.

Owns no device memory and launches nothing.

What is cached is whole: for the text its variables, for a kernel its ``KernelCode`` without the IR and its object code.
So a program whose kernels were compiled before is not even parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import msgpack

from bitfusion.device.virtual.compile import PTXModule, compile_module
from bitfusion.device.virtual.jit import compile_ir, target_name
from bitfusion.device.virtual.layout import CompileOptions, KernelCode, Relocation, Variable
from bitfusion.device.virtual.objects import ObjectCache, cache_key, compiler_key
from bitfusion.errors import InvalidValueError


@dataclass(frozen=True, slots=True)
class Image:
    """What loading a program needs before any kernel is asked for: its variables, and the functions their initial
    values point to.
    """

    kernels: tuple[str, ...]
    variables: Mapping[str, Variable]
    variables_size: int
    initial_values: tuple[tuple[int, bytes], ...]
    relocations: tuple[Relocation, ...]
    entries: tuple[tuple[str, int], ...]
    """Of its ``FunctionTable``."""
    function_object: bytes


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """A kernel as machine code. ``code.ir`` is empty."""

    code: KernelCode
    object_code: bytes


class Program:
    """One PTX text with one set of options."""

    def __init__(self, text: str, options: CompileOptions, cache: ObjectCache) -> None:
        """InvalidValueError if the text is not PTX."""
        self.text = text
        self._options = options
        self._cache = cache
        self._key = cache_key(text, repr(options), compiler_key(), target_name())
        self.image = self._image()

    @cached_property
    def _module(self) -> PTXModule:
        return compile_module(self.text)

    def _image(self) -> Image:
        made = self._cached("image", lambda: asdict(self._make_image()))
        return Image(
            **{
                **made,
                "variables": {name: Variable(**variable) for name, variable in made["variables"].items()},
                "relocations": tuple(Relocation(**relocation) for relocation in made["relocations"]),
            }
        )

    def kernel(self, name: str) -> CompiledKernel:
        """InvalidValueError if there is no such kernel, UnsupportedError naming an instruction."""
        if name not in self.image.kernels:
            raise InvalidValueError(
                f"the image has no kernel {name!r}; it has {', '.join(self.image.kernels) or 'none'}"
            )
        made = self._cached(f"kernel {name}", lambda: asdict(self._make_kernel(name)))
        return CompiledKernel(KernelCode(**made["code"]), made["object_code"])

    def _cached(self, what: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A tree of plain values from the cache, or made and stored there. Sequences are tuples."""
        key = cache_key(self._key, what)
        data = self._cache.load(key)
        if data is None:
            data = msgpack.packb(make())
            self._cache.store(key, data)
        tree: dict[str, Any] = msgpack.unpackb(data, use_list=False)
        return tree

    def _make_image(self) -> Image:
        module, table = self._module, self._module.function_table(self._options)
        return Image(
            kernels=module.kernels,
            variables=module.variables,
            variables_size=module.variables_size,
            initial_values=module.initial_values,
            relocations=module.relocations,
            entries=() if table is None else table.entries,
            function_object=b"" if table is None else compile_ir(table.ir),
        )

    def _make_kernel(self, name: str) -> CompiledKernel:
        code = self._module.kernel(name, self._options)
        # where threads stop, their loops are cut and vectorised over threads: packing finds nothing there, and costs a tenth
        return CompiledKernel(replace(code, ir=""), compile_ir(code.ir, pack=len(code.regions) == 1))
