"""Executes a session's operations on a device: resolves handles, checks addresses, calls the device's verbs.

One method per operation, found through one table. Raises typed errors; whether a failure is answered at once or kept for the next
call is the session's business, and what travels is the service's. A worker may host other executors behind the same loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, TypeVar

from bitfusion import limits
from bitfusion.device.base import Device, Event, Function, Module, Stream
from bitfusion.errors import InvalidHandleError, InvalidValueError, LaunchError, RemoteProtocolError
from bitfusion.metrics import SessionMetrics
from bitfusion.wire.operations import CONFIG, SESSION_RULES, Field, Opcode, check
from bitfusion.worker.kernels import Kernels
from bitfusion.worker.memory import SessionMemory
from bitfusion.worker.raised import Watch, watch
from bitfusion.worker.turn import Turn

T = TypeVar("T")

STREAM_WORK = frozenset(
    {
        Opcode.WRITE,
        Opcode.WRITE_PAYLOAD,
        Opcode.COPY,
        Opcode.FILL,
        Opcode.LAUNCH,
        Opcode.STREAM_WAIT,
        Opcode.EVENT_RECORD,
    }
)
"""Posted operations that are skipped after a failure until a call has reported it; the others keep both sides' books equal."""


class Table(dict[int, T]):
    """Handles of one kind, numbered by the client."""

    def __init__(self, noun: str) -> None:
        super().__init__()
        self._noun = noun

    def __missing__(self, handle: int) -> T:
        raise InvalidHandleError(f"{self._noun} {handle} does not exist in this session: destroyed, or never created")

    def add(self, handle: int, value: T) -> None:
        """A new handle; InvalidHandleError if it is taken or there are too many."""
        if handle in self or len(self) >= limits.HANDLE_COUNT_MAX:
            raise InvalidHandleError(
                f"{self._noun} {handle} cannot be created: the number is taken, or there are too many"
            )
        self[handle] = value

    def take(self, handle: int) -> T:
        """Remove a handle and return what it named."""
        value = self[handle]
        del self[handle]
        return value


class Executor:
    """One session's objects on one device. ``turn``: the device is shared; whoever drives this gives the turn on."""

    def __init__(
        self,
        device: Device,
        memory: SessionMemory,
        kernels: Kernels,
        metrics: SessionMetrics,
        turn: Turn | None = None,
    ) -> None:
        self.device = device
        self.memory = memory
        self.turn = turn
        self._kernels = kernels
        self.metrics = metrics
        self._streams: Table[Stream] = Table("stream")
        self._streams.add(0, device.default_stream)
        self._events: Table[Event] = Table("event")
        self._modules: Table[Module] = Table("module")
        self._functions: Table[Function] = Table("function")
        self._watched: dict[int, Watch] = {}
        self._handlers: dict[int, Callable[..., Any]] = {
            opcode: getattr(self, f"_{Opcode(opcode).name.lower()}")
            for opcode in SESSION_RULES
            if opcode != Opcode.WRITE_PAYLOAD
        }

    def post(self, operation: Field) -> None:
        """Check and execute one posted operation of a batch. RemoteProtocolError ends the session, a DeviceError does not."""
        if type(operation) is not tuple or len(operation) < 2:
            raise RemoteProtocolError("an operation must be [opcode, stream, ...]")
        opcode, stream, *_ = operation
        fields = operation[2:]
        if type(opcode) is not int or type(stream) is not int or opcode >= 0x80 or opcode == Opcode.WRITE_PAYLOAD:
            raise RemoteProtocolError(f"operation {opcode!r} cannot be posted in a batch")
        check(opcode, fields)
        self._handlers[opcode](stream, *fields)

    def call(self, opcode: int, stream: int, fields: tuple[Field, ...]) -> object:
        """Execute one checked call; the value of its reply."""
        return self._handlers[opcode](stream, *fields)

    def read(self, stream: int, address: int, size: int) -> Iterator[memoryview]:
        """The pieces of a device-to-host copy."""
        self.memory.check(address, size)
        return self.device.read(self._streams[stream], address, size)

    def write_buffer(self, stream: int, address: int, size: int) -> memoryview:
        """Where to receive the payload of a host-to-device copy."""
        self.memory.check(address, size)
        return self.device.write_buffer(self._streams[stream], address, size)

    def write_commit(self, stream: int, address: int, size: int) -> None:
        """That payload has arrived."""
        self.device.write_commit(self._streams[stream], address, size)

    def describe(self, operation: Field) -> str:
        """A posted operation in words, for the call that will report its failure."""
        if not isinstance(operation, tuple) or not operation or operation[0] not in self._handlers:
            return "a malformed operation"
        opcode, *fields = operation
        assert isinstance(opcode, int)
        if opcode == Opcode.LAUNCH:
            function, config = fields[1:3]
            if isinstance(function, int) and isinstance(config, bytes) and function in self._functions:
                gx, gy, gz, bx, by, bz, _ = CONFIG.unpack(config)
                return f"launch of {self._functions[function].info.name} with [({gx}, {gy}, {gz}), ({bx}, {by}, {bz})]"
        words = [
            hex(field) if isinstance(field, int) else f"{len(field)} bytes"
            for field in fields[1:]
            if isinstance(field, int | bytes)
        ]
        return f"{Opcode(opcode).name.lower()}({', '.join(words)})"

    # memory

    def _allocate(self, stream: int, address: int, size: int) -> None:
        self.memory.allocate(address, size)

    def _release(self, stream: int, address: int) -> None:
        self.memory.release(address)

    def _write(self, stream: int, address: int, data: bytes) -> None:
        if data:
            self.memory.check(address, len(data))
            self.device.write(self._streams[stream], address, data)

    def _copy(self, stream: int, target: int, source: int, size: int) -> None:
        self.memory.check(target, size)
        self.memory.check(source, size)
        self.device.copy(self._streams[stream], target, source, size)

    def _fill(self, stream: int, address: int, size: int, pattern: bytes) -> None:
        if size % len(pattern):
            raise InvalidValueError(f"a fill of {size} bytes is not a multiple of its pattern of {len(pattern)}")
        self.memory.check(address, size)
        self.device.fill(self._streams[stream], address, size, pattern)

    def _read(self, stream: int, address: int, size: int) -> Iterator[memoryview]:
        return self.read(stream, address, size)

    def _memory_info(self, stream: int) -> tuple[int, int]:
        return self.memory.limit - self.memory.used, self.memory.limit

    # kernels

    def _source(self, stream: int, digest: bytes, source: bytes) -> None:
        self._kernels.add_source(digest, source)

    def _kernel_load(
        self, stream: int, function: int, digest: bytes, signature: Field, options: Field
    ) -> dict[str, object]:
        compiled, label = self._kernels.compile(digest, signature, options, self.device.info.compute_capability)
        module = self.device.load(compiled.ptx)
        loaded, watched = module.function(compiled.entry, label), watch(self.device, module, compiled, label)
        self._functions.add(function, loaded)
        if watched is not None:
            self._watched[function] = watched
        return asdict(loaded.info)

    def _kernel_compile(
        self, stream: int, digest: bytes, signature: Field, options: Field, wanted: Field
    ) -> tuple[bytes, object]:
        return self._kernels.compile_text(digest, signature, options, wanted, self.device.info.compute_capability)

    def _module_load(self, stream: int, module: int, image: bytes) -> None:
        self._modules.add(module, self.device.load(image))

    def _module_unload(self, stream: int, module: int) -> None:
        self._modules.take(module)

    def _function_load(self, stream: int, function: int, module: int, name: str) -> dict[str, object]:
        self._functions.add(function, self._modules[module].function(name))
        return asdict(self._functions[function].info)

    def _function_unload(self, stream: int, function: int) -> None:
        self._functions.take(function)
        self._watched.pop(function, None)

    def _function_occupancy(self, stream: int, function: int, threads: int, shared_size: int) -> int:
        return self.device.resident_blocks(self._functions[function], threads, shared_size)

    def _launch(self, stream: int, function: int, config: bytes, arguments: bytes) -> None:
        kernel = self._functions[function]
        if len(arguments) != kernel.info.arguments_size:
            raise LaunchError(
                f"{kernel.info.name} takes {kernel.info.arguments_size} bytes of arguments; bytes given: {len(arguments)}"
            )
        self.metrics.launches += 1
        if self.turn is not None:
            self.turn.take()
        gx, gy, gz, bx, by, bz, shared_size = CONFIG.unpack(config)
        self.device.launch(self._streams[stream], kernel, (gx, gy, gz), (bx, by, bz), shared_size, arguments)
        if function in self._watched:
            self._watched[function].check(self._streams[stream])

    # streams and events

    def _stream_create(self, stream: int, created: int) -> None:
        self._streams.add(created, self.device.stream_create())

    def _stream_destroy(self, stream: int, destroyed: int) -> None:
        if destroyed == 0:
            raise InvalidHandleError("the default stream cannot be destroyed")
        self.device.stream_destroy(self._streams.take(destroyed))

    def _stream_wait(self, stream: int, event: int) -> None:
        self.device.stream_wait(self._streams[stream], self._events[event])

    def _stream_query(self, stream: int) -> bool:
        return self.device.stream_query(self._streams[stream])

    def _synchronize(self, stream: int, everything: int) -> None:
        self.device.synchronize(None if everything else self._streams[stream])

    def _event_create(self, stream: int, event: int, timing: int) -> None:
        self._events.add(event, self.device.event_create(bool(timing)))

    def _event_destroy(self, stream: int, event: int) -> None:
        self.device.event_destroy(self._events.take(event))

    def _event_record(self, stream: int, event: int) -> None:
        self.device.event_record(self._events[event], self._streams[stream])

    def _event_synchronize(self, stream: int, event: int) -> None:
        self.device.event_synchronize(self._events[event])

    def _event_query(self, stream: int, event: int) -> bool:
        return self.device.event_query(self._events[event])

    def _event_elapsed(self, stream: int, start: int, end: int) -> float:
        return self.device.event_elapsed_ms(self._events[start], self._events[end])

    # about the session itself

    def _echo(self, stream: int, data: bytes) -> bytes:
        return data

    def _metrics(self, stream: int) -> dict[str, int]:
        self.metrics.busy_ns = self.device.busy_ns
        return {**self.metrics.as_dict(), "clock_ns": time.monotonic_ns()}
