"""The verbs of a device: what a worker needs of a GPU, and nothing else.

A ``Device`` is one opened GPU inside one worker process: its context, its memory, its streams. Back ends: ``cuda`` (a real
GPU through cuda-bindings), ``virtual`` (PTX run on the CPU), ``null`` (does nothing: it measures us). The worker has already checked every
range against the session's live allocations and every handle against the session's tables, so a verb may trust addresses and
sizes; it reports what only the device can know. Verbs raise from ``errors.DeviceError``'s branch.

All verbs run on the worker's one loop thread, in the order the client posted them; only ``abort`` may be called from
another thread. A back end may finish work later than the verb returns (as CUDA does), provided stream order is kept and
``synchronize`` waits; a failure of such work is raised by the verb that first sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from bitfusion.session.output import Printed
from bitfusion.types import Buffer, DeviceInfo, DeviceSpec, Dim3, FunctionInfo


class Stream(Protocol):
    """A queue of work, in order. The device's own object; the worker keeps it under the client's handle."""


class Event(Protocol):
    """A point in a stream. The device's own object."""


class Function(Protocol):
    """A kernel that can be launched."""

    @property
    def info(self) -> FunctionInfo: ...


class Module(Protocol):
    """A loaded image. Functions are found (and on the virtual GPU compiled) on demand."""

    def function(self, name: str, label: str | None = None) -> Function:
        """The kernel ``name``; InvalidValueError if the image has none, UnsupportedError naming an instruction.

        ``label`` is what people call it, in its info and in every message; its name where there is no other.
        """
        ...

    def variable(self, name: str) -> int | None:
        """The address of a variable, None if the image has none of that name."""
        ...


class Device(Protocol):
    """One opened GPU. ``default_stream`` is stream 0, always there."""

    spec: DeviceSpec
    info: DeviceInfo
    default_stream: Stream
    busy_ns: int
    """Nanoseconds the device has spent running kernels."""

    # memory: one reserved range of addresses; the worker maps and unmaps whole chunks of it
    def reserve(self, size: int) -> int:
        """Reserve ``size`` bytes of address space (once, a multiple of MEMORY_CHUNK_SIZE); returns the base address."""
        ...

    def map(self, address: int, size: int) -> None:
        """Back whole chunks with memory that reads as zeros; DeviceMemoryError if the device has none left."""
        ...

    def unmap(self, address: int, size: int) -> None:
        """Give whole chunks back, waiting for work that may still use them."""
        ...

    def allocate(self, address: int, size: int) -> None:
        """Note a live allocation of ``size`` bytes (for byte-exact checks)."""
        ...

    def release(self, address: int, size: int) -> None:
        """Note the end of an allocation; work posted before may still use it."""
        ...

    # copies
    def write_buffer(self, stream: Stream, address: int, size: int) -> memoryview:
        """Where to receive ``size`` bytes (at most CHUNK_SIZE) for ``address``: device memory itself, or a staging slot.

        Waits until earlier work of the device that uses the target is done, or a slot is free. Followed by ``write_commit``.
        """
        ...

    def write_commit(self, stream: Stream, address: int, size: int) -> None:
        """The bytes are in the buffer of the last ``write_buffer``: bring them to ``address`` in stream order."""
        ...

    def write(self, stream: Stream, address: int, data: Buffer) -> None:
        """Copy a small block of host bytes to ``address`` in stream order; ``data`` may be reused after the return."""
        ...

    def read(self, stream: Stream, address: int, size: int) -> Iterator[memoryview]:
        """The bytes at ``address`` in pieces of at most CHUNK_SIZE, in stream order after all earlier work of the stream.

        A piece stays valid until the next one is asked for.
        """
        ...

    def copy(self, stream: Stream, target: int, source: int, size: int) -> None:
        """Device to device; ranges that overlap behave as memmove."""
        ...

    def fill(self, stream: Stream, address: int, size: int, pattern: bytes) -> None:
        """Repeat ``pattern`` over ``size`` bytes (a multiple of its length)."""
        ...

    # kernels
    def load(self, image: bytes) -> Module:
        """Load PTX text (cuda: also cubin or fatbin)."""
        ...

    def launch(
        self, stream: Stream, function: Function, grid: Dim3, block: Dim3, shared_size: int, arguments: bytes
    ) -> None:
        """Launch; ``arguments`` is the packed blob of exactly ``function.info.arguments_size`` bytes. LaunchError, KernelFaultError."""
        ...

    def resident_blocks(self, function: Function, threads: int, shared_size: int) -> int:
        """How many blocks of ``threads`` threads and ``shared_size`` bytes of dynamic shared memory the device runs at once.

        0 if not one fits. A kernel that waits for its whole grid (cooperative groups) can be launched with no more.
        """
        ...

    def take_output(self, *, last: bool = False) -> list[Printed]:
        """What kernels have printed and nobody has taken yet, in order.

        Nothing, from a device whose driver writes to this process's standard output: then all of it is there after this. ``last``: wait a
        moment for kernels that still run, because nobody will ask again.
        """
        ...

    # streams and events
    def stream_create(self) -> Stream: ...

    def stream_destroy(self, stream: Stream) -> None: ...

    def stream_query(self, stream: Stream) -> bool:
        """Whether all work of the stream is done."""
        ...

    def stream_wait(self, stream: Stream, event: Event) -> None:
        """Later work of the stream waits for the event's last record; an event never recorded waits for nothing."""
        ...

    def synchronize(self, stream: Stream | None = None) -> None:
        """Wait for one stream, or for all of the device."""
        ...

    def event_create(self, timing: bool = True) -> Event: ...

    def event_destroy(self, event: Event) -> None: ...

    def event_record(self, event: Event, stream: Stream) -> None: ...

    def event_query(self, event: Event) -> bool:
        """Whether the work before the event's last record is done; True if never recorded, as in CUDA."""
        ...

    def event_synchronize(self, event: Event) -> None: ...

    def event_elapsed_ms(self, start: Event, end: Event) -> float:
        """Milliseconds between two recorded events (cuEventElapsedTime); InvalidHandleError if not both were recorded with timing."""
        ...

    # life
    def abort(self) -> None:
        """Stop running kernels soon, from any thread: the client has gone. The session is over after this."""
        ...

    def close(self) -> None:
        """Release everything; memory is scrubbed so that nobody after reads it."""
        ...
