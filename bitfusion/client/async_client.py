"""The asyncio face: the operations of client.py under the same names, awaited. Runs on the loop that opened the session."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import AsyncIterator, Coroutine, Generator, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from bitfusion.client import embedded, operations
from bitfusion.client.array import BaseArray
from bitfusion.client.base import (
    BaseClient,
    BaseEvent,
    BaseFunction,
    BaseModule,
    BaseStream,
    default_stream,
)
from bitfusion.client.greeting import CONNECT_TIMEOUT_S, FLUSH_DELAY_S, Times, opening, session
from bitfusion.client.host import HostArray
from bitfusion.client.operations import MemoryInfo
from bitfusion.client.output import OnOutput, check_on_output
from bitfusion.session.client import Operation
from bitfusion.session.hello import Hello
from bitfusion.session.waiting import OnWait
from bitfusion.transport.address import Target
from bitfusion.transport.stream import AsyncTransport, open_session

T = TypeVar("T")


def connect(
    target: str | None = None,
    *,
    gpus: int = 1,
    memory: int | str | None = None,
    fraction: float | None = None,
    exclusive: bool = False,
    filters: Iterable[str] | str = (),
    priority: int = 0,
    weight: int = 100,
    wait: float | None = None,
    on_wait: OnWait | None = None,
    lease: str | None = None,
    key: str | None = None,
    gpu: int | None = None,
    token: str | None = None,
    deadline: float | None = None,
    timeout: float = CONNECT_TIMEOUT_S,
    flush_delay: float = FLUSH_DELAY_S,
    on_output: OnOutput | None = None,
) -> Connecting:
    """Lease a GPU and open a session on it; parameters and errors are those of the blocking ``connect``.

    What kernels print is shown as it comes, between two steps of the loop.

    Either ``client = await connect(...)`` or ``async with connect(...) as client``.
    """
    wanted: dict[str, object] = {
        "gpus": gpus,
        "memory": memory,
        "fraction": fraction,
        "exclusive": exclusive,
        "filters": filters,
    }
    wanted |= {"priority": priority, "weight": weight, "wait": wait}
    address, greeting = session(target, lease, key, gpu, token, **wanted)
    times = Times.of(deadline, timeout, flush_delay)
    return Connecting(_connect(address, greeting, times, check_on_output(on_output), on_wait))


async def _connect(
    address: Target | None, greeting: Hello, times: Times, on_output: OnOutput | None, on_wait: OnWait | None
) -> AsyncClient:
    place = address if address is not None else await acquire()
    try:
        with opening(place):
            transport = await open_session(
                place, greeting, timeout_s=times.timeout_s, flush_delay_s=times.flush_delay_s, on_wait=on_wait
            )
    except BaseException:
        if address is None:
            embedded.release()
        raise
    return AsyncClient(transport, deadline_s=times.deadline_s, private=address is None, on_output=on_output)


class Connecting(Coroutine[Any, Any, "AsyncClient"]):
    """What ``connect`` gives: a coroutine, so that it can be awaited and made a task, that ``async with`` takes as well."""

    def __init__(self, connecting: Coroutine[Any, Any, AsyncClient]) -> None:
        self._connecting = connecting

    def __await__(self) -> Generator[Any, Any, AsyncClient]:
        return self._connecting.__await__()

    def send(self, value: Any) -> Any:
        """As a coroutine's."""
        return self._connecting.send(value)

    def throw(self, *exc_info: Any) -> Any:
        """As a coroutine's."""
        return self._connecting.throw(*exc_info)

    def close(self) -> None:
        """As a coroutine's."""
        self._connecting.close()

    async def __aenter__(self) -> AsyncClient:
        self._client = await self._connecting
        return self._client

    async def __aexit__(self, *exc_info: object) -> None:
        await self._client.close()


async def acquire() -> Target:
    """The private appliance, started beside the loop: its start takes seconds."""
    starting = asyncio.get_running_loop().run_in_executor(None, embedded.acquire)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_unwanted)
        raise


def _unwanted(starting: asyncio.Future[Target]) -> None:
    """Nobody waits any longer for the appliance that has just started; nor, perhaps, is the loop there much longer."""
    if not starting.cancelled() and starting.exception() is None:
        threading.Thread(target=embedded.release, name="bitfusion-release").start()


class AsyncClient(BaseClient):
    """A leased GPU for asyncio programs."""

    def __init__(
        self,
        transport: AsyncTransport,
        *,
        deadline_s: float | None = None,
        private: bool = False,
        on_output: OnOutput | None = None,
    ) -> None:
        super().__init__(transport.session, on_output)
        self.deadline_s = deadline_s
        self._transport = transport
        self._private = private
        transport.printed = self._screen.show
        _open.add(self)
        self._default = default_stream(self.core)

    async def run(self, operation: Operation[T]) -> T:
        """Run one operation to its end. DeadlineError if the client's deadline passes."""
        return await self._transport.run(operation, self.deadline_s)

    async def close(self) -> None:
        """End the session: posted work is sent, the lease and all it held go back. Safe to call again."""
        try:
            await self._transport.close()
            self._screen.end()
        finally:
            if self._private:
                self._private = False
                await asyncio.get_running_loop().run_in_executor(None, embedded.release)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    # memory

    async def device_array(
        self,
        shape: int | tuple[int, ...],
        dtype: DTypeLike = np.float64,
        strides: tuple[int, ...] | None = None,
        order: str = "C",
        stream: BaseStream[AsyncClient] | int = 0,
    ) -> AsyncDeviceArray:
        """A new array, its elements not set. DeviceMemoryError."""
        return await self.run(self._device_array(AsyncDeviceArray, shape, dtype, strides, order, stream))

    async def to_device(self, value: object, stream: BaseStream[AsyncClient] | int = 0) -> AsyncDeviceArray:
        """A new array with a copy of ``value`` (anything NumPy makes an array of). DeviceMemoryError, InvalidValueError."""
        return await self.run(self._to_device(AsyncDeviceArray, value, stream))

    async def memory_info(self) -> MemoryInfo:
        """Bytes of the lease: free and total."""
        return await self.run(operations.memory_info(self.core))

    # streams and events

    @property
    def default_stream(self) -> AsyncStream:
        """Stream 0."""
        return AsyncStream(self, self._default)

    async def stream(self) -> AsyncStream:
        """A new stream."""
        return AsyncStream(self, await self.run(operations.create_stream(self.core)))

    async def event(self, timing: bool = True) -> AsyncEvent:
        """A new event."""
        return AsyncEvent(self, await self.run(operations.create_event(self.core, timing)), timing)

    async def synchronize(self) -> None:
        """Wait for all work on the device. Raises what failed before."""
        await self.run(operations.synchronize(self.core, everything=True))

    # kernels

    async def load_kernel(self, source: bytes, signature: object, options: object) -> AsyncFunction:
        """Compile captured source for a signature (kernels/source.py, kernels/types.py). KernelError."""
        return AsyncFunction(self, await self.run(operations.load_kernel(self.core, source, signature, options)))

    async def compile_kernel(
        self, source: bytes, signature: object, options: object, wanted: object
    ) -> tuple[bytes, object]:
        """What captured source compiles to, and the tree of the type it returns (kernels/wanted.py). KernelError."""
        return await self.run(operations.compile_kernel(self.core, source, signature, options, wanted))

    async def load_module(self, image: bytes | str) -> AsyncModule:
        """Load PTX text. UnsupportedError, InvalidValueError, TypeError."""
        return AsyncModule(self, await self.run(operations.load_module(self.core, image)))

    # about the session

    async def echo(self, data: bytes) -> bytes:
        """One round trip to the worker, with up to 16 KiB. InvalidValueError, TypeError."""
        return await self.run(operations.echo(self.core, data))

    async def worker_metrics(self) -> dict[str, int]:
        """The worker's counters of this session."""
        return await self.run(operations.metrics(self.core))


class AsyncDeviceArray(BaseArray[AsyncClient]):
    """An array in device memory. ``await array.getitem(key)`` stands for ``array[key]`` where an element is copied to the host."""

    async def copy_to_host(
        self, out: HostArray | None = None, stream: BaseStream[AsyncClient] | int = 0, *, ary: HostArray | None = None
    ) -> HostArray:
        """The elements, in ``out`` (same shape and dtype, any strides) or in a new array. TypeError, ValueError if ``out`` does not fit."""
        return await self.client.run(self._download(stream, ary if out is None else out))

    async def copy_to_device(self, ary: object, stream: BaseStream[AsyncClient] | int = 0) -> None:
        """Copy a host or device array of the same shape and dtype into this one."""
        await self.client.run(self._assign(ary, stream, exact=True))

    async def copy_from_host(self, ary: object, stream: BaseStream[AsyncClient] | int = 0) -> None:
        """Copy a host array of the same shape and dtype into this one."""
        await self.client.run(self._assign(ary, stream, exact=True))

    async def fill(self, value: object, stream: BaseStream[AsyncClient] | int = 0) -> None:
        """Set every element."""
        await self.client.run(self._assign(value, stream))

    async def getitem(self, key: object, stream: BaseStream[AsyncClient] | int = 0) -> Any:
        """A view; an element of a plain dtype is copied to the host and returned as a NumPy scalar."""
        view, element = self._get(key, stream)
        return await self.client.run(view._item(stream)) if element else view

    async def setitem(self, key: object, value: object, stream: BaseStream[AsyncClient] | int = 0) -> None:
        """Set elements from a scalar, a host array or a device array, broadcast and cast as NumPy does."""
        await self.client.run(self._view(*self._select(key), stream)._assign(value, stream))

    def __getitem__(self, key: object) -> AsyncDeviceArray:
        """A view; of one element, a view without dimensions."""
        return self._get(key)[0]

    # what Python would make of __len__ and __getitem__: arrays of arrays, without a word

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("an AsyncDeviceArray cannot be iterated over; await array.copy_to_host() first")

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> HostArray:
        raise TypeError("an AsyncDeviceArray does not become a host array by itself; await array.copy_to_host()")


class AsyncStream(BaseStream[AsyncClient]):
    """A queue of work on the device."""

    async def synchronize(self) -> None:
        """Wait until the stream's work is done."""
        await self.client.run(operations.synchronize(self.client.core, self.number))

    async def query(self) -> bool:
        """Whether the stream's work is done."""
        return await self.client.run(operations.query_stream(self.client.core, self.number))

    async def wait_event(self, event: AsyncEvent) -> None:
        """Later work of the stream waits for the event."""
        await self.client.run(operations.wait_event(self.client.core, self.number, event.handle))

    @contextlib.asynccontextmanager
    async def auto_synchronize(self) -> AsyncIterator[AsyncStream]:
        """Wait for the stream's work when the block ends."""
        yield self
        await self.synchronize()


class AsyncEvent(BaseEvent[AsyncClient]):
    """A point in a stream."""

    async def record(self, stream: BaseStream[AsyncClient] | int = 0) -> None:
        """Set the event after the stream's work so far."""
        await self.client.run(operations.record_event(self.client.core, self.handle, self.client.stream_number(stream)))

    async def synchronize(self) -> None:
        """Wait for the event."""
        await self.client.run(operations.synchronize_event(self.client.core, self.handle))

    async def wait(self, stream: BaseStream[AsyncClient] | int = 0) -> None:
        """Later work of the stream waits for the event."""
        await self.client.run(operations.wait_event(self.client.core, self.client.stream_number(stream), self.handle))

    async def query(self) -> bool:
        """Whether the event has come."""
        return await self.client.run(operations.query_event(self.client.core, self.handle))

    async def elapsed_time(self, evtend: AsyncEvent) -> float:
        """Milliseconds on the device from this event to ``evtend``. InvalidHandleError if not both were recorded with timing."""
        return await self.client.run(operations.elapsed_ms(self.client.core, self.handle, evtend.handle))


class AsyncFunction(BaseFunction[AsyncClient]):
    """A kernel that can be launched."""

    async def launch(
        self,
        grid: object,
        block: object,
        arguments: bytes,
        stream: BaseStream[AsyncClient] | int = 0,
        shared_size: int = 0,
    ) -> None:
        """Post a launch. LaunchError if the arguments do not fit, TypeError.

        ``arguments`` are the packed bytes of all parameters: each at its offset and of its size of ``info.parameters``, little-endian; an
        array as its ``address``, 8 bytes.
        """
        await self.client.run(self._launch(grid, block, arguments, stream, shared_size))

    async def resident_blocks(self, threads: int, shared_size: int = 0) -> int:
        """How many blocks of ``threads`` threads the device runs at once; 0 if not one fits. InvalidValueError.

        A kernel whose blocks wait for the whole grid (cooperative groups) can be launched with no more. ``shared_size`` is that of the
        launch, in bytes.
        """
        return await self.client.run(operations.resident_blocks(self.client.core, self.handle, threads, shared_size))


class AsyncModule(BaseModule[AsyncClient]):
    """A loaded image."""

    async def function(self, name: str) -> AsyncFunction:
        """The kernel ``name``. InvalidValueError if the image has none."""
        return AsyncFunction(
            self.client, await self.client.run(operations.load_function(self.client.core, self.handle, name))
        )


_open: weakref.WeakSet[AsyncClient] = weakref.WeakSet()


def _forget_all() -> None:
    """In a forked child: as the blocking face does."""
    for client in list(_open):
        client._private = False
        client._transport.forget()


os.register_at_fork(after_in_child=_forget_all)
