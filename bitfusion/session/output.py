"""What kernels have printed and nobody has shown yet (docs/reference/wire.md section 6.1): bounded, in order, for both ends of a session.

Owns the bound and the line that says what was lost. What makes text of the bytes, and shows it, is the client's.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from bitfusion import limits

STDOUT, STDERR = 1, 2

PIECE_COST = 256
"""Bytes a piece counts beside its own: so that a million of one byte are bounded too."""


class Printed(NamedTuple):
    """Bytes for a descriptor: STDOUT, or STDERR for what an assertion said."""

    descriptor: int
    data: bytes


class Output:
    """A queue of printed pieces. When more than ``size_max`` bytes wait, the oldest go, as in CUDA's own buffer."""

    def __init__(self, size_max: int = limits.OUTPUT_SIZE_MAX) -> None:
        self._size_max = size_max
        self._pieces: deque[tuple[int, bytearray]] = deque()
        self._size = 0
        self._lost = 0

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def add(self, descriptor: int, data: bytes) -> None:
        """Keep what was printed; one print stays in one piece, so that only whole ones are ever lost."""
        if not data:
            return
        if self._joins(descriptor, len(data)):
            self._pieces[-1][1].extend(data)
            self._size += len(data)
        else:
            self._pieces.append((descriptor, bytearray(data)))
            self._size += len(data) + PIECE_COST
        while self._size > self._size_max and len(self._pieces) > 1:
            _, lost = self._pieces.popleft()
            self._size -= len(lost) + PIECE_COST
            self._lost += len(lost)

    def _joins(self, descriptor: int, size: int) -> bool:
        if not self._pieces:
            return False
        last, data = self._pieces[-1]
        return last == descriptor and len(data) + size <= limits.OUTPUT_PIECE_SIZE

    def pop(self) -> Printed | None:
        """The oldest piece, or the line that says what is missing in front of it; None where there is no more."""
        if self._lost:
            lost, self._lost = self._lost, 0
            return Printed(STDOUT, lost_line(lost, self._size_max))
        if not self._pieces:
            return None
        descriptor, data = self._pieces.popleft()
        self._size -= len(data) + PIECE_COST
        return Printed(descriptor, bytes(data))

    def take(self) -> list[Printed]:
        """All of it, in order."""
        return list(iter(self.pop, None))


def lost_line(size: int, size_max: int) -> bytes:
    """What stands where output was lost."""
    return (
        f"[bitfusion: {size} bytes that kernels printed are lost here: at most {size_max} wait until the program next waits for the GPU]\n"
    ).encode()
