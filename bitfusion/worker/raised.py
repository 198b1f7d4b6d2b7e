"""Exceptions that a kernel compiled with ``debug`` raised: read from its module's variables after a launch.

The variables are Numba's (``add_exception_store_helper`` in numba/cuda/compiler.py): the number of the first exception of a launch, and
the thread and block that raised it.
"""

from __future__ import annotations

from bitfusion.device.base import Device, Module, Stream
from bitfusion.errors import KernelRaisedError
from bitfusion.kernels.cache import Compiled, Raised

VARIABLES = ("errcode", "tidx", "tidy", "tidz", "ctaidx", "ctaidy", "ctaidz")
SIZE = 4
"""Bytes of each: 32-bit integers."""

UNKNOWN = Raised("Exception", "", "", "", 0)
"""An exception of a function of Numba's own that was compiled for an earlier kernel."""


class Watch:
    """One loaded kernel that may raise."""

    def __init__(self, device: Device, addresses: list[int], compiled: Compiled, label: str) -> None:
        self._device = device
        self._addresses = addresses
        self._raises = compiled.raises
        self._label = label

    def check(self, stream: Stream) -> None:
        """KernelRaisedError if a thread of the launch that was last has raised; waits for it."""
        if self._read(stream, self._addresses[0]) == 0:
            return
        number, *places = (self._read(stream, address) for address in self._addresses)
        self._device.fill(stream, self._addresses[0], SIZE, bytes(SIZE))
        raised = self._raises.get(number, UNKNOWN)
        thread, block = str(tuple(places[:3])), str(tuple(places[3:]))
        said = f"{raised.exception}: {raised.text}" if raised.text else raised.exception
        at = f" at {raised.file}:{raised.line}" if raised.file else ""
        raise KernelRaisedError(
            f"kernel {self._label}: thread {thread} of block {block} raised {said}{at}",
            exception=raised.exception,
            text=raised.text,
            kernel=self._label,
            block=block,
            thread=thread,
            function=raised.function or None,
            file=raised.file or None,
            line=raised.line or None,
        )

    def _read(self, stream: Stream, address: int) -> int:
        value = 0
        for piece in self._device.read(stream, address, SIZE):
            value = int.from_bytes(piece, "little", signed=True)
        return value


def watch(device: Device, module: Module, compiled: Compiled, label: str) -> Watch | None:
    """What looks after a kernel's exceptions; None for a kernel without variables for them, which ``debug`` makes."""
    addresses = [module.variable(f"{compiled.entry}__{name}__") for name in VARIABLES]
    known = [address for address in addresses if address is not None]
    return Watch(device, known, compiled, label) if len(known) == len(VARIABLES) else None
