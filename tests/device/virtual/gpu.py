"""A virtual GPU for tests: Python kernels through Numba's compiler, or PTX as text, on NumPy arrays."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
from numba import cuda
from numba.cuda import codegen, dispatcher

from bitfusion.device.virtual.device import COMPUTE_CAPABILITY, VirtualDevice
from bitfusion.device.virtual.layout import CompileOptions
from bitfusion.device.virtual.module import VirtualFunction
from bitfusion.kernels.packing import Packer, array_argument
from bitfusion.kernels.typeof import typeof
from bitfusion.kernels.types import Signature, none
from bitfusion.limits import ADDRESS_ALIGNMENT, MEMORY_CHUNK_SIZE, MIB
from bitfusion.types import DeviceSpec, Dim3

Kernel = Callable[..., None] | str
"""A Python function, or PTX text with one kernel."""

HEADER = ".version 8.0\n.target sm_80\n.address_size 64\n"
"""What every PTX text begins with."""

_ENTRY = re.compile(r"\.entry\s+([\w$]+)")

MEMORY_SIZE = 64 * MIB

SPEC = DeviceSpec("virtual", 0, "Virtual GPU", "GPU-virtual-0000", MEMORY_SIZE)


class DeviceArray:
    """An array in the memory of a ``Gpu``."""

    def __init__(self, gpu: Gpu, host: np.ndarray[Any, Any]) -> None:
        self.gpu = gpu
        self.size = host.nbytes
        self.address = gpu.allocate(self.size)
        self._dtype, self._shape, self._strides = host.dtype, host.shape, host.strides
        self.__bitfusion_argument__ = array_argument(host.dtype, host.shape, host.strides, self.address)
        gpu.device.write(gpu.stream, self.address, np.ascontiguousarray(host).reshape(-1).view(np.uint8).data)

    def host(self) -> np.ndarray[Any, Any]:
        """A copy in host memory."""
        pieces = self.gpu.device.read(self.gpu.stream, self.address, self.size)
        data = b"".join(bytes(piece) for piece in pieces)
        return np.frombuffer(data, self._dtype).reshape(self._shape).copy()


class Gpu:
    """An open device with a little allocator: memory is never used again, so that freed addresses stay freed."""

    def __init__(
        self, *, cache_dir: Path | None = None, options: CompileOptions | None = None, timeout_s: float | None = None
    ) -> None:
        self.device = VirtualDevice(SPEC, cache_dir, options=options, timeout_s=timeout_s)
        self.stream = self.device.default_stream
        self.base = self.device.reserve(MEMORY_SIZE)
        self._top = self.base
        self._mapped = self.base

    def allocate(self, size: int) -> int:
        """The address of ``size`` fresh bytes; the granule behind them is never valid."""
        address = self._top
        self._top += -(-size // ADDRESS_ALIGNMENT) * ADDRESS_ALIGNMENT + ADDRESS_ALIGNMENT
        chunks = -(-(self._top - self._mapped) // MEMORY_CHUNK_SIZE) * MEMORY_CHUNK_SIZE
        if chunks > 0:
            self.device.map(self._mapped, chunks)
            self._mapped += chunks
        self.device.allocate(address, size)
        return address

    def array(self, host: np.ndarray[Any, Any]) -> DeviceArray:
        """A copy of ``host`` on the device."""
        return DeviceArray(self, host)

    def load(self, kernel: Kernel, *values: object, **options: Any) -> VirtualFunction:
        """The kernel as a function of the device, compiled for the types of ``values``."""
        text = kernel if isinstance(kernel, str) else compile_kernel(kernel, tuple(map(numba_type, values)), **options)
        return self.device.load(text.encode()).function(_ENTRY.findall(text)[0])

    def launch(
        self,
        kernel: Kernel,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        *values: object,
        shared: int = 0,
        **options: Any,
    ) -> None:
        """Launch a kernel on device arrays and scalars."""
        function = self.load(kernel, *values, **options)
        arguments = Packer(Signature(none, *map(typeof, values))).pack(values)
        self.device.launch(self.stream, function, dim3(grid), dim3(block), shared, arguments)

    def run(
        self, kernel: Kernel, grid: int | Sequence[int], block: int | Sequence[int], *values: object, shared: int = 0
    ) -> None:
        """Launch a kernel on host arrays, which are copied in and back, and scalars."""
        moved = [self.array(value) if isinstance(value, np.ndarray) else value for value in values]
        self.launch(kernel, grid, block, *moved, shared=shared)
        for value, device in zip(values, moved, strict=True):
            if isinstance(value, np.ndarray) and isinstance(device, DeviceArray):
                value[...] = device.host()


def dim3(shape: int | Sequence[int]) -> Dim3:
    """x, y, z of a shape that leaves out ones."""
    x, y, z = [*([shape] if isinstance(shape, int) else shape), 1, 1][:3]
    return x, y, z


def numba_type(value: object) -> Any:
    """Numba's type of a host value or a device array."""
    if isinstance(value, DeviceArray):
        host = np.empty(value._shape, value._dtype)
        return numba.typeof(host)
    return numba.typeof(value)


@cache
def compile_kernel(function: Callable[..., None], types: tuple[Any, ...], *, lto: bool = False, **options: Any) -> str:
    """The PTX of a kernel for these types. ``lto`` links it with Numba's library code, as half precision needs."""
    with _without_driver():
        if lto:
            kernel = dispatcher._Kernel(function, types, lto=True, **options)
            text: str = kernel._codelibrary.get_lto_ptx(cc=COMPUTE_CAPABILITY)
        else:
            text, _ = cuda.compile_ptx(function, numba.void(*types), cc=COMPUTE_CAPABILITY, **options)
    return text


@contextmanager
def _without_driver() -> Iterator[None]:
    """Numba asks the driver for the compute capability where a kernel calls a device function: answer in its place."""
    device, capability = dispatcher.get_current_device, codegen.CUDACodeLibrary._ensure_cc
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=COMPUTE_CAPABILITY)
    codegen.CUDACodeLibrary._ensure_cc = lambda self, cc: COMPUTE_CAPABILITY
    try:
        yield
    finally:
        dispatcher.get_current_device, codegen.CUDACodeLibrary._ensure_cc = device, capability
