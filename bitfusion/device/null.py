"""A device that does nothing: what is left is the cost of our own engine, which is what it measures.

Copies have somewhere to land (one staging buffer, reused) and read back as whatever was last there; launches return at once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bitfusion import limits
from bitfusion.errors import InvalidHandleError
from bitfusion.session.output import Printed
from bitfusion.types import Buffer, DeviceInfo, DeviceSpec, Dim3, FunctionInfo

BASE = 0x2000_0000_0000
"""The range of addresses; nothing is ever mapped there."""

PARAMETERS_UNKNOWN = ((0, 8),)
"""What a function takes of which no text says it: one pointer."""

ENTRY = r"\.entry\s+{name}(?![\w$])\s*(?:\(([^)]*)\))?"
PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+([1-9]\d{0,2})\s+)?\.[a-z]+(8|16|32|64|128)\b[^,\[]*(?:\[\s*(\d{1,9})\s*\])?"
)
"""``.param .u64 name`` or ``.param .align 8 .b8 name[72]`` (PTX ISA, Kernel Function Parameters)."""


class NullStream:
    """A queue in which everything is done already."""


@dataclass(slots=True)
class NullEvent:
    """The time of its last record, in nanoseconds."""

    timing: bool
    recorded_ns: int | None = None


@dataclass(frozen=True, slots=True)
class NullFunction:
    """A kernel without code."""

    info: FunctionInfo


class NullModule:
    """An image of which nothing is read but what its kernels take; it has every function."""

    def __init__(self, image: bytes) -> None:
        self._text = image.decode("latin-1")

    def function(self, name: str, label: str | None = None) -> NullFunction:
        """A kernel of this name, with the parameters that PTX text gives it, else one of 8 bytes."""
        entry = re.search(ENTRY.format(name=re.escape(name)), self._text)
        parameters = PARAMETERS_UNKNOWN if entry is None else tuple(_parameters(entry[1] or ""))
        size = sum(parameters[-1]) if parameters else 0
        return NullFunction(FunctionInfo(label or name, size, parameters, 0, 0, 0, 0, 1024))

    def variable(self, name: str) -> int | None:
        """There is none: nothing would ever be in it."""
        return None


def _parameters(text: str) -> Iterator[tuple[int, int]]:
    """(offset, size) of each parameter, at its own alignment or the one given."""
    end = 0
    for alignment, bits, count in PARAMETER.findall(text):
        item = int(bits) // 8
        start = end + -end % int(alignment or item)
        end = start + item * int(count or 1)
        yield start, end - start


class NullDevice:
    """Every verb of a device, without a device."""

    def __init__(self, spec: DeviceSpec) -> None:
        self.spec = spec
        attributes = {"WARP_SIZE": 32, "MAX_THREADS_PER_BLOCK": 1024, "MULTIPROCESSOR_COUNT": 1}
        self.info = DeviceInfo("null", spec.name, spec.uuid, spec.memory_size, (8, 0), attributes)
        self.default_stream = NullStream()
        self.busy_ns = 0
        self._staging: memoryview | None = None

    def reserve(self, size: int) -> int:
        return BASE

    def map(self, address: int, size: int) -> None:
        pass

    def unmap(self, address: int, size: int) -> None:
        pass

    def allocate(self, address: int, size: int) -> None:
        pass

    def release(self, address: int, size: int) -> None:
        pass

    def _buffer(self, size: int) -> memoryview:
        if self._staging is None:
            self._staging = memoryview(bytearray(limits.CHUNK_SIZE))
        return self._staging[:size]

    def write_buffer(self, stream: NullStream, address: int, size: int) -> memoryview:
        return self._buffer(size)

    def write_commit(self, stream: NullStream, address: int, size: int) -> None:
        pass

    def write(self, stream: NullStream, address: int, data: Buffer) -> None:
        pass

    def read(self, stream: NullStream, address: int, size: int) -> Iterator[memoryview]:
        for start in range(0, size, limits.CHUNK_SIZE):
            yield self._buffer(min(limits.CHUNK_SIZE, size - start))

    def copy(self, stream: NullStream, target: int, source: int, size: int) -> None:
        pass

    def fill(self, stream: NullStream, address: int, size: int, pattern: bytes) -> None:
        pass

    def load(self, image: bytes) -> NullModule:
        return NullModule(image)

    def launch(
        self, stream: NullStream, function: NullFunction, grid: Dim3, block: Dim3, shared_size: int, arguments: bytes
    ) -> None:
        pass

    def resident_blocks(self, function: NullFunction, threads: int, shared_size: int) -> int:
        return 1 if 0 < threads <= function.info.threads_max else 0

    def take_output(self, *, last: bool = False) -> list[Printed]:
        return []

    def stream_create(self) -> NullStream:
        return NullStream()

    def stream_destroy(self, stream: NullStream) -> None:
        pass

    def stream_query(self, stream: NullStream) -> bool:
        return True

    def stream_wait(self, stream: NullStream, event: NullEvent) -> None:
        pass

    def synchronize(self, stream: NullStream | None = None) -> None:
        pass

    def event_create(self, timing: bool = True) -> NullEvent:
        return NullEvent(timing)

    def event_destroy(self, event: NullEvent) -> None:
        pass

    def event_record(self, event: NullEvent, stream: NullStream) -> None:
        event.recorded_ns = time.perf_counter_ns()

    def event_query(self, event: NullEvent) -> bool:
        return True

    def event_synchronize(self, event: NullEvent) -> None:
        pass

    def event_elapsed_ms(self, start: NullEvent, end: NullEvent) -> float:
        if start.recorded_ns is None or end.recorded_ns is None or not (start.timing and end.timing):
            raise InvalidHandleError("both events must have been recorded, with timing")
        return (end.recorded_ns - start.recorded_ns) / 1e6

    def abort(self) -> None:
        pass

    def close(self) -> None:
        self._staging = None
