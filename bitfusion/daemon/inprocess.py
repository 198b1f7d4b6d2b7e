"""The engine without a network: a session whose operations run on a device in this very process.

The floor that remote work is measured against (`bitfusion bench train`, `bitfusion run --in-process`): the same client, the same
executor, the same kernels, but no frames, no sockets and no second process: ``Client(open_local("virtual"))``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar, cast

from bitfusion import limits
from bitfusion.device.base import Device
from bitfusion.device.discovery import discover
from bitfusion.device.open import DEFAULT_RULES, open_device
from bitfusion.errors import DeviceError, KernelError, SessionClosedError
from bitfusion.pool.lease import Lease
from bitfusion.pool.pool import Pool
from bitfusion.pool.request import Holder, LeaseRequest
from bitfusion.session.client import Call, ClientSession, Operation
from bitfusion.session.failures import PostedFailures
from bitfusion.session.hello import Welcome
from bitfusion.types import DeviceSpec, KernelRules
from bitfusion.version import WIRE_VERSION
from bitfusion.wire import codec
from bitfusion.wire.operations import Field, Opcode
from bitfusion.worker.executor import STREAM_WORK, Executor
from bitfusion.worker.kernels import Kernels
from bitfusion.worker.memory import SessionMemory
from bitfusion.worker.process import KERNELS, OBJECTS, RANGE_FACTOR

T = TypeVar("T")


class LocalSession(ClientSession):
    """Executes at once what it is asked for, so nothing is ever queued or outstanding; a posted failure waits for the next call.

    ``turn`` is held while something is executed: threads post without the client's lock, and the device serves one at a time.
    """

    def __init__(self, device: Device, memory_limit: int, cache_dir: Path | None) -> None:
        super().__init__()
        self.device = device
        self.turn = threading.RLock()
        size = max(memory_limit * RANGE_FACTOR, limits.GIB)
        memory = SessionMemory(device, device.reserve(size), size, memory_limit)
        self._welcome = Welcome("in-process", WIRE_VERSION, device.info, memory.base, size, memory_limit)
        self._executor = Executor(device, memory, Kernels(cache_dir and cache_dir / KERNELS), self.metrics)
        self._failures = PostedFailures()

    def post(self, opcode: int, stream: int, *fields: object) -> None:
        """Execute a posted operation."""
        with self.turn:
            self._post(opcode, stream, fields)

    def _post(self, opcode: int, stream: int, fields: tuple[object, ...]) -> None:
        if self.error is not None:
            raise self.error.again()
        self.metrics.operations_posted += 1
        if self._failures.pending is not None and opcode in STREAM_WORK:
            return
        operation = cast(
            Field,
            (int(opcode), stream, *(bytes(field) if isinstance(field, memoryview) else field for field in fields)),
        )
        try:
            self._executor.post(operation)
        except (DeviceError, KernelError) as error:
            self._failures.keep(error, self._executor.describe(operation))

    def post_payload(self, opcode: int, stream: int, *fields: object, payload: memoryview) -> None:
        """Copy ``payload`` to the device, as receiving it would."""
        (address,) = fields
        assert isinstance(address, int)
        with self.turn:
            self._write(stream, address, payload)

    def _write(self, stream: int, address: int, payload: memoryview) -> None:
        if self.error is not None:
            raise self.error.again()
        if self._failures.pending is not None:
            return
        started = time.perf_counter_ns()
        try:
            self._executor.write_buffer(stream, address, payload.nbytes)[:] = payload
            self._executor.write_commit(stream, address, payload.nbytes)
        except DeviceError as error:
            self._failures.keep(error, f"write({address:#x}, {payload.nbytes} bytes)")
        self.metrics.transfer_ns += time.perf_counter_ns() - started

    def call(
        self,
        opcode: int,
        stream: int,
        *fields: object,
        into: memoryview | None = None,
        among: list[Call] | None = None,
    ) -> Call:
        """Execute a call; it is done when this returns."""
        with self.turn:
            call = self._call(opcode, stream, fields, into)
            self.show()
        if among is not None:
            among.append(call)
        return call

    def _call(self, opcode: int, stream: int, fields: tuple[object, ...], into: memoryview | None) -> Call:
        if self.error is not None:
            raise self.error.again()
        self.metrics.calls += 1
        call, started = Call(0, opcode, into), time.perf_counter_ns()
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
        elapsed = time.perf_counter_ns() - started
        if opcode == Opcode.READ:
            self.metrics.transfer_ns += elapsed
        else:
            self.metrics.wait_ns += elapsed
        return call

    def show(self, *, last: bool = False) -> None:
        """Have what kernels have printed shown, as a worker's answer has."""
        for printed in self.device.take_output(last=last):
            self.output.add(*printed)

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


class LocalTransport:
    """Runs operations on a ``LocalSession``; what a ``Client`` needs of a transport."""

    def __init__(self, session: LocalSession) -> None:
        self.session = session

    def run(self, operation: Operation[T], deadline_s: float | None = None) -> T:
        """Drive ``operation`` to its end; nothing it waits for is ever outstanding, so no deadline can pass."""
        try:
            while True:
                next(operation)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def close(self) -> None:
        """Close the device, once no thread is using it. Safe to call again."""
        with self.session.turn:
            if self.session.error is None:
                self.session.show(last=True)
                self.session.end(SessionClosedError("the session is closed; open it again"))
                self.session.device.close()

    def cut(self) -> None:
        """From a thread that cannot wait for another to leave ``run``: stop what the device is doing."""
        self.session.device.abort()

    def forget(self) -> None:
        """In a forked child: the device is the parent's, and its threads are not here, not even to end their turn."""
        self.session.turn = threading.RLock()
        self.session.end(SessionClosedError("the session belongs to the parent process; open one in the child"))


def open_local(
    spec: str | DeviceSpec = "auto",
    *,
    gpus: int = 1,
    memory: int | None = None,
    fraction: float | None = None,
    cache_dir: Path | None = None,
    rules: KernelRules = DEFAULT_RULES,
) -> LocalTransport:
    """A session on a device of this process, the first that ``spec`` names, as large as a lease would be. ConfigError, CapacityError."""
    device_spec = discover(spec)[0] if isinstance(spec, str) else spec
    lease = Pool([device_spec]).ask(LeaseRequest(gpus, memory, fraction), Holder(), now=0.0, wait=False)
    assert isinstance(lease, Lease)  # or CapacityError: it would not wait
    (share,) = lease.shares
    device = open_device(device_spec, cache_dir=cache_dir and cache_dir / OBJECTS, rules=rules)
    try:
        return LocalTransport(LocalSession(device, share.memory, cache_dir))
    except BaseException:
        device.close()
        raise
