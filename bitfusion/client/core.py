"""What every operation of one session works on: the session, its address space, its handles, and what has died since.

Python may finalise an array or a stream in any thread, in the middle of anything, or while the interpreter ends. So a finaliser only
appends to a deque, and the next operation posts the releases in front of itself. An address is given out again only after that.
"""

from __future__ import annotations

from collections import deque
from itertools import count

from bitfusion.client.memory import AddressSpace
from bitfusion.errors import InvalidAddressError, InvalidHandleError, SessionClosedError
from bitfusion.session.client import ClientSession
from bitfusion.wire.operations import Opcode

LEGACY_STREAM, PER_THREAD_STREAM = 1, 2
"""CUDA's numbers for its default streams, beside 0 (cuda.h, CU_STREAM_LEGACY and CU_STREAM_PER_THREAD)."""

HANDLE_MIN = 16
"""The first handle, so that no stream has the number of a default stream."""


class Owned:
    """Something the session holds for this object: released by ``opcode`` when the object dies or is freed.

    ``number`` is a handle, or the address of an allocation, of which the null pointer (of no bytes) needs no release.
    """

    __slots__ = ("__weakref__", "_dead", "live", "number", "opcode")

    def __init__(self, dead: deque[tuple[int, int]], opcode: int, number: int) -> None:
        self._dead = dead
        self.opcode = opcode
        self.number = number
        self.live = True

    def free(self) -> None:
        """Release now rather than when the last reference goes. Safe to call again."""
        if self.live:
            self.live = False
            if self.number:
                self._dead.append((self.opcode, self.number))

    __del__ = free

    def __int__(self) -> int:
        return self.number

    def belongs_to(self, core: Core) -> bool:
        """Whether it is of this session."""
        return self._dead is core.dead


class Core:
    """One open session's state on the client."""

    def __init__(self, session: ClientSession) -> None:
        welcome = session.welcome
        self.session = session
        self.memory = AddressSpace(welcome.memory_base, welcome.memory_size, welcome.memory_limit, welcome.memory_chunk)
        self.dead: deque[tuple[int, int]] = deque()
        self.sources: set[bytes] = set()
        """Hashes of the kernel sources this session has been sent."""
        self._numbers = count(HANDLE_MIN)
        self.put_off: list[object] = []
        """An item for each block of the program, in any thread, that keeps releases back."""

    def next_number(self) -> int:
        """A number for a new handle; one sequence serves every kind, and none is used twice."""
        return next(self._numbers)

    def own(self, opcode: Opcode, number: int) -> Owned:
        """The handle or address ``number``, released by ``opcode``."""
        return Owned(self.dead, int(opcode), number)

    def reap(self) -> None:
        """Post the release of everything that has died, and make its addresses free; later, while that is put off."""
        while self.dead and not self.put_off:
            opcode, number = self.dead.popleft()
            self.session.post(opcode, 0, number)
            if opcode == Opcode.RELEASE:
                self.memory.release(number)


def check_memory(allocation: Owned) -> None:
    """InvalidAddressError if the array's memory has been freed."""
    if not allocation.live:
        raise InvalidAddressError("the array's memory has been freed; its views cannot be used any longer")


def check_handle(core: Core, handle: Owned, noun: str) -> int:
    """The handle's number; InvalidHandleError if it has been destroyed, SessionClosedError if it is not this session's."""
    if not handle.belongs_to(core):
        raise _foreign()
    if not handle.live:
        raise InvalidHandleError(f"the {noun} has been destroyed")
    return handle.number


def check_session(first: Core, second: Core) -> None:
    """SessionClosedError unless both are one session: memory and handles do not travel between sessions."""
    if first is not second:
        raise _foreign()


def _foreign() -> SessionClosedError:
    return SessionClosedError(
        "the array, stream, event or kernel belongs to another session (perhaps one that was closed); make it again in this one"
    )
