"""Which sizes sets of things can have together: subset sums by dynamic programming, one bit for each (Bellman 1957). Owns numbers only."""

from __future__ import annotations

from bitfusion.limits import MEMORY_CHUNK_SIZE


class Sums:
    """The sizes that sets of things can have together, up to ``limit`` bytes; bit n is n chunks."""

    __slots__ = ("_bits", "_mask", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit // MEMORY_CHUNK_SIZE
        self._mask = (1 << self.limit + 1) - 1
        self._bits = 1

    def add(self, *sizes: int) -> None:
        """More things, of so many bytes each, in whole chunks."""
        full = 1 << self.limit
        for size in sizes:
            if self._bits & full:  # it cannot come to more
                return
            self._bits |= (self._bits << size // MEMORY_CHUNK_SIZE) & self._mask

    @property
    def greatest(self) -> int:
        """Bytes of the greatest set that fits."""
        return (self._bits.bit_length() - 1) * MEMORY_CHUNK_SIZE

    def copy(self) -> Sums:
        """Another that goes its own way from here."""
        twin = Sums.__new__(Sums)
        twin.limit, twin._mask, twin._bits = self.limit, self._mask, self._bits
        return twin
