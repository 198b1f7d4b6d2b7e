"""The language of the run-time: a subset of Python, typed as Python, that ``translate`` turns into machine code.

Every value is a signed 64-bit integer or the address of a record. A function may use assignments to names and to
fields, ``if``, ``while``, ``for`` over ``range``, ``break``, ``continue``, ``return``, ``and``, ``or``, ``not``,
arithmetic (``//``, ``%`` and ``>>`` on what is not negative; ``a if c else b`` computes both), integers of its module,
``cast`` of an address to a record, other restricted functions, and the intrinsics below. Owns the types and the
intrinsics: nothing here runs in Python.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Generic, TypeAlias, TypeVar

Int8: TypeAlias = Annotated[int, "i8"]
Int16: TypeAlias = Annotated[int, "i16"]
Int32: TypeAlias = Annotated[int, "i32"]
Int64: TypeAlias = Annotated[int, "i64"]
UInt16: TypeAlias = Annotated[int, "u16"]
UInt32: TypeAlias = Annotated[int, "u32"]

T = TypeVar("T")


class Array(Generic[T]):
    """Values in a row that lie inside a record; by itself the address of the first."""

    def __getitem__(self, index: int) -> T:
        raise NotImplementedError

    def __setitem__(self, index: int, value: T) -> None:
        raise NotImplementedError


class Pointer(Array[T]):
    """A field that holds the address of values in a row; by itself that address."""


class Record:
    """Memory with named fields: ``offsets`` in bytes, and ``size`` where records stand in a row.

    Annotations give the types.
    """

    offsets: ClassVar[Mapping[str, int]]
    size: ClassVar[int]


def volatile(place: int) -> int:
    """Read a field that another thread may have written meanwhile."""
    raise NotImplementedError


def fetch_add(place: int, value: int) -> int:
    """Add to a 64-bit field atomically; what was there before."""
    raise NotImplementedError


def swap(place: int, expected: int, value: int) -> bool:
    """Store in a 32-bit field if it holds ``expected``, atomically; whether it did."""
    raise NotImplementedError


def fill(array: Array[T], first: int, value: int, count: int) -> None:
    """Set ``count`` bytes of an array of bytes, from the one at ``first``."""
    raise NotImplementedError


def resume(region: int, block: Record, z0: int, z1: int, y0: int, y1: int, x0: int, x1: int, t0: int) -> None:
    """Call a region of a kernel (``layout``)."""
    raise NotImplementedError


def semaphore_post(semaphore: Array[Int64]) -> int:
    """sem_post(3)."""
    raise NotImplementedError


def semaphore_wait(semaphore: Array[Int64]) -> int:
    """sem_wait(3): not 0 if a signal came first."""
    raise NotImplementedError
