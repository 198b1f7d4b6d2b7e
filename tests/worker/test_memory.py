"""A session's memory against a naive model: what is live, what is charged, what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfusion import limits
from bitfusion.device.discovery import discover
from bitfusion.device.open import open_device
from bitfusion.errors import DeviceMemoryError, InvalidAddressError
from bitfusion.pool.ledger import Ledger
from bitfusion.worker.account import LedgerAccount
from bitfusion.worker.memory import SessionMemory

CHUNK = limits.MEMORY_CHUNK_SIZE
LIMIT = 8 * CHUNK
SIZE = 32 * CHUNK


class Mapped:
    """Wraps a device to see that only whole unmapped chunks are mapped, and never more than the lease."""

    def __init__(self, device) -> None:
        self._device = device
        self.chunks: set[int] = set()

    def __getattr__(self, name: str):
        return getattr(self._device, name)

    def _range(self, address: int, size: int) -> set[int]:
        assert size > 0 and size % CHUNK == 0
        return set(range(address, address + size, CHUNK))

    def map(self, address: int, size: int) -> None:
        assert not self.chunks & self._range(address, size)
        self.chunks |= self._range(address, size)
        assert len(self.chunks) * CHUNK <= LIMIT
        self._device.map(address, size)

    def unmap(self, address: int, size: int) -> None:
        assert self.chunks >= self._range(address, size)
        self.chunks -= self._range(address, size)
        self._device.unmap(address, size)


@pytest.fixture(params=["null", "virtual:1x64MiB"])
def memory(request):
    device = Mapped(open_device(discover(request.param)[0], cache_dir=None))
    memory = SessionMemory(device, device.reserve(SIZE), SIZE, LIMIT)
    memory.device = device
    yield memory
    device.close()


requests = st.lists(
    st.tuples(st.integers(0, SIZE // 256 - 1), st.integers(1, 3 * CHUNK) | st.sampled_from([CHUNK, LIMIT, LIMIT + 1]))
    | st.integers(0, 50),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(requests)
def test_against_a_model(steps):
    device = Mapped(open_device(discover("null")[0], cache_dir=None))
    memory = SessionMemory(device, device.reserve(SIZE), SIZE, LIMIT)
    live: dict[int, int] = {}
    for step in steps:
        if isinstance(step, int):
            if live:
                address = sorted(live)[step % len(live)]
                memory.release(address)
                del live[address]
        else:
            address, size = memory.base + step[0] * 256, step[1]
            fits = address + size <= memory.base + SIZE and all(
                address + size <= other or other + length <= address for other, length in live.items()
            )
            touched = {
                chunk for start, length in [*live.items(), (address, size)] for chunk in chunks(memory, start, length)
            }
            if not fits:
                with pytest.raises(InvalidAddressError):
                    memory.allocate(address, size)
            elif len(touched) * CHUNK > LIMIT:
                with pytest.raises(DeviceMemoryError) as caught:
                    memory.allocate(address, size)
                assert (caught.value.requested, caught.value.used, caught.value.limit) == (size, memory.used, LIMIT)
            else:
                memory.allocate(address, size)
                live[address] = size
        charged = {chunk for start, length in live.items() for chunk in chunks(memory, start, length)}
        assert memory.used == len(charged) * CHUNK
        assert {memory.base + chunk * CHUNK for chunk in charged} <= device.chunks
    device.close()


def chunks(memory: SessionMemory, address: int, size: int) -> range:
    return range((address - memory.base) // CHUNK, (address + size - 1 - memory.base) // CHUNK + 1)


def test_what_is_within_a_live_allocation(memory):
    memory.allocate(memory.base + 512, 1000)
    memory.check(memory.base + 512, 1000)
    memory.check(memory.base + 1511, 1)
    for address, size in [
        (memory.base + 511, 1),
        (memory.base + 512, 1001),
        (memory.base + 1512, 1),
        (0, 1),
        (2**64 - 1, 5),
    ]:
        with pytest.raises(InvalidAddressError, match="not within a live allocation"):
            memory.check(address, size)
    memory.release(memory.base + 512)
    with pytest.raises(InvalidAddressError):
        memory.check(memory.base + 512, 1)
    with pytest.raises(InvalidAddressError, match="freed twice"):
        memory.release(memory.base + 512)


def test_released_chunks_make_room(memory):
    for _ in range(5):
        memory.allocate(memory.base, LIMIT)
        memory.release(memory.base)
        memory.allocate(memory.base + LIMIT, LIMIT)
        memory.release(memory.base + LIMIT)
    assert memory.used == 0


def test_idle_chunks_of_the_allocation_itself_are_not_given_back(memory):
    """Its first chunks are mapped and idle already, and the lease has room for the rest only if others go."""
    memory.allocate(memory.base, 2 * CHUNK)
    memory.allocate(memory.base + 16 * CHUNK, LIMIT - 2 * CHUNK)
    memory.release(memory.base)
    memory.release(memory.base + 16 * CHUNK)
    memory.allocate(memory.base, LIMIT)
    assert memory.device.chunks == {memory.base + index * CHUNK for index in range(LIMIT // CHUNK)}


class Exhausted:
    """A device without memory while ``full``: the lease allows what the machine has not."""

    def __init__(self, device) -> None:
        self._device, self.full = device, True

    def __getattr__(self, name: str):
        return getattr(self._device, name)

    def map(self, address: int, size: int) -> None:
        if self.full:
            raise DeviceMemoryError("the machine has no memory left", requested=size)
        self._device.map(address, size)


def test_a_refused_allocation_can_be_released_once_and_made_again():
    device = Exhausted(open_device(discover("null")[0], cache_dir=None))
    memory = SessionMemory(device, device.reserve(SIZE), SIZE, LIMIT)
    with pytest.raises(DeviceMemoryError):
        memory.allocate(memory.base, CHUNK)
    assert memory.used == 0
    memory.release(memory.base)
    with pytest.raises(InvalidAddressError, match="freed twice"):
        memory.release(memory.base)
    device.full = False
    memory.allocate(memory.base, CHUNK)
    memory.release(memory.base)
    with pytest.raises(InvalidAddressError):
        memory.release(memory.base)
    device.close()


@pytest.fixture
def shared():
    """Two sessions of one lease, each with a device of its own, as two workers have."""
    ledger = Ledger.create()
    lease = ledger.open_lease(1, LIMIT)
    memories = []
    for _ in range(2):
        device = Mapped(open_device(discover("null")[0], cache_dir=None))
        account = LedgerAccount(ledger, ledger.open_session(lease))
        memories.append(SessionMemory(device, device.reserve(SIZE), SIZE, LIMIT, account))
        memories[-1].device = device
    yield *memories, ledger
    for memory in memories:
        memory.device.close()
    ledger.close()


def test_sessions_of_one_lease_share_its_memory(shared):
    first, second, ledger = shared
    first.allocate(first.base, 5 * CHUNK)
    assert second.used == 5 * CHUNK
    with pytest.raises(DeviceMemoryError) as caught:
        second.allocate(second.base, 4 * CHUNK)
    assert caught.value.details["used"] == 5 * CHUNK
    second.allocate(second.base, 3 * CHUNK)
    first.release(first.base)
    second.allocate(second.base + 8 * CHUNK, 5 * CHUNK)
    assert len(first.device.chunks) == 0, "what one session keeps, the other could not use"
    assert ledger.leases["used"][0] == LIMIT


def test_a_dead_sessions_memory_goes_back_to_its_lease(shared):
    first, second, ledger = shared
    first.allocate(first.base, LIMIT)
    ledger.close_session(0)
    second.allocate(second.base, LIMIT)
    assert second.used == LIMIT


def test_a_map_that_fails_is_not_charged(shared):
    first, second, ledger = shared

    def refuse(address, size):
        raise DeviceMemoryError("no memory", requested=size, used=0, limit=0)

    first.device.map = refuse
    with pytest.raises(DeviceMemoryError):
        first.allocate(first.base, LIMIT)
    assert ledger.leases["used"][0] == 0 and ledger.sessions["used"][0] == 0
    second.allocate(second.base, LIMIT)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 7), st.integers(1, 4 * CHUNK)), max_size=40))
def test_sessions_never_map_more_than_their_lease(steps):
    """Places of 4 chunks each: an allocation there, or its release if there is one."""
    ledger = Ledger.create()
    lease = ledger.open_lease(1, LIMIT)
    devices = [Mapped(open_device(discover("null")[0], cache_dir=None)) for _ in range(2)]
    memories = [
        SessionMemory(device, device.reserve(SIZE), SIZE, LIMIT, LedgerAccount(ledger, ledger.open_session(lease)))
        for device in devices
    ]
    live: list[dict[int, int]] = [{}, {}]
    for which, place, size in steps:
        memory, mine = memories[which], live[which]
        address = memory.base + place * 4 * CHUNK
        if mine.pop(place, None):
            memory.release(address)
        else:
            used = sum(-(-length // CHUNK) for places in live for length in places.values())
            fits = used + -(-size // CHUNK) <= LIMIT // CHUNK
            try:
                memory.allocate(address, size)
            except DeviceMemoryError:
                # chunks that the other kept from before it had company may stand in the way
                assert not fits or memory._account.others_mapped() > memory._account.others_used()
                memory.release(address)
            else:
                assert fits
                mine[place] = size
        assert sum(len(device.chunks) for device in devices) * CHUNK == ledger.leases["used"][0] <= LIMIT
    for device in devices:
        device.close()
    ledger.close()
