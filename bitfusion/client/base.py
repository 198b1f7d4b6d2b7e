"""What both faces of a client share: the session's state, the operations that make arrays, streams, events and functions.

Each face gives these classes their methods, one line each, by running the operation. Owns no socket and no loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from bitfusion.client import copies, operations
from bitfusion.client.array import BaseArray, new_layout
from bitfusion.client.core import (
    LEGACY_STREAM,
    PER_THREAD_STREAM,
    Core,
    Owned,
    check_handle,
    check_memory,
    check_session,
)
from bitfusion.client.host import check_dtype, host_order
from bitfusion.client.operations import Kernel
from bitfusion.client.output import OnOutput, Screen
from bitfusion.errors import InvalidHandleError, LaunchError
from bitfusion.metrics import SessionMetrics
from bitfusion.session.client import ClientSession, Operation
from bitfusion.session.hello import Welcome
from bitfusion.types import DeviceInfo, Dim3, FunctionInfo
from bitfusion.wire.operations import Opcode

C = TypeVar("C", bound="BaseClient")
A = TypeVar("A", bound="BaseArray[Any]")


class BaseClient:
    """A leased GPU. ``device`` is what it is, ``metrics`` what this side has counted."""

    def __init__(self, session: ClientSession, on_output: OnOutput | None) -> None:
        self.core = Core(session)
        self._screen = Screen(session.output, on_output)

    @property
    def welcome(self) -> Welcome:
        """What the server granted."""
        return self.core.session.welcome

    @property
    def device(self) -> DeviceInfo:
        """The GPU's properties."""
        return self.core.session.welcome.device

    @property
    def session_id(self) -> str:
        """The session's name in the server's logs and listings."""
        return self.core.session.welcome.session_id

    @property
    def metrics(self) -> SessionMetrics:
        """This side's counters."""
        return self.core.session.metrics

    @property
    def closed(self) -> bool:
        """Whether the session has ended, for whatever reason."""
        return self.core.session.error is not None

    def stream_number(self, stream: BaseStream[Any] | int | None) -> int:
        """The handle of a stream of this session; 0 and None are the default stream. InvalidHandleError."""
        if isinstance(stream, BaseStream):
            return check_handle(self.core, stream.handle, "stream")
        if stream is None or stream == 0:
            return 0
        raise InvalidHandleError(f"{stream!r} is not a stream; make one with stream(), or use 0 for the default stream")

    def _device_array(
        self,
        face: Callable[..., A],
        shape: object,
        dtype: DTypeLike,
        strides: tuple[int, ...] | None,
        order: str,
        stream: BaseStream[Any] | int,
    ) -> Operation[A]:
        checked = check_dtype(dtype)
        layout = new_layout(shape, checked, strides, order)
        low, high = layout.extent
        allocation = yield from operations.allocate(self.core, high - low)
        return face(self, allocation, layout, checked, stream)

    def _to_device(self, face: Callable[..., A], value: object, stream: BaseStream[Any] | int) -> Operation[A]:
        if isinstance(value, BaseArray):
            return (yield from self._copied(face, value, stream))
        host = np.asarray(value)
        array = yield from self._device_array(face, host.shape, host.dtype, host_order(host), "C", stream)
        yield from copies.upload(self.core, self.stream_number(stream), array.allocation.number, array.layout, host)
        return array

    def _copied(self, face: Callable[..., A], source: BaseArray[Any], stream: BaseStream[Any] | int) -> Operation[A]:
        """A new array with a copy of one of this session's, made on the device."""
        check_session(self.core, source.client.core)
        check_memory(source.allocation)
        order = "F" if source.is_f_contiguous() and not source.is_c_contiguous() else "C"
        array = yield from self._device_array(face, source.shape, source.dtype, None, order, stream)
        yield from array._assign(source, stream, exact=True)
        return array


_NAMES = {
    0: "<Default CUDA stream>",
    LEGACY_STREAM: "<Legacy default CUDA stream>",
    PER_THREAD_STREAM: "<Per-thread default CUDA stream>",
}


class BaseStream(Generic[C]):
    """A queue of work on the device. ``handle`` 0 is the default stream.

    ``int(stream)`` is what the CUDA Array Interface calls it: a number of this session's, or CUDA's for a default stream. ``external``
    streams were made elsewhere and came by their number.
    """

    def __init__(self, client: C, handle: Owned, called: int | None = None, *, external: bool = False) -> None:
        self.client = client
        self.handle = handle
        self.external = external
        self._called = called

    def __int__(self) -> int:
        return self.handle.number if self._called is None else self._called

    def __cuda_stream__(self) -> tuple[int, int]:
        """The CUDA stream protocol, version 0."""
        return 0, int(self)

    def __repr__(self) -> str:
        origin = "External " if self.external else ""
        return _NAMES.get(int(self), f"<{origin}CUDA stream {int(self)}>")

    @property
    def number(self) -> int:
        """The handle on the wire; InvalidHandleError once destroyed."""
        return check_handle(self.client.core, self.handle, "stream")


class BaseEvent(Generic[C]):
    """A point in a stream; with ``timing``, one that times can be taken between."""

    def __init__(self, client: C, handle: Owned, timing: bool) -> None:
        self.client = client
        self.handle = handle
        self.timing = timing


class BaseFunction(Generic[C]):
    """A kernel that can be launched."""

    def __init__(self, client: C, kernel: Kernel) -> None:
        self.client = client
        self.handle = kernel.handle
        self.info: FunctionInfo = kernel.info

    def _launch(
        self, grid: object, block: object, arguments: bytes, stream: BaseStream[Any] | int, shared_size: int
    ) -> Operation[None]:
        number = self.client.stream_number(stream)
        dimensions, threads = dim3(grid, "grid"), dim3(block, "block")
        if not isinstance(arguments, bytes | bytearray | memoryview):
            raise TypeError(
                f"{self._takes()}: give them as packed bytes (struct.pack), not as {type(arguments).__name__}"
            )
        if len(arguments) != self.info.arguments_size:
            raise LaunchError(f"{self._takes()}; bytes given: {len(arguments)}")
        yield from operations.launch(self.client.core, self.handle, dimensions, threads, arguments, number, shared_size)

    def _takes(self) -> str:
        places = ", ".join(f"{size} at {offset}" for offset, size in self.info.parameters)
        return f"{self.info.name} takes {self.info.arguments_size} bytes of arguments ({places or 'no parameters'})"


class BaseModule(Generic[C]):
    """A loaded image."""

    def __init__(self, client: C, handle: Owned) -> None:
        self.client = client
        self.handle = handle


def default_stream(core: Core) -> Owned:
    """The handle of stream 0, which nobody destroys."""
    return core.own(Opcode.STREAM_DESTROY, 0)


def dim3(value: object, noun: str) -> Dim3:
    """One to three positive integers as x, y, z. TypeError for what is no integer, LaunchError for what CUDA cannot launch."""
    if type(value) is int and 0 < value < 2**31:  # as a rule, and many times a millisecond
        return value, 1, 1
    items = tuple(value) if isinstance(value, tuple | list) else (value,)
    if not 1 <= len(items) <= 3:
        raise ValueError(f"the {noun} must be one to three integers, not {value!r}")
    if not all(isinstance(item, int | np.integer) for item in items):
        raise TypeError(f"the {noun} must be one to three integers, not {value!r}")
    x, y, z = (*(int(item) for item in items), 1, 1)[:3]
    if min(x, y, z) < 1 or max(x, y, z) > 2**31 - 1:
        raise LaunchError(f"the {noun} {(x, y, z)} cannot be launched: each dimension is 1 to {2**31 - 1}")
    return x, y, z
