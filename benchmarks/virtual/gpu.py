"""A virtual GPU in this process, driven as a worker does it: source to PTX, PTX to machine code, launches."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.virtual.cases import Case
from bitfusion.device.virtual.device import COMPUTE_CAPABILITY, VirtualDevice
from bitfusion.device.virtual.layout import CompileOptions
from bitfusion.kernels import gate, program
from bitfusion.kernels.compiler import compile_kernel
from bitfusion.kernels.options import Options
from bitfusion.kernels.packing import Packer, array_argument
from bitfusion.kernels.source import capture
from bitfusion.kernels.typeof import typeof
from bitfusion.kernels.types import Signature, none
from bitfusion.limits import ADDRESS_ALIGNMENT, MEMORY_CHUNK_SIZE, MIB
from bitfusion.types import DeviceSpec, Dim3

MEMORY_SIZE = 512 * MIB

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Assembly:
    """A kernel's PTX, and what making it took."""

    text: bytes
    entry: str
    seconds: float


def to_ptx(case: Case) -> Assembly:
    """What Numba makes of a kernel."""
    source, signature = capture(case.kernel).data, Signature(none, *map(typeof, case.arguments))
    started = time.perf_counter()
    made = compile_kernel(gate.check(program.decode(source)), signature, Options(), COMPUTE_CAPABILITY)
    return Assembly(made.ptx, made.entry, time.perf_counter() - started)


class DeviceArray:
    """A copy of a host array in device memory."""

    def __init__(self, host: Array, address: int) -> None:
        self.address, self.host = address, host
        self.__bitfusion_argument__ = array_argument(host.dtype, host.shape, host.strides, address)


class Gpu:
    """A device with some arrays; its kernels are compiled anew in every process, or kept in ``cache_dir``."""

    def __init__(self, options: CompileOptions | None = None, cache_dir: Path | None = None) -> None:
        spec = DeviceSpec("virtual", 0, "Virtual GPU", "GPU-virtual-0000", MEMORY_SIZE)
        self.device = VirtualDevice(spec, cache_dir, options=options)
        self._stream = self.device.default_stream
        self._top = self._mapped = self.device.reserve(MEMORY_SIZE)

    def load(self, assembly: Assembly) -> Any:
        """The kernel as a function of the device."""
        return self.device.load(assembly.text).function(assembly.entry)

    def array(self, host: Array) -> DeviceArray:
        address = self._allocate(host.nbytes)
        array = DeviceArray(host, address)
        self.write(array)
        return array

    def write(self, array: DeviceArray) -> None:
        """The host's values once more."""
        self.device.write(self._stream, array.address, array.host.reshape(-1).view(np.uint8).data)

    def read(self, array: DeviceArray) -> Array:
        pieces = self.device.read(self._stream, array.address, array.host.nbytes)
        flat = np.frombuffer(b"".join(map(bytes, pieces)), array.host.dtype)
        return flat.reshape(array.host.shape)

    def prepare(self, case: Case, assembly: Assembly) -> tuple[Callable[[], None], Callable[[], Array]]:
        """(launch the case's kernel and wait, read its answer)."""
        function = self.load(assembly)
        moved = [self.array(value) if isinstance(value, np.ndarray) else value for value in case.arguments]
        arguments = Packer(Signature(none, *map(typeof, case.arguments))).pack(moved)
        renewed = [moved[index] for index in case.renewed]
        grid, block = _dim3(case.grid), _dim3(case.block)

        def launch() -> None:
            for array in renewed:
                self.write(array)
            self.device.launch(self._stream, function, grid, block, 0, arguments)

        return launch, lambda: case.finish(self.read(moved[case.output]))

    def close(self) -> None:
        self.device.close()

    def _allocate(self, size: int) -> int:
        address = self._top
        self._top += -(-size // ADDRESS_ALIGNMENT) * ADDRESS_ALIGNMENT + ADDRESS_ALIGNMENT
        chunks = -(-(self._top - self._mapped) // MEMORY_CHUNK_SIZE) * MEMORY_CHUNK_SIZE
        if chunks > 0:
            self.device.map(self._mapped, chunks)
            self._mapped += chunks
        self.device.allocate(address, size)
        return address


def _dim3(shape: Any) -> Dim3:
    x, y, z = (*shape, 1, 1)[:3]
    return x, y, z
