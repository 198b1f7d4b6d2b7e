"""A program in a device: its variables in device memory, its kernels as functions that can be launched."""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass

from bitfusion.device.virtual.jit import Code
from bitfusion.device.virtual.layout import KernelCode
from bitfusion.device.virtual.memory import DeviceMemory, fill_memory
from bitfusion.device.virtual.program import Program
from bitfusion.types import FunctionInfo


class Variables:
    """The memory of a module's variables, until nothing refers to this any more: neither the module nor a function of it."""

    def __init__(self, memory: DeviceMemory, size: int) -> None:
        """Zeros. DeviceMemoryError if there is no room."""
        self.address = memory.system.allocate(size)
        fill_memory(self.address, size, b"\0")
        weakref.finalize(self, memory.system.abandon, self.address).atexit = False


@dataclass(frozen=True, slots=True, eq=False)
class VirtualFunction:
    """A kernel that can be launched; holds what the launch record points to, so that it outlives its module."""

    info: FunctionInfo
    code: KernelCode
    regions: ctypes.Array[ctypes.c_int64]
    suspensions: ctypes.Array[ctypes.c_int32]
    regions_address: int
    suspensions_address: int
    variables: Variables
    variables_address: int
    loaded: Code
    table: Code | None
    entries: ctypes.Array[ctypes.c_int64]
    """The device functions that may be called through a pointer: (code, signature) of each, in a row."""
    entries_address: int
    text: str
    """The PTX, for messages."""


class VirtualModule:
    """A loaded PTX text. Its variables live as long as it, and as handles to its functions."""

    def __init__(self, program: Program, memory: DeviceMemory) -> None:
        """DeviceMemoryError if there is no room for its variables."""
        self._program = program
        self._functions: dict[tuple[str, str], VirtualFunction] = {}
        image = program.image
        self._variables = Variables(memory, image.variables_size)
        for offset, data in image.initial_values:
            ctypes.memmove(self._variables.address + offset, data, len(data))
        self._table = Code(image.function_object) if image.function_object else None
        self._entries = _entries(image.entries, self._table)
        self._relocate()

    def _relocate(self) -> None:
        """Write the addresses that initial values contain."""
        image, start = self._program.image, self._variables.address
        for item in image.relocations:
            address = item.addend
            if not item.function:
                address += start + image.variables[item.symbol].offset
            ctypes.memmove(start + item.offset, (address >> item.shift).to_bytes(8, "little"), item.size)

    def function(self, name: str, label: str | None = None) -> VirtualFunction:
        """The kernel ``name``, ``label`` to people, compiled now if it never was; InvalidValueError, UnsupportedError."""
        known = name, label or name
        if known not in self._functions:
            self._functions[known] = self._load(*known)
        return self._functions[known]

    def variable(self, name: str) -> int | None:
        """The address of a variable, as long as the module or a function of it lives."""
        found = self._program.image.variables.get(name)
        return None if found is None else self._variables.address + found.offset

    def _load(self, name: str, label: str) -> VirtualFunction:
        kernel = self._program.kernel(name)
        code, loaded = kernel.code, Code(kernel.object_code)
        regions = (ctypes.c_int64 * len(code.regions))(*map(loaded.address, code.regions))
        rows = [number for row in code.suspensions for number in row]
        suspensions = (ctypes.c_int32 * len(rows))(*rows)
        return VirtualFunction(
            info=_info(code, label),
            code=code,
            regions=regions,
            suspensions=suspensions,
            regions_address=ctypes.addressof(regions),
            suspensions_address=ctypes.addressof(suspensions),
            variables=self._variables,
            variables_address=self._variables.address,
            loaded=loaded,
            table=self._table,
            entries=self._entries,
            entries_address=ctypes.addressof(self._entries),
            text=self._program.text,
        )


def _entries(entries: tuple[tuple[str, int], ...], table: Code | None) -> ctypes.Array[ctypes.c_int64]:
    """What the launch record's FUNCTIONS points to; signature 0, which fits no call, where there is no code."""
    numbers: list[int] = []
    for symbol, signature in entries:
        assert table is not None
        numbers += (table.address(symbol), signature) if symbol else (0, 0)
    return (ctypes.c_int64 * len(numbers))(*numbers)


def _info(code: KernelCode, label: str) -> FunctionInfo:
    return FunctionInfo(
        name=label,
        arguments_size=code.arguments_size,
        parameters=code.parameters,
        registers=code.registers,
        shared_size=code.shared_size,
        local_size=code.stack_size,
        constant_size=code.constant_size,
        threads_max=code.threads_max,
    )
