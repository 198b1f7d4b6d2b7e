"""Streams by all their names, and what is called when they are done."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.errors import KernelFaultError, UnsupportedError

pytestmark = pytest.mark.usefixtures("client")

TIMEOUT_S = 30


@cuda.jit
def add_one(values):
    i = cuda.grid(1)
    if i < values.size:
        values[i] += 1


@pytest.mark.parametrize(
    ("make", "number", "shown"),
    [
        (cuda.default_stream, 0, "<Default CUDA stream>"),
        (cuda.legacy_default_stream, 1, "<Legacy default CUDA stream>"),
        (cuda.per_thread_default_stream, 2, "<Per-thread default CUDA stream>"),
    ],
)
def test_default_streams(make, number, shown):
    stream = make()
    assert (int(stream), repr(stream), stream.__cuda_stream__()) == (number, shown, (0, number))
    assert stream and not stream.external
    values = cuda.to_device(np.zeros(4), stream)
    add_one[1, 4, stream](values)
    stream.synchronize()
    assert values.copy_to_host(stream=stream).tolist() == [1] * 4
    assert values.__cuda_array_interface__["stream"] == max(number, 1)


def test_a_stream_of_each_thread():
    found = {}

    def look(name):
        found[name] = cuda.per_thread_default_stream()

    threads = [threading.Thread(target=look, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    mine = cuda.per_thread_default_stream()
    assert len({mine.number, found["a"].number, found["b"].number}) == 3
    assert cuda.per_thread_default_stream().number == mine.number


def test_external_streams_are_ours_by_number():
    stream = cuda.stream()
    found = cuda.external_stream(int(stream))
    assert found.external and found.number == stream.number and repr(found) == f"<External CUDA stream {int(stream)}>"
    assert cuda.external_stream(2).number == cuda.per_thread_default_stream().number
    assert cuda.external_stream(1).number == 0
    with pytest.raises(UnsupportedError, match="0x12345678 is none of this session's"):
        cuda.external_stream(0x12345678)


class Holder:
    """Somebody else's view of device memory."""

    def __init__(self, array):
        self.__cuda_array_interface__ = array.__cuda_array_interface__


def test_the_array_interface_carries_streams(monkeypatch):
    waits = []
    synchronize = cuda.Stream.synchronize
    monkeypatch.setattr(cuda.Stream, "synchronize", lambda self: (waits.append(int(self)), synchronize(self))[1])
    stream = cuda.stream()
    bound, plain = cuda.device_array(4, stream=stream), cuda.device_array(4)
    assert bound.__cuda_array_interface__["stream"] == int(stream) == int(stream.handle)
    assert plain.__cuda_array_interface__["stream"] is None
    assert cuda.as_cuda_array(Holder(plain)).stream == 0 and not waits
    taken = cuda.as_cuda_array(Holder(bound))
    assert taken.stream.external and int(taken.stream) == int(stream) and waits == [int(stream)]
    cuda.as_cuda_array(Holder(bound), sync=False)
    monkeypatch.setenv("NUMBA_CUDA_ARRAY_INTERFACE_SYNC", "0")
    cuda.as_cuda_array(Holder(bound))
    assert len(waits) == 1


def test_callbacks():
    stream, done, called = cuda.stream(), threading.Event(), []
    values = cuda.mapped_array(4)
    values.fill(0)
    add_one[1, 4, stream](values)

    def callback(*arguments):
        called.append((*arguments, values.tolist()))
        if len(called) == 3:
            done.set()

    stream.add_callback(callback, "first")
    stream.add_callback(callback)
    stream.add_callback(callback, "third")
    assert done.wait(TIMEOUT_S)
    assert [(status, argument) for _, status, argument, _ in called] == [(0, "first"), (0, None), (0, "third")]
    assert all(given is stream and seen == [1] * 4 for given, *_, seen in called)


@pytest.mark.filterwarnings("default")
def test_what_a_callback_raises_is_a_warning(recwarn):
    stream, done = cuda.stream(), threading.Event()

    def wrong(stream, status, arg):
        raise RuntimeError("mine")

    stream.add_callback(wrong)
    stream.add_callback(lambda stream, status, arg: done.set())
    assert done.wait(TIMEOUT_S)
    assert "Exception in stream callback: mine" in [str(item.message) for item in recwarn]


async def test_async_done():
    async def work(value):
        stream = cuda.stream()
        source, target = cuda.pinned_array(8), cuda.pinned_array(8)
        source[:] = value
        device = cuda.to_device(source, stream=stream)
        add_one[1, 8, stream](device)
        device.copy_to_host(target, stream=stream)
        assert await stream.async_done() is stream
        return target.mean()

    assert await asyncio.gather(*map(work, range(4))) == [1, 2, 3, 4]


async def test_async_done_can_be_cancelled():
    stream = cuda.stream()
    first, second = stream.async_done(), stream.async_done()
    first.cancel()
    assert await second is stream
    assert first.cancelled()


async def test_failures_reach_those_who_wait(fresh):
    @cuda.jit
    def outside(values):
        values[1 << 40] = 1

    stream, statuses, done = cuda.stream(), [], threading.Event()
    outside[1, 1, stream](cuda.device_array(1))
    with pytest.raises(KernelFaultError):
        await stream.async_done()
    with pytest.raises(KernelFaultError):
        stream.add_callback(lambda stream, status, arg: (statuses.append(status), done.set()))
        cuda.synchronize()
    assert done.wait(TIMEOUT_S) and statuses == [999]
