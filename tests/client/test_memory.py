"""The client's allocator against a model that counts chunks as the server does."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfusion.client.memory import AddressSpace
from bitfusion.errors import DeviceMemoryError, InvalidAddressError, InvalidValueError

CHUNK = 4096
BASE = 1 << 32


def charge(live: dict[int, int]) -> int:
    """Chunks that live allocations touch, counted one by one."""
    return CHUNK * len(
        {
            chunk
            for start, size in live.items()
            for chunk in range((start - BASE) // CHUNK, (start + size - 1 - BASE) // CHUNK + 1)
        }
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5 * CHUNK), st.integers(0, 1 << 16)), max_size=60))
def test_random_traffic_keeps_the_books(traffic: list[tuple[int, int]]) -> None:
    space = AddressSpace(BASE, 64 * CHUNK, 16 * CHUNK, CHUNK)
    live: dict[int, int] = {}
    for size, choice in traffic:
        if choice % 3 == 0 and live:
            victim = sorted(live)[choice % len(live)]
            space.release(victim)
            del live[victim]
        else:
            try:
                address = space.allocate(size)
            except DeviceMemoryError as error:
                figures = (error.requested, error.used, error.limit)
                assert figures == (size, charge(live), 16 * CHUNK)
                continue
            if not size:
                assert address == 0
                continue
            assert address % 256 == 0 and address >= BASE and address + size <= BASE + 64 * CHUNK
            assert all(address + size <= start or start + other <= address for start, other in live.items())
            live[address] = size
        assert space.used == charge(live) <= space.limit
        assert space.count == len(live)
    for address in live:
        space.release(address)
    assert space.used == 0
    assert space.allocate(16 * CHUNK) == BASE  # everything was joined again


def test_the_whole_lease_can_be_allocated_beside_small_blocks() -> None:
    space = AddressSpace(BASE, 64 * CHUNK, 4 * CHUNK, CHUNK)
    first = space.allocate(256)
    space.allocate(3 * CHUNK)
    assert space.used == 4 * CHUNK
    with pytest.raises(DeviceMemoryError) as caught:
        space.allocate(CHUNK)
    assert (caught.value.requested, caught.value.used, caught.value.limit) == (CHUNK, 4 * CHUNK, 4 * CHUNK)
    space.release(first)


def test_a_charged_chunk_is_used_before_the_lease_is_called_exhausted() -> None:
    space = AddressSpace(BASE, 64 * CHUNK, 2 * CHUNK, CHUNK)
    first = space.allocate(CHUNK - 256)
    second = space.allocate(CHUNK)
    space.release(first)
    assert space.allocate(CHUNK - 256) == first
    assert second == first + CHUNK - 256


@pytest.mark.parametrize("address", [BASE, BASE + 256, 7])
def test_releasing_what_is_not_allocated_is_an_error(address: int) -> None:
    space = AddressSpace(BASE, 64 * CHUNK, 4 * CHUNK, CHUNK)
    with pytest.raises(InvalidAddressError):
        space.release(address)


def test_a_negative_size_is_an_error() -> None:
    with pytest.raises(InvalidValueError):
        AddressSpace(BASE, CHUNK, CHUNK, CHUNK).allocate(-1)


def test_a_hundred_thousand_allocations_stay_cheap() -> None:
    space = AddressSpace(BASE, 1 << 40, 1 << 39)
    addresses = [space.allocate(300 + index % 4000) for index in range(100_000)]
    for address in addresses[::2]:
        space.release(address)
    for index in range(50_000):
        space.allocate(300 + index % 4000)
    assert space.count == 100_000
