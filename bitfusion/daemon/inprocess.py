"""The engine without a network: a session whose operations run on a device in this very process.

The floor that remote work is measured against (`bitfusion bench train`, `bitfusion run --in-process`): the same client, the same
executor, the same kernels, but no frames, no sockets and no second process. Offers what a client needs of a session and a transport.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar, cast

from bitfusion import limits
from bitfusion.device.base import Device
from bitfusion.device.discovery import discover
from bitfusion.device.open import open_device
from bitfusion.errors import BitfusionError, DeviceError, KernelError, SessionClosedError
from bitfusion.metrics import SessionMetrics
from bitfusion.session.client import Call, Operation
from bitfusion.session.failures import PostedFailures
from bitfusion.session.hello import Welcome
from bitfusion.types import DeviceSpec
from bitfusion.version import WIRE_VERSION
from bitfusion.wire import codec
from bitfusion.wire.operations import Field, Opcode
from bitfusion.worker.executor import STREAM_WORK, Executor
from bitfusion.worker.kernels import Kernels
from bitfusion.worker.memory import SessionMemory
from bitfusion.worker.process import KERNELS, OBJECTS, RANGE_FACTOR

T = TypeVar("T")


class LocalSession:
    """Executes at once what a ``ClientSession`` would send; a posted failure is still reported by the next call."""

    def __init__(self, device: Device, memory_limit: int, cache_dir: Path | None) -> None:
        self.metrics = SessionMetrics()
        self.error: BitfusionError | None = None
        self.wake = None
        self.full, self.waiting, self.opened, self.queued = False, False, True, 0
        self.device = device
        size = max(memory_limit * RANGE_FACTOR, limits.GIB)
        memory = SessionMemory(device, device.reserve(size), size, memory_limit)
        self.welcome = Welcome("in-process", WIRE_VERSION, device.info, memory.base, size, memory_limit)
        self._executor = Executor(device, memory, Kernels(cache_dir and cache_dir / KERNELS), self.metrics)
        self._failures = PostedFailures()

    def post(self, opcode: int, stream: int, *fields: object) -> None:
        """Execute a posted operation."""
        if self.error is not None:
            raise self.error
        if self._failures.pending is not None and opcode in STREAM_WORK:
            return
        operation = cast(
            Field, (opcode, stream, *(bytes(field) if isinstance(field, memoryview) else field for field in fields))
        )
        try:
            self._executor.post(operation)
        except (DeviceError, KernelError) as error:
            self._failures.keep(error, self._executor.describe(operation))

    def post_payload(self, opcode: int, stream: int, *fields: object, payload: memoryview) -> None:
        """Copy ``payload`` to the device, as receiving it would."""
        if self.error is not None:
            raise self.error
        (address,) = fields
        assert isinstance(address, int)
        if self._failures.pending is not None:
            return
        try:
            self._executor.write_buffer(stream, address, payload.nbytes)[:] = payload
            self._executor.write_commit(stream, address, payload.nbytes)
        except DeviceError as error:
            self._failures.keep(error, f"write({address:#x}, {payload.nbytes} bytes)")

    def call(self, opcode: int, stream: int, *fields: object, into: memoryview | None = None) -> Call:
        """Execute a call; it is done when this returns."""
        if self.error is not None:
            raise self.error
        call = Call(0, opcode, into)
        failure = self._failures.take()
        if failure is not None:
            call.finish(error=failure)
            return call
        try:
            call.finish(self._value(opcode, stream, cast(tuple[Field, ...], codec.unpack(codec.pack(fields))), into))
        except (DeviceError, KernelError) as error:
            self._failures.keep(error, Opcode(opcode).name.lower())
            self._failures.take()
            call.finish(error=error)
        return call

    def _value(self, opcode: int, stream: int, fields: tuple[Field, ...], into: memoryview | None) -> Field:
        value = self._executor.call(opcode, stream, fields)
        if opcode == Opcode.READ:
            assert into is not None
            filled = 0
            for piece in cast(Iterator[memoryview], value):
                into[filled : filled + piece.nbytes] = piece
                filled += piece.nbytes
            return None
        return cast(Field, value)

    def abandon(self, call: Call) -> None:
        """Nothing is ever outstanding."""

    def end(self, error: BitfusionError) -> None:
        """No more operations."""
        self.error = self.error or error


class LocalTransport:
    """Runs operations on a ``LocalSession``."""

    def __init__(self, session: LocalSession) -> None:
        self.session = session

    def run(self, operation: Operation[T], deadline_s: float | None = None) -> T:
        """Drive ``operation`` to its end; nothing it waits for is ever outstanding."""
        try:
            while True:
                next(operation)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def flush(self) -> None:
        """Everything has run already."""

    def close(self) -> None:
        """Close the device. Safe to call again."""
        if self.session.error is None:
            self.session.end(SessionClosedError("the session is closed"))
            self.session.device.close()


def open_local(
    spec: str | DeviceSpec = "auto", *, memory: int | None = None, cache_dir: Path | None = None
) -> LocalTransport:
    """A session on a device of this process: the first that ``spec`` names, with ``memory`` bytes or all it has."""
    device_spec = discover(spec)[0] if isinstance(spec, str) else spec
    device = open_device(device_spec, cache_dir=cache_dir and cache_dir / OBJECTS)
    limit = (memory or device_spec.memory_size) // limits.MEMORY_CHUNK_SIZE * limits.MEMORY_CHUNK_SIZE
    return LocalTransport(LocalSession(device, limit, cache_dir))
