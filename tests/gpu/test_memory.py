"""Device memory: round trips, fills, overlaps, and memory that is not there."""

from __future__ import annotations

import numpy as np
import pytest

from bitfusion.client import operations
from bitfusion.client.client import connect
from bitfusion.errors import DeviceMemoryError, InvalidAddressError
from bitfusion.limits import CHUNK_SIZE, INLINE_SIZE_MAX, MEMORY_CHUNK_SIZE, MIB

SIZES = [1, 255, 4096]
SIZES += [INLINE_SIZE_MAX - 1, INLINE_SIZE_MAX, INLINE_SIZE_MAX + 1]
SIZES += [MEMORY_CHUNK_SIZE - 1, MEMORY_CHUNK_SIZE + 1]
SIZES += [CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 7 * CHUNK_SIZE + 17]


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_round_trip(client, size):
    data = noise(size)
    np.testing.assert_array_equal(client.to_device(data).copy_to_host(), data)


def test_copies_of_many_sizes_do_not_touch_each_other(client):
    arrays = [(client.to_device(data), data) for data in (noise(size, seed) for seed, size in enumerate(SIZES[:8] * 4))]
    for array, data in arrays:
        np.testing.assert_array_equal(array.copy_to_host(), data)


def test_the_host_may_reuse_its_memory_at_once(client):
    source = np.empty(3 * CHUNK_SIZE + 5, np.uint8)
    arrays = []
    for value in range(4):
        source[:] = value
        arrays.append(client.device_array(source.size, np.uint8))
        arrays[-1].copy_to_device(source)
    for value, array in enumerate(arrays):
        assert (array.copy_to_host() == value).all()


def test_fresh_memory_reads_as_zeros(client):
    assert not client.device_array(5 * MIB + 3, np.uint8).copy_to_host().any()


def test_a_later_session_does_not_see_what_an_earlier_one_left(client, place):
    with connect(place.address, memory="32MiB") as earlier:
        earlier.device_array(24 * MIB, np.uint8).fill(0xEE)
        earlier.synchronize()
    assert not client.device_array(48 * MIB, np.uint8).copy_to_host().any()


@pytest.mark.parametrize(
    "value", [np.uint8(7), np.uint16(0x1234), np.float32(1.5), np.float64(-0.1), np.complex128(1 + 2j)]
)
@pytest.mark.parametrize("count", [1, 1000, MIB + 1])
def test_fill(client, value, count):
    array = client.to_device(np.zeros(count + 2, value.dtype))
    array[1:-1].fill(value)
    host = array.copy_to_host()
    assert (host[1:-1] == value).all() and host[0] == host[-1] == 0


@pytest.mark.parametrize(("target", "source"), [(0, 1), (1, 0), (5 * MIB, 0), (0, 5 * MIB), (3, 3)])
def test_copies_on_the_device_that_overlap_behave_as_memmove(client, target, source):
    size, expected = 9 * MIB + 1, noise(15 * MIB)
    array = client.to_device(expected)
    array[target : target + size].copy_to_device(array[source : source + size])
    expected[target : target + size] = expected[source : source + size].copy()
    np.testing.assert_array_equal(array.copy_to_host(), expected)


def test_freed_memory(client):
    array = client.to_device(noise(100))
    address = array.address
    array.free()
    with pytest.raises(InvalidAddressError):
        array.copy_to_host()
    with pytest.raises(InvalidAddressError):  # a client that does not look itself
        client.run(operations.read(client.core, 0, address, memoryview(bytearray(100))))
    assert client.echo(b"still here") == b"still here"


def test_beyond_the_lease(client):
    kept = client.to_device(noise(8 * MIB))
    with pytest.raises(DeviceMemoryError) as caught:
        client.device_array(60 * MIB, np.uint8).copy_to_host()
    assert caught.value.limit == 64 * MIB and caught.value.requested == 60 * MIB and caught.value.used >= 8 * MIB
    np.testing.assert_array_equal(kept.copy_to_host(), noise(8 * MIB))
    kept.free()
    assert client.device_array(60 * MIB, np.uint8).copy_to_host().size == 60 * MIB


def test_chunks_are_given_back_and_mapped_again(client):
    for seed in range(4):  # at changing places: idle chunks go, fresh ones come
        pieces = [client.to_device(noise(size, seed)) for size in ((8 + 5 * seed) * MIB, (50 - 5 * seed) * MIB)]
        for piece in pieces:
            np.testing.assert_array_equal(piece.copy_to_host(), noise(piece.size, seed))
        for piece in pieces[:: 1 if seed % 2 else -1]:
            piece.free()
