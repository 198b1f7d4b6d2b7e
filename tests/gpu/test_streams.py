"""Streams and events: order within a stream, between streams, and times on the device."""

from __future__ import annotations

import time

import numpy as np
import pytest

from bitfusion.errors import InvalidHandleError
from bitfusion.limits import MIB
from tests.gpu.images import Adder

COUNT = 5000


@pytest.fixture
def add(client):
    return Adder(client)


def numbers(start=0):
    return np.arange(start, start + COUNT, dtype=np.uint32)


def test_a_stream_is_in_order(client, add):
    stream = client.stream()
    array = client.to_device(numbers(), stream=stream)
    for value in range(1, 11):
        add(array, value, stream)
    array.copy_to_device(numbers(7), stream=stream)
    add(array, 3, stream)
    np.testing.assert_array_equal(array.copy_to_host(stream=stream), numbers(10))


def test_arguments_are_taken_when_a_launch_is_posted(client, add):
    arrays = [client.to_device(numbers()) for _ in range(40)]
    for value, array in enumerate(arrays):
        add(array, value)
    for value, array in enumerate(arrays):
        np.testing.assert_array_equal(array.copy_to_host(), numbers(value))


def test_an_event_orders_two_streams(client, add):
    first, second = client.stream(), client.stream()
    source, target = client.to_device(numbers()), client.to_device(numbers())
    event = client.event(timing=False)
    client.synchronize()
    for _ in range(100):
        add(source, 1, first)
    event.record(first)
    event.wait(second)
    target.copy_to_device(source, stream=second)
    np.testing.assert_array_equal(target.copy_to_host(stream=second), numbers(100))


def test_the_default_stream_waits_for_the_others_and_they_for_it(client, add):
    array, streams = client.to_device(numbers()), [client.stream() for _ in range(3)]
    for stream in streams:
        add(array, 1, stream)
        add(array, 10)
    np.testing.assert_array_equal(array.copy_to_host(stream=streams[0]), numbers(33))


def test_an_event_never_recorded_has_come(client):
    event, stream = client.event(), client.stream()
    assert event.query()
    event.synchronize()
    event.wait(stream)
    stream.synchronize()


def test_times_between_events(client, add):
    start, middle, end = client.event(), client.event(), client.event()
    array = client.to_device(numbers())
    start.record()
    add(array, 1)
    middle.record()
    for _ in range(50):
        add(array, 1)
    end.record()
    assert 0 <= start.elapsed_time(middle) <= start.elapsed_time(end) < 60_000
    np.testing.assert_array_equal(array.copy_to_host(), numbers(51))


def test_times_need_two_records_with_timing(client):
    recorded, never, untimed = client.event(), client.event(), client.event(timing=False)
    recorded.record()
    untimed.record()
    for event in never, untimed:
        with pytest.raises(InvalidHandleError):
            recorded.elapsed_time(event)
    assert recorded.elapsed_time(recorded) == 0


def test_queries_come_true(client, add):
    stream, event = client.stream(), client.event()
    array = client.to_device(numbers(), stream=stream)
    add(array, 1, stream)
    event.record(stream)
    deadline = time.monotonic() + 30
    while not (event.query() and stream.query()):
        assert time.monotonic() < deadline
    np.testing.assert_array_equal(array.copy_to_host(), numbers(1))


def test_small_copies_and_kernels_on_several_streams(client, add):
    """More copies in flight than the staging ring has slots, on streams that do not wait for each other."""
    streams = [client.stream() for _ in range(4)]
    arrays = [client.device_array(COUNT, np.uint32) for _ in range(200)]
    client.synchronize()
    source = np.empty(COUNT // 2, np.uint32)
    for index, array in enumerate(arrays):
        stream = streams[index % 4]
        for half in array[: COUNT // 2], array[COUNT // 2 :]:
            source[:] = index
            half.copy_to_device(source, stream=stream)
        add(array, 1, stream)
    for index, array in enumerate(arrays):
        assert (array.copy_to_host(stream=streams[index % 4]) == index + 1).all()


def test_large_copies_on_several_streams(client, add):
    streams = [client.stream() for _ in range(3)]
    arrays = [client.to_device(np.full(1_500_000, index, np.uint32), streams[index % 3]) for index in range(6)]
    for index, array in enumerate(arrays):
        add(array, 5, streams[index % 3])
    for index, array in reversed(list(enumerate(arrays))):
        assert (array.copy_to_host(stream=streams[index % 3]) == index + 5).all()


def test_memory_freed_under_work_is_not_given_to_others_before_it_is_done(client, add):
    first, second = client.stream(), client.stream()
    source = client.to_device(numbers())
    array = client.device_array(COUNT, np.uint32)
    address = array.address
    client.synchronize()
    for _ in range(50):
        add(array, 1, first)
    array.copy_to_device(source, stream=first)
    add(array, 1, first)
    array.free()
    again = client.device_array(COUNT, np.uint32)
    assert again.address == address, "the test is about memory that is used again"
    again.copy_to_device(numbers(9), stream=second)
    second.synchronize()
    client.synchronize()
    np.testing.assert_array_equal(again.copy_to_host(), numbers(9))


def test_memory_is_given_back_only_when_its_work_is_done(client, add):
    stream = client.stream()
    array = client.to_device(np.zeros(20 * MIB // 4, np.uint32))
    kept = client.to_device(numbers())
    add(array, 1, stream)
    array.free()
    assert not client.device_array(50 * MIB, np.uint8).copy_to_host()[-30 * MIB :].any()  # has no room beside it
    np.testing.assert_array_equal(kept.copy_to_host(), numbers())


def test_a_stream_destroyed_under_work(client, add):
    array = client.to_device(numbers())
    client.synchronize()
    stream = client.stream()
    for _ in range(50):
        add(array, 2, stream)
    del stream
    np.testing.assert_array_equal(array.copy_to_host(), numbers(100))


def test_a_function_dropped_under_work(client):
    array = client.to_device(numbers())
    add = Adder(client)
    for _ in range(50):
        add(array, 2)
    del add
    np.testing.assert_array_equal(array.copy_to_host(), numbers(100))
