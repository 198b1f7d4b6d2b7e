"""A kernel for one signature in one session: compiled and loaded there, its arguments' layout, and what its launches must keep to."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from bitfusion.client import operations
from bitfusion.client.client import Client, Function
from bitfusion.client.core import check_session
from bitfusion.cuda.compiler import compiled
from bitfusion.cuda.numba_errors import also_numbas
from bitfusion.cuda.raising import as_raised
from bitfusion.cuda.warned import warn_of_print
from bitfusion.errors import KernelRaisedError, LaunchError
from bitfusion.kernels.packing import Packer
from bitfusion.kernels.program import Link
from bitfusion.kernels.signatures import encode
from bitfusion.kernels.source import capture
from bitfusion.kernels.types import Signature, Type
from bitfusion.types import Dim3, FunctionInfo

BLOCK_LIMITS = ("MAX_BLOCK_DIM_X", "MAX_BLOCK_DIM_Y", "MAX_BLOCK_DIM_Z")
GRID_LIMITS = ("MAX_GRID_DIM_X", "MAX_GRID_DIM_Y", "MAX_GRID_DIM_Z")
SHARED_LIMITS = ("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN", "MAX_SHARED_MEMORY_PER_BLOCK")
"""``CUdevice_attribute`` names; a device that does not say is not checked here, only by itself."""

FITTING_COUNT_MAX = 4096
"""Launch configurations a specialisation remembers: a program whose grids follow its data never repeats some of them."""


class Specialization:
    """Made by the first launch with its types. ``fitting`` are the launch configurations that have been checked."""

    __slots__ = ("_captured", "_options", "fitting", "function", "number", "pack", "signature")

    def __init__(
        self,
        client: Client,
        kernel: Callable[..., Any],
        signature: Signature,
        options: dict[str, Any],
        links: tuple[Link, ...] = (),
    ) -> None:
        """Capture, compile, load. KernelSourceError, KernelTypeError, KernelCompileError, UnsupportedError."""
        packer = Packer(signature)
        self.signature = signature
        self._options = options
        with also_numbas():
            self._captured = capture(kernel, links=links)
            warn_of_print(self._captured.printed_max)
            for array in self._captured.kept:
                check_session(client.core, array.client.core)
            self.function: Function = client.load_kernel(self._captured.data, encode(signature), options)
        self.number = self.function.handle.number
        self.pack = packer.pack
        self.fitting: set[bytes] = set()

    @property
    def info(self) -> FunctionInfo:
        """Its resources."""
        return self.function.info

    @property
    def argument_types(self) -> tuple[Type, ...]:
        """As in Numba."""
        return self.signature.args

    def inspect_asm(self, cc: object = None) -> str:
        """The PTX; ``cc`` is the device's."""
        return self.code("ptx").decode()

    def inspect_llvm(self) -> str:
        """The LLVM IR."""
        return self.code("llvm").decode()

    def code(self, output: str) -> bytes:
        """The kernel in one of the forms of ``kernels.wanted``. KernelError."""
        client = self.function.client
        return client.compile_kernel(
            self._captured.data, encode(self.signature), self._options, (output, False, "numba", "", None)
        )[0]

    def wait(self, stream: Any) -> None:
        """Wait for a launch of a kernel with ``debug``, and raise what it raised as the program's own exception."""
        client = self.function.client
        try:
            client.run(operations.synchronize(client.core, client.stream_number(stream)))
        except KernelRaisedError as error:
            raise as_raised(error, self._captured.exceptions) from None

    def max_cooperative_grid_blocks(self, blockdim: int | tuple[int, ...], dynsmemsize: int = 0) -> int:
        """How many blocks of this size run at once, and so can wait for each other (``cg.this_grid().sync()``): the device says."""
        threads = math.prod(blockdim) if isinstance(blockdim, tuple) else blockdim
        return self.function.resident_blocks(threads, dynsmemsize)

    def check(self, config: bytes, grid: Dim3, block: Dim3, shared_size: int) -> None:
        """LaunchError if the device or the kernel cannot be launched so; remembered where it can."""
        attributes = self.function.client.device.attributes
        for dimensions, limits, noun in ((block, BLOCK_LIMITS, "block"), (grid, GRID_LIMITS, "grid")):
            for size, limit in zip(dimensions, limits, strict=True):
                if size > attributes.get(limit, size):
                    raise LaunchError(
                        f"the {noun} {dimensions} is too large: the device's {limit} is {attributes[limit]}"
                    )
        self._check_resources(block, shared_size, attributes)
        if len(self.fitting) >= FITTING_COUNT_MAX:
            self.fitting.clear()
        self.fitting.add(config)

    def _check_resources(self, block: Dim3, shared_size: int, attributes: dict[str, int]) -> None:
        info, threads = self.function.info, math.prod(block)
        threads_max = min(info.threads_max, attributes.get("MAX_THREADS_PER_BLOCK", info.threads_max))
        if threads > threads_max:
            raise LaunchError(
                f"a block of {block} has {threads} threads; {info.name} with its {info.registers} registers a thread can have"
                f" {threads_max} on this device"
            )
        shared_max = next((attributes[limit] for limit in SHARED_LIMITS if limit in attributes), None)
        if shared_max is not None and info.shared_size + shared_size > shared_max:
            raise LaunchError(
                f"{info.name} would use {info.shared_size} bytes of static and {shared_size} of dynamic shared memory;"
                f" a block can have {shared_max} on this device"
            )


class DeviceFunction:
    """A device function for one signature: code to look at; the kernels that call it have their own."""

    def __init__(self, function: Callable[..., Any], signature: Signature, options: dict[str, Any]) -> None:
        self._function, self._options = function, options
        ptx, result = compiled(function, signature, options, ("ptx", True, "numba", "", None))
        self.signature = Signature(result, *signature.args)
        self._code = {"ptx": ptx}

    def code(self, output: str) -> bytes:
        """In one of the forms of ``kernels.wanted``. KernelError."""
        if output not in self._code:
            wanted = (output, True, "numba", "", None)
            self._code[output], _ = compiled(self._function, self.signature, self._options, wanted)
        return self._code[output]
