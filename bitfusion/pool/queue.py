"""The queue: the order of those who wait, and how much of a GPU one may take who came later. Owns no time and no leases.

**Order.** Higher priority first, then as they asked.

**Passing.** A later request may pass an earlier one only while that cannot delay it. Take any set of a GPU's present leases and of the
earlier waiters that could use it: what may still be there, and what may come, whatever ends and whenever. If such a set fits on the
GPU, it must still fit with the passer beside it. So a passer can have what the fullest such set leaves (``Claims.allowance``), and every
placement of earlier waiters that will ever be possible without it is possible with it.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from bitfusion.errors import ConfigError
from bitfusion.pool.lease import Share
from bitfusion.pool.placement import DeviceView, eligible, occupied
from bitfusion.pool.plain import boolean, integer, known, number, required, text
from bitfusion.pool.request import Holder, LeaseRequest
from bitfusion.pool.room import Room
from bitfusion.pool.sums import Sums


@dataclass(frozen=True, slots=True)
class Waiter:
    """A request in the queue. Its lease, once granted, has the same ``id`` and ``key``. ``number`` counts those who asked."""

    id: str
    key: str = field(repr=False)
    holder: Holder
    request: LeaseRequest
    asked_at: float = 0.0
    held: bool = True
    number: int = 0

    @classmethod
    def from_plain(cls, value: object) -> Waiter:
        """What ``asdict`` gave; ConfigError for anything else."""
        fields = known(cls, value)
        return cls(
            text(fields, "id"),
            text(fields, "key"),
            Holder.from_plain(required(fields, "holder")),
            LeaseRequest.from_plain(required(fields, "request")),
            number(fields, "asked_at"),
            boolean(fields, "held"),
            integer(fields, "number"),
        )


def order(waiter: Waiter) -> tuple[int, int]:
    """What the queue is sorted by."""
    return -waiter.request.priority, waiter.number


class Queue:
    """Waiters in their order."""

    def __init__(self) -> None:
        self._sorted: list[Waiter] = []
        self._by_id: dict[str, Waiter] = {}

    def __len__(self) -> int:
        return len(self._sorted)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(tuple(self._sorted))

    def __contains__(self, waiter_id: object) -> bool:
        return waiter_id in self._by_id

    def __getitem__(self, waiter_id: str) -> Waiter:
        return self._by_id[waiter_id]

    def add(self, waiter: Waiter) -> None:
        """Into its place."""
        if waiter.id in self._by_id:
            raise ConfigError(f"{waiter.id} waits already")
        self._by_id[waiter.id] = waiter
        bisect.insort(self._sorted, waiter, key=order)

    def remove(self, waiter_id: str) -> Waiter:
        """Out of the queue; KeyError if it does not wait."""
        waiter = self._by_id.pop(waiter_id)
        del self._sorted[self._index(waiter)]
        return waiter

    def before(self, waiter: Waiter) -> Iterator[Waiter]:
        """Those whose turn is earlier, in order; ``waiter`` itself need not be in the queue."""
        return iter(self._sorted[: self._index(waiter)])

    def position(self, waiter_id: str) -> int:
        """1 for the next; KeyError if it does not wait."""
        return self._index(self._by_id[waiter_id]) + 1

    def _index(self, waiter: Waiter) -> int:
        return bisect.bisect_left(self._sorted, order(waiter), key=order)


class Claims:
    """What earlier waiters may still want of each GPU, gathered from the first on; what is left is for those behind them.

    A GPU's sums are worked out when somebody could have room on it, and then kept up: on a full one nobody asks.
    """

    def __init__(self, rooms: Mapping[str, Room]) -> None:
        self._rooms = rooms
        self._waiting: list[LeaseRequest] = []
        self._sums: dict[str, Sums] = {}
        """By GPU, where anybody waits for it."""
        self._counts: dict[str, int] = {}
        """How many of those waiting were held against the GPU."""

    def add(self, request: LeaseRequest) -> None:
        """A waiter that has nothing yet: from now on it is earlier than whoever asks."""
        self._waiting.append(request)

    def grant(self, request: LeaseRequest, shares: Iterable[Share]) -> None:
        """A lease was granted meanwhile, and is in its rooms."""
        for share in shares:
            if sums := self._sums.get(share.device.uuid):
                sums.add(occupied(request, self._rooms[share.device.uuid].view))

    def allowance(self, view: DeviceView) -> int:
        """Bytes of the GPU that can be taken without ever being in the way of those gathered."""
        uuid = view.device.uuid
        new = self._waiting[self._counts.get(uuid, 0) :]
        self._counts[uuid] = len(self._waiting)
        if wanted := [occupied(request, view) for request in new if eligible(request, view)]:
            self._sums.setdefault(uuid, self._rooms[uuid].sums.copy()).add(*wanted)
        sums = self._sums.get(uuid)
        return view.capacity - (sums.greatest if sums else 0)
