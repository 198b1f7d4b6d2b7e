"""The blocking face: ``connect`` and what it gives. Each method runs one operation and returns when the host's side is done."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from bitfusion.client import embedded, operations
from bitfusion.client.array import DeviceArray
from bitfusion.client.base import (
    BaseClient,
    BaseEvent,
    BaseFunction,
    BaseModule,
    BaseStream,
    default_stream,
)
from bitfusion.client.callbacks import SUCCESS, UNKNOWN, Callbacks
from bitfusion.client.core import LEGACY_STREAM, PER_THREAD_STREAM, Owned
from bitfusion.client.greeting import CONNECT_TIMEOUT_S, FLUSH_DELAY_S, Times, opening, session
from bitfusion.client.mirror import Mirror
from bitfusion.client.operations import MemoryInfo
from bitfusion.client.output import OnOutput, Screen, check_on_output
from bitfusion.errors import BitfusionError, UnsupportedError
from bitfusion.session.client import ClientSession, Operation
from bitfusion.session.waiting import OnWait
from bitfusion.transport.blocking import open_session

if TYPE_CHECKING:
    import asyncio

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
) -> Client:
    """Open a session on a GPU: on one leased for it, or on GPU ``gpu`` of a lease that is there.

    ``target`` is ``host:port`` (``host``, ``[v6]:port``); without one BITFUSION_SERVER is asked, and without that a private appliance
    is started in a child process. ``memory`` is bytes (or text such as ``"2GiB"``), ``fraction`` a share of the GPU's memory; with
    neither the lease is the whole GPU. ``exclusive``: nobody else on it. ``filters`` say which GPUs will do (``"device.memory>=16GiB"``),
    ``priority`` who is served first, ``weight`` what part of a busy GPU's time is this lease's, beside the usual 100.

    Where it does not fit now, the request waits in the server's queue: for ``wait`` seconds, 0 for not at all, by default as long as it
    takes; ``on_wait`` is told of each place in it (``session.waiting.Waiting``). A private appliance lets nobody wait.

    ``lease`` and ``key`` (or ``lease="id:key"``) name a lease instead; without them BITFUSION_LEASE is asked where BITFUSION_SERVER is.
    The session has what that lease has left; ``memory`` and the like do not count then.

    ``deadline`` bounds each later call, ``timeout`` the opening (without the queue), in seconds. Posted
    work leaves at the latest ``flush_delay`` seconds after the program goes idle. What kernels print goes to standard output, or as text to
    ``on_output``, inside the call that waited for them. Raises the ConnectError branch, ConfigError.
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
    on_output = check_on_output(on_output)
    place = address or embedded.acquire()
    try:
        with opening(place):
            transport = open_session(
                place, greeting, timeout_s=times.timeout_s, flush_delay_s=times.flush_delay_s, on_wait=on_wait
            )
    except BaseException:
        if address is None:
            embedded.release()
        raise
    return Client(transport, deadline_s=times.deadline_s, private=address is None, on_output=on_output)


class Transport(Protocol):
    """What a blocking client needs of what carries its session: ``BlockingTransport``, or the engine in this very process."""

    @property
    def session(self) -> ClientSession: ...

    def run(self, operation: Operation[T], deadline_s: float | None = None) -> T:
        """Drive one operation to its end."""
        ...

    def close(self) -> None:
        """End the session and wait until all it held is free. Safe to call again."""
        ...

    def cut(self) -> None:
        """From a thread that cannot wait for another to leave ``run``."""
        ...

    def forget(self) -> None:
        """In a forked child: the session is the parent's."""
        ...


class Client(BaseClient):
    """A leased GPU for blocking programs. Threads may share it: they take turns, one that closes it too."""

    def __init__(
        self,
        transport: Transport,
        *,
        deadline_s: float | None = None,
        private: bool = False,
        on_output: OnOutput | None = None,
    ) -> None:
        super().__init__(transport.session, on_output)
        self.deadline_s = deadline_s
        self._transport = transport
        self._lock = threading.RLock()
        self._default = default_stream(self.core)
        self._streams: weakref.WeakValueDictionary[int, Owned] = weakref.WeakValueDictionary()
        self._of_thread = threading.local()
        self.callbacks = Callbacks()
        self.mirrors: weakref.WeakSet[Mirror] = weakref.WeakSet()
        """Host memory whose content is the device's since a launch took it; it comes back when the host waits for the device."""
        self._finalizer = weakref.finalize(self, _close, transport, self._lock, private, self._screen)
        _open.add(self)

    def run(self, operation: Operation[T]) -> T:
        """Run one operation to its end. DeadlineError if the client's deadline passes."""
        with self._lock:
            try:
                return self._transport.run(operation, self.deadline_s)
            finally:
                if self._transport.session.output:
                    self._screen.show()

    @property
    def turn(self) -> contextlib.AbstractContextManager[object]:
        """For operations that belong together: other threads' wait until the block ends."""
        return self._lock

    def refresh(self) -> None:
        """Bring the content of mapped memory back to the host; called after every wait for the device."""
        if self.mirrors:
            with self.turn:
                for mirror in list(self.mirrors):
                    mirror.fetch()

    def close(self) -> None:
        """End the session: posted work is sent, the lease and all it held go back. Safe to call again."""
        with self._lock:
            self._finalizer()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # memory

    def device_array(
        self,
        shape: int | tuple[int, ...],
        dtype: DTypeLike = np.float64,
        strides: tuple[int, ...] | None = None,
        order: str = "C",
        stream: BaseStream[Client] | int = 0,
    ) -> DeviceArray:
        """A new array, its elements not set. DeviceMemoryError."""
        return self.run(self._device_array(DeviceArray, shape, dtype, strides, order, stream))

    def to_device(self, value: object, stream: BaseStream[Client] | int = 0) -> DeviceArray:
        """A new array with a copy of ``value`` (anything NumPy makes an array of). DeviceMemoryError, InvalidValueError."""
        return self.run(self._to_device(DeviceArray, value, stream))

    def memory_info(self) -> MemoryInfo:
        """Bytes of the lease: free and total."""
        return self.run(operations.memory_info(self.core))

    # streams and events

    @property
    def default_stream(self) -> Stream:
        """Stream 0."""
        return Stream(self, self._default)

    @property
    def legacy_default_stream(self) -> Stream:
        """Stream 0, by the name of its rule: its work waits for that of all other streams, and theirs for its."""
        return Stream(self, self._default, LEGACY_STREAM)

    @property
    def per_thread_default_stream(self) -> Stream:
        """A stream of the calling thread's own, made when it first asks for it."""
        handle: Owned | None = getattr(self._of_thread, "handle", None)
        if handle is None:
            handle = self._of_thread.handle = self.stream().handle
        return Stream(self, handle, PER_THREAD_STREAM)

    def stream(self) -> Stream:
        """A new stream."""
        handle = self.run(operations.create_stream(self.core))
        self._streams[handle.number] = handle
        return Stream(self, handle)

    def external_stream(self, number: int) -> Stream:
        """The stream that ``int(stream)`` gave the number of. UnsupportedError for any that is not this session's."""
        if number in (0, LEGACY_STREAM):
            return Stream(self, self._default, number, external=True)
        if number == PER_THREAD_STREAM:
            return self.per_thread_default_stream
        handle = self._streams.get(number)
        if handle is None:
            raise UnsupportedError(
                f"the stream {number:#x} is none of this session's: one that another library made is on a GPU of this machine, "
                "not on the leased one",
                feature="external streams",
            )
        return Stream(self, handle, external=True)

    def event(self, timing: bool = True) -> Event:
        """A new event."""
        return Event(self, self.run(operations.create_event(self.core, timing)), timing)

    def synchronize(self) -> None:
        """Wait for all work on the device. Raises what failed before."""
        self.run(operations.synchronize(self.core, everything=True))
        self.refresh()

    # kernels

    def load_kernel(self, source: bytes, signature: object, options: object) -> Function:
        """Compile captured source for a signature (kernels/source.py, kernels/types.py). KernelError."""
        return Function(self, self.run(operations.load_kernel(self.core, source, signature, options)))

    def compile_kernel(self, source: bytes, signature: object, options: object, wanted: object) -> tuple[bytes, object]:
        """What captured source compiles to, and the tree of the type it returns (kernels/wanted.py). KernelError."""
        return self.run(operations.compile_kernel(self.core, source, signature, options, wanted))

    def load_module(self, image: bytes | str) -> Module:
        """Load PTX text. UnsupportedError, InvalidValueError, TypeError."""
        return Module(self, self.run(operations.load_module(self.core, image)))

    # about the session

    def echo(self, data: bytes) -> bytes:
        """One round trip to the worker, with up to 16 KiB. InvalidValueError, TypeError."""
        return self.run(operations.echo(self.core, data))

    def worker_metrics(self) -> dict[str, int]:
        """The worker's counters of this session."""
        return self.run(operations.metrics(self.core))


class Stream(BaseStream[Client]):
    """A queue of work on the device."""

    def synchronize(self) -> None:
        """Wait until the stream's work is done."""
        self.client.run(operations.synchronize(self.client.core, self.number))
        self.client.refresh()

    def query(self) -> bool:
        """Whether the stream's work is done."""
        done = self.client.run(operations.query_stream(self.client.core, self.number))
        if done:
            self.client.refresh()
        return done

    def wait_event(self, event: Event) -> None:
        """Later work of the stream waits for the event."""
        self.client.run(operations.wait_event(self.client.core, self.number, event.handle))

    @contextlib.contextmanager
    def auto_synchronize(self) -> Iterator[Stream]:
        """Wait for the stream's work when the block ends."""
        yield self
        self.synchronize()

    def add_callback(self, callback: Callable[[Stream, int, Any], object], arg: Any = None) -> None:
        """Call ``callback(stream, status, arg)`` once the stream's work so far is done; ``status`` is 0, or 999 if it failed.

        From a thread of its own; what it raises becomes a warning.
        """
        self._when_done(lambda failure: callback(self, SUCCESS if failure is None else UNKNOWN, arg))

    def async_done(self) -> asyncio.Future[Stream]:
        """An awaitable of the running loop: the stream, once its work so far is done. Raises what failed."""
        import asyncio  # which few blocking programs need

        loop = asyncio.get_running_loop()
        future: asyncio.Future[Stream] = loop.create_future()

        def resolve(failure: BitfusionError | None) -> None:
            if future.done():
                return
            if failure is None:
                future.set_result(self)
            else:
                future.set_exception(failure)

        self._when_done(lambda failure: loop.call_soon_threadsafe(resolve, failure))
        return future

    def _when_done(self, done: Callable[[BitfusionError | None], object]) -> None:
        event = self.client.event(timing=False)
        event.record(self)
        self.client.callbacks.add(event.synchronize, done)


class Event(BaseEvent[Client]):
    """A point in a stream."""

    def record(self, stream: BaseStream[Client] | int = 0) -> None:
        """Set the event after the stream's work so far."""
        self.client.run(operations.record_event(self.client.core, self.handle, self.client.stream_number(stream)))

    def synchronize(self) -> None:
        """Wait for the event."""
        self.client.run(operations.synchronize_event(self.client.core, self.handle))
        self.client.refresh()

    def wait(self, stream: BaseStream[Client] | int = 0) -> None:
        """Later work of the stream waits for the event."""
        self.client.run(operations.wait_event(self.client.core, self.client.stream_number(stream), self.handle))

    def query(self) -> bool:
        """Whether the event has come."""
        done = self.client.run(operations.query_event(self.client.core, self.handle))
        if done:
            self.client.refresh()
        return done

    def elapsed_time(self, evtend: Event) -> float:
        """Milliseconds on the device from this event to ``evtend``. InvalidHandleError if not both were recorded with timing."""
        return self.client.run(operations.elapsed_ms(self.client.core, self.handle, evtend.handle))


class Function(BaseFunction[Client]):
    """A kernel that can be launched."""

    def launch(
        self, grid: object, block: object, arguments: bytes, stream: BaseStream[Client] | int = 0, shared_size: int = 0
    ) -> None:
        """Post a launch. LaunchError if the arguments do not fit, TypeError.

        ``arguments`` are the packed bytes of all parameters: each at its offset and of its size of ``info.parameters``, little-endian; an
        array as its ``address``, 8 bytes.
        """
        self.client.run(self._launch(grid, block, arguments, stream, shared_size))

    def resident_blocks(self, threads: int, shared_size: int = 0) -> int:
        """How many blocks of ``threads`` threads the device runs at once; 0 if not one fits. InvalidValueError.

        A kernel whose blocks wait for the whole grid (cooperative groups) can be launched with no more. ``shared_size`` is that of the
        launch, in bytes.
        """
        return self.client.run(operations.resident_blocks(self.client.core, self.handle, threads, shared_size))


class Module(BaseModule[Client]):
    """A loaded image."""

    def function(self, name: str) -> Function:
        """The kernel ``name``. InvalidValueError if the image has none."""
        return Function(self.client, self.client.run(operations.load_function(self.client.core, self.handle, name)))


EXIT_TIMEOUT_S = 2.0
"""How long the end of the program waits for a thread that is inside an operation, before it cuts that thread's connection."""

_open: weakref.WeakSet[Client] = weakref.WeakSet()


def _close(transport: Transport, lock: threading.RLock, private: bool, screen: Screen) -> None:
    """The end of a client: closed, dropped, or alive at the end of the program, when another thread may still be using it."""
    idle = lock.acquire(timeout=EXIT_TIMEOUT_S)
    try:
        if idle:
            transport.close()
            screen.end()
        else:
            transport.cut()
    finally:
        if idle:
            lock.release()
        if private:
            embedded.release()


def _forget_all() -> None:
    """In a forked child: the sessions are the parent's; the child's copies of their sockets must not keep leases alive."""
    for client in list(_open):
        client._finalizer.detach()
        client._lock = threading.RLock()  # a thread of the parent may hold the old one, and is not here to release it
        client._transport.forget()


os.register_at_fork(after_in_child=_forget_all)
