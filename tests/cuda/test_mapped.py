"""Mapped and managed arrays: host arrays that kernels take, and when their content moves."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.cuda.mapped import ManagedArray, MappedArray
from bitfusion.errors import BitfusionError
from bitfusion.wire.operations import Opcode

pytestmark = pytest.mark.usefixtures("client")


@cuda.jit
def add_one(values):
    i = cuda.grid(1)
    if i < values.size:
        values[i] += 1


WAITS = {
    "cuda.synchronize": lambda stream, event: cuda.synchronize(),
    "context": lambda stream, event: cuda.current_context().synchronize(),
    "stream": lambda stream, event: stream.synchronize(),
    "default stream": lambda stream, event: cuda.default_stream().synchronize(),
    "event": lambda stream, event: event.synchronize(),
    "a copy to the host": lambda stream, event: cuda.device_array(1).copy_to_host(),
}


@pytest.mark.parametrize("make", [cuda.mapped_array, cuda.managed_array])
@pytest.mark.parametrize("wait", WAITS)
def test_the_content_follows(make, wait):
    array, stream, event = make(10, np.int32), cuda.stream(), cuda.event()
    array[:] = range(10)
    for times in (1, 2):
        add_one[1, 10, stream](array)
        add_one[1, 10, stream](array)  # the content stays on the device from one launch to the next
        event.record(stream)
        assert array._mirror.is_away
        WAITS[wait](stream, event)
        assert not array._mirror.is_away
        assert array.tolist() == [i + 2 * times for i in range(10)]
    array[0] = 100
    add_one[1, 10, stream](array)
    WAITS[wait](stream, event)
    assert array[0] == 101


def test_asking_whether_it_is_done_is_a_wait_too():
    for ask in (lambda stream, event: stream.query(), lambda stream, event: event.query()):
        array, stream, event = cuda.mapped_array(4), cuda.stream(), cuda.event()
        array.fill(0)
        add_one[1, 4, stream](array)
        event.record(stream)
        while not ask(stream, event):
            pass
        assert array.tolist() == [1] * 4


def test_they_are_numpys_arrays():
    array = cuda.mapped_array((3, 4), np.float32, order="F", portable=True, wc=True)
    array[...] = 2
    assert isinstance(array, np.ndarray) and isinstance(array, MappedArray)
    assert isinstance(cuda.managed_array(3, attach_global=False), ManagedArray)
    assert array.is_f_contiguous() and not array.is_c_contiguous()
    assert (array + 1).sum() == 36 and (array * array == 4).all()
    like = cuda.mapped_array_like(array[::2])
    assert (like.shape, like.strides) == ((2, 4), (4, 8))


def test_views_are_mapped_and_results_are_not():
    array = cuda.mapped_array(10, np.int64)
    array[:] = 0
    add_one[1, 16](array[2:8:2])
    add_one[1, 16](array[::-1][:1])
    cuda.synchronize()
    assert array.tolist() == [0, 0, 1, 0, 1, 0, 1, 0, 0, 1]
    computed = array + 1
    assert computed.mirror is None and not cuda.is_cuda_array(np.asarray(array))
    add_one[1, 16](computed)  # a host array like any other: copied in and back
    assert computed.tolist() == [2, 2, 3, 2, 3, 2, 3, 2, 2, 3]
    with pytest.raises(ValueError, match="computed from a mapped array"):
        computed.copy_to_host()


def test_of_the_device_array_they_have_what_numba_has():
    array = cuda.mapped_array((2, 3), np.int32)
    array[...] = 7
    assert (array.copy_to_host() == 7).all() and array.alloc_size == 24
    array.copy_to_device(np.ones((2, 3), np.int32))
    cuda.synchronize()
    assert (array == 1).all()
    stream = cuda.stream()
    interface = array.bind(stream).__cuda_array_interface__
    assert interface["shape"] == (2, 3) and interface["stream"] == int(stream)
    assert interface["data"][0] == array.device_ctypes_pointer.value
    assert array.__cuda_array_interface__["stream"] is None
    seen = cuda.as_cuda_array(array)
    seen.fill(5)
    cuda.synchronize()
    assert (array == 5).all()


def test_mapping_host_arrays_for_a_block():
    first, second = np.arange(8.0), np.zeros((4, 4))
    with cuda.mapped(first) as array:
        add_one[1, 8](array)
        cuda.synchronize()
        assert first[0] == 1
        first[0] = 10
        add_one[1, 8](array)
    assert first.tolist() == [11, *range(3, 10)]
    with cuda.mapped(first, second[:, 1], stream=cuda.stream()) as (one, two):
        add_one[1, 8](two)
        assert not one._mirror.is_away
    assert second[:, 1].tolist() == [1] * 4 and second.sum() == 4
    with pytest.raises(ValueError, match="read-only"), cuda.mapped(np.broadcast_to(1.0, 3)):
        pass


def test_ufuncs_take_them():
    @cuda.vectorize("float64(float64)")
    def double(x):
        return 2 * x

    array = cuda.mapped_array(4)
    array[:] = range(4)
    assert double(array).copy_to_host().tolist() == [0, 2, 4, 6]


class Waiting:
    """A device array that lets another thread wait for the device when a launch asks for its address."""

    def __init__(self, client):
        self.array, self.client = cuda.device_array(1), client

    @property
    def __cuda_array_interface__(self):
        waiter = threading.Thread(target=self.client.synchronize)
        waiter.start()
        waiter.join()
        return self.array.__cuda_array_interface__


def test_a_wait_by_another_thread_during_a_launch_does_not_lose_its_content(client):
    @cuda.jit
    def add(values, other):
        values[cuda.grid(1)] += 1

    array = cuda.mapped_array(4, np.int32)
    array.fill(0)
    add[1, 4](array, Waiting(client))
    cuda.synchronize()
    assert array.tolist() == [1] * 4


def test_threads_that_launch_and_wait_lose_nothing(client):
    array, started = cuda.mapped_array(4, np.int32), threading.Barrier(3)
    array.fill(0)

    def launch():
        started.wait()
        for _ in range(60):
            add_one[1, 4](array)
            cuda.synchronize()

    threads = [threading.Thread(target=launch) for _ in range(2)]
    for thread in threads:
        thread.start()
    started.wait()
    for thread in threads:
        thread.join()
    assert array.tolist() == [120] * 4


def test_after_work_in_several_streams_the_content_waits_for_all_of_it():
    array, streams = cuda.mapped_array(8, np.int32), (cuda.stream(), cuda.stream())
    array.fill(0)
    for stream, part in zip(streams, (array[:4], array[4:]), strict=True):
        add_one[1, 4, stream](part)
    assert array._mirror._stream == 0  # whose work comes after that of all other streams
    streams[1].synchronize()
    assert array.tolist() == [1] * 8


def test_the_memory_goes_with_them():
    array = cuda.mapped_array(1 << 20, np.uint8)
    mirror = weakref.ref(array._mirror)
    view, computed = array[1:], array[:4] + 1
    del array
    gc.collect()
    assert mirror() is not None
    del view
    gc.collect()
    assert mirror() is None and computed.size == 4


def test_what_was_dropped_is_not_brought_back(client):
    array = cuda.mapped_array(4)
    add_one[1, 4](array)
    del array
    gc.collect()
    assert not client.mirrors
    cuda.synchronize()


def test_content_whose_way_back_fails_comes_with_the_next_wait():
    array = cuda.mapped_array(4, np.int32)
    array.fill(0)
    add_one[1, 4](array)
    core = cuda.to_device(array).client.core
    core.session.post(Opcode.RELEASE, 0, 1)  # an address of nothing: the next call says so
    with pytest.raises(BitfusionError):
        array._mirror.fetch()
    assert array._mirror.is_away
    cuda.synchronize()
    assert array.tolist() == [1] * 4
