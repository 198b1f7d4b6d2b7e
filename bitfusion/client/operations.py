"""Every operation of a session, once, as a generator that yields what it waits for; both faces run these (style: psycopg 3).

The fields of each are those of wire/operations.py. Copies of views with strides are in copies.py.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import NamedTuple

from bitfusion import limits
from bitfusion.client.core import Core, Owned, check_handle
from bitfusion.errors import DeviceMemoryError, InvalidValueError, KernelSourceError, RemoteProtocolError
from bitfusion.session.client import Call, Operation, Wait
from bitfusion.types import Dim3, FunctionInfo
from bitfusion.wire.operations import CONFIG, Field, Opcode


class MemoryInfo(NamedTuple):
    """Bytes of the lease that are free, and that there are."""

    free: int
    total: int


class Kernel(NamedTuple):
    """A loaded function and the handle that keeps it."""

    handle: Owned
    info: FunctionInfo


def post(core: Core, opcode: int, stream: int, *fields: object) -> Operation[None]:
    """Post one operation; waits only where the queue is full."""
    core.reap()
    while core.session.full:
        yield Wait.ROOM
    core.session.post(opcode, stream, *fields)


def call(core: Core, opcode: int, stream: int, *fields: object) -> Operation[Field]:
    """Ask and wait for the answer's value. Raises what failed, be it posted work before it."""
    core.reap()
    asked = core.session.call(opcode, stream, *fields)
    yield asked
    return asked.result()


def reap(core: Core) -> Operation[None]:
    """Post the releases of what has died."""
    core.reap()
    return
    yield


# memory


def allocate(core: Core, size: int) -> Operation[Owned]:
    """``size`` bytes; DeviceMemoryError before anything is posted. No bytes have the null pointer."""
    core.reap()
    while core.session.full:
        yield Wait.ROOM
    try:
        address = core.memory.allocate(size)
    except DeviceMemoryError:
        address = -1
    if address < 0:  # no longer in the handler: the second failure alone is the program's
        gc.collect()  # arrays that are garbage, but in reference cycles
        core.reap()
        address = core.memory.allocate(size)
    if not address:
        return core.own(Opcode.RELEASE, 0)
    try:
        core.session.post(Opcode.ALLOCATE, 0, address, size)
    except BaseException:
        core.memory.release(address)
        raise
    return core.own(Opcode.RELEASE, address)


def write(core: Core, stream: int, address: int, data: memoryview) -> Operation[None]:
    """Copy host bytes (C-contiguous, format B) to ``address``; after it they may change."""
    yield from write_pieces(core, stream, [(address, data)])


def write_pieces(core: Core, stream: int, pieces: Iterable[tuple[int, memoryview]]) -> Operation[None]:
    """Copy several blocks of host bytes, each to its own address. Small ones travel in batches, large ones uncopied."""
    core.reap()
    session = core.session
    for address, data in pieces:
        if data.nbytes <= limits.INLINE_SIZE_MAX:
            while session.full:
                yield Wait.ROOM
            session.metrics.copied_bytes += data.nbytes
            session.post(Opcode.WRITE, stream, address, data)
            continue
        for start in range(0, data.nbytes, limits.CHUNK_SIZE):
            while session.full:
                yield Wait.ROOM
            piece = data[start : start + limits.CHUNK_SIZE]
            session.post_payload(Opcode.WRITE_PAYLOAD, stream, address + start, payload=piece)
    yield Wait.SENT


def read(core: Core, stream: int, address: int, target: memoryview) -> Operation[None]:
    """Copy device bytes into ``target`` (writable, C-contiguous, format B)."""
    yield from read_pieces(core, stream, [(address, target)])


def read_pieces(core: Core, stream: int, pieces: Iterable[tuple[int, memoryview]]) -> Operation[None]:
    """Copy several blocks of device bytes to the host: all are asked for, then all are awaited."""
    core.reap()
    session = core.session
    calls: list[Call] = []
    try:
        for address, target in pieces:
            for start in range(0, target.nbytes, limits.PAYLOAD_SIZE_MAX):
                while session.full:
                    yield Wait.ROOM
                piece = target[start : start + limits.PAYLOAD_SIZE_MAX]
                session.call(Opcode.READ, stream, address + start, piece.nbytes, into=piece, among=calls)
        for asked in calls:
            yield asked
    except BaseException:  # an interrupt or a deadline: later bytes must not reach memory the caller has taken back
        session.abandon(*calls)
        raise
    for asked in calls:
        asked.result()


def memory_info(core: Core) -> Operation[MemoryInfo]:
    """What is free and what there is, as the server counts it."""
    match (yield from call(core, Opcode.MEMORY_INFO, 0)):
        case (int(free), int(total)):
            return MemoryInfo(free, total)
        case other:
            raise RemoteProtocolError(f"the server answered a memory query with {other!r}")


# kernels


def load_kernel(core: Core, source: bytes, signature: object, options: object) -> Operation[Kernel]:
    """Compile and load a captured kernel; its source is sent once. KernelCompileError, UnsupportedError."""
    digest = _send_source(core, source)
    number = core.next_number()
    value = yield from call(core, Opcode.KERNEL_LOAD, 0, number, digest, signature, options)
    return Kernel(core.own(Opcode.FUNCTION_UNLOAD, number), function_info(value))


def compile_kernel(
    core: Core, source: bytes, signature: object, options: object, wanted: object
) -> Operation[tuple[bytes, Field]]:
    """Compile captured source and return the code, and the tree of the type that it returns. KernelError."""
    digest = _send_source(core, source)
    match (yield from call(core, Opcode.KERNEL_COMPILE, 0, digest, signature, options, wanted)):
        case (bytes(code), result):
            return code, result
        case other:
            raise RemoteProtocolError(f"the server answered a compile with {other!r:.60}")


def _send_source(core: Core, source: bytes) -> bytes:
    """The hash by which a session knows a source; it is posted the first time."""
    source = _bytes(source, "a kernel's source")
    if not 0 < len(source) <= limits.SOURCE_SIZE_MAX:
        raise KernelSourceError(
            f"a kernel's source of {len(source)} bytes is over the limit of {limits.SOURCE_SIZE_MAX}"
        )
    digest = sha256(source).digest()
    core.reap()
    if digest not in core.sources:
        core.session.post(Opcode.SOURCE, 0, digest, source)
        core.sources.add(digest)
    return digest


def load_module(core: Core, image: bytes | str) -> Operation[Owned]:
    """Load PTX text, or what else the device takes. UnsupportedError, InvalidValueError, TypeError."""
    image = (
        image.encode()
        if isinstance(image, str)
        else _bytes(image, "an image (PTX as text or bytes, a cubin or a fatbin)")
    )
    if not image:
        raise InvalidValueError("the image is empty: pass PTX, a cubin or a fatbin")
    if len(image) > limits.IMAGE_SIZE_MAX:
        raise InvalidValueError(f"an image of {len(image)} bytes is over the limit of {limits.IMAGE_SIZE_MAX}")
    number = core.next_number()
    yield from call(core, Opcode.MODULE_LOAD, 0, number, image)
    return core.own(Opcode.MODULE_UNLOAD, number)


def load_function(core: Core, module: Owned, name: str) -> Operation[Kernel]:
    """The kernel ``name`` of a module; InvalidValueError if it has none, TypeError."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a kernel is a string, not {type(name).__name__}")
    if len(name) > limits.NAME_SIZE_MAX:
        raise InvalidValueError(f"the module has no kernel with a name of {len(name)} characters")
    number = core.next_number()
    value = yield from call(core, Opcode.FUNCTION_LOAD, 0, number, check_handle(core, module, "module"), name)
    return Kernel(core.own(Opcode.FUNCTION_UNLOAD, number), function_info(value))


def launch(
    core: Core, function: Owned, grid: Dim3, block: Dim3, arguments: bytes, stream: int = 0, shared_size: int = 0
) -> Operation[None]:
    """Launch with a packed argument blob."""
    config = CONFIG.pack(*grid, *block, shared_size)
    yield from post(core, Opcode.LAUNCH, stream, check_handle(core, function, "kernel"), config, arguments)


def resident_blocks(core: Core, function: Owned, threads: int, shared_size: int = 0) -> Operation[int]:
    """How many blocks of this size the device runs at once. InvalidValueError for a size below 0 or from 2**31 bytes on."""
    if not 0 <= shared_size < 1 << 31:
        raise InvalidValueError(f"{shared_size} bytes of shared memory are not between 0 and 2**31 - 1")
    handle = check_handle(core, function, "kernel")
    held = yield from call(core, Opcode.FUNCTION_OCCUPANCY, 0, handle, max(0, min(threads, (1 << 31) - 1)), shared_size)
    if not isinstance(held, int):
        raise RemoteProtocolError(f"the server answered how many blocks run at once with {held!r}")
    return held


def function_info(value: Field) -> FunctionInfo:
    """Check what the server says of a loaded function."""
    if not isinstance(value, Mapping):
        raise RemoteProtocolError("the server answered a load with something that is no function")
    try:
        plain = dict(value)
        parameters = tuple((int(offset), int(size)) for offset, size in plain.pop("parameters"))  # type: ignore[misc, arg-type, union-attr, str-unpack]  # caught
        return FunctionInfo(parameters=parameters, **plain)  # type: ignore[arg-type]  # caught below
    except (KeyError, TypeError, ValueError) as error:
        raise RemoteProtocolError(f"the server described a function wrongly: {error}") from None


# streams and events


def create_stream(core: Core) -> Operation[Owned]:
    """A new stream."""
    number = core.next_number()
    yield from post(core, Opcode.STREAM_CREATE, 0, number)
    return core.own(Opcode.STREAM_DESTROY, number)


def create_event(core: Core, timing: bool) -> Operation[Owned]:
    """A new event."""
    number = core.next_number()
    yield from post(core, Opcode.EVENT_CREATE, 0, number, int(timing))
    return core.own(Opcode.EVENT_DESTROY, number)


def synchronize(core: Core, stream: int = 0, *, everything: bool = False) -> Operation[None]:
    """Wait for a stream, or for all of the device."""
    yield from call(core, Opcode.SYNCHRONIZE, stream, int(everything))


def query_stream(core: Core, stream: int) -> Operation[bool]:
    """Whether a stream's work is done."""
    return bool((yield from call(core, Opcode.STREAM_QUERY, stream)))


def wait_event(core: Core, stream: int, event: Owned) -> Operation[None]:
    """Later work of the stream waits for the event."""
    yield from post(core, Opcode.STREAM_WAIT, stream, check_handle(core, event, "event"))


def record_event(core: Core, event: Owned, stream: int) -> Operation[None]:
    """Record the event in the stream."""
    yield from post(core, Opcode.EVENT_RECORD, stream, check_handle(core, event, "event"))


def synchronize_event(core: Core, event: Owned) -> Operation[None]:
    """Wait for the event."""
    yield from call(core, Opcode.EVENT_SYNCHRONIZE, 0, check_handle(core, event, "event"))


def query_event(core: Core, event: Owned) -> Operation[bool]:
    """Whether the event has come."""
    return bool((yield from call(core, Opcode.EVENT_QUERY, 0, check_handle(core, event, "event"))))


def elapsed_ms(core: Core, start: Owned, end: Owned) -> Operation[float]:
    """Milliseconds on the device between two events."""
    value = yield from call(
        core, Opcode.EVENT_ELAPSED, 0, check_handle(core, start, "event"), check_handle(core, end, "event")
    )
    if not isinstance(value, int | float):
        raise RemoteProtocolError(f"the server answered an elapsed time with {value!r}")
    return float(value)


# about the session itself


def echo(core: Core, data: bytes) -> Operation[bytes]:
    """The same bytes back from the worker: one round trip. InvalidValueError if they are too many for it, TypeError."""
    data = _bytes(data, "the data of an echo")
    if len(data) > limits.INLINE_SIZE_MAX:
        raise InvalidValueError(f"an echo of {len(data)} bytes is over the limit of {limits.INLINE_SIZE_MAX}")
    value = yield from call(core, Opcode.ECHO, 0, data)
    if not isinstance(value, bytes):
        raise RemoteProtocolError("the server answered an echo with something that is no bytes")
    return value


def metrics(core: Core) -> Operation[dict[str, int]]:
    """The worker's counters."""
    value = yield from call(core, Opcode.METRICS, 0)
    if not isinstance(value, Mapping):
        raise RemoteProtocolError("the server answered a query of its metrics with something that is no map")
    return {name: count for name, count in value.items() if isinstance(count, int)}


def _bytes(value: object, noun: str) -> bytes:
    """Bytes-like data as bytes; TypeError for what is none, before anything is sent: the server would end the session."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"{noun} must be bytes, not {type(value).__name__}")
