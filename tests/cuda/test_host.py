"""The host side of ``bitfusion.cuda``: memory, streams, events, devices."""

from __future__ import annotations

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.errors import InvalidValueError, UnsupportedError

pytestmark = pytest.mark.usefixtures("client")


def test_to_device():
    host = np.arange(6, dtype=np.float32).reshape(2, 3)
    array = cuda.to_device(host)
    np.testing.assert_array_equal(array.copy_to_host(), host)
    assert cuda.to_device(array) is array
    into = cuda.device_array_like(host)
    assert cuda.to_device(host, to=into) is into
    np.testing.assert_array_equal(into.copy_to_host(), host)
    assert cuda.to_device(host, copy=False).shape == (2, 3)
    assert cuda.to_device(np.zeros_like(host), to=into, copy=False) is into
    np.testing.assert_array_equal(into.copy_to_host(), host)
    assert cuda.to_device([1, 2, 3]).copy_to_host().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "host", [np.zeros((3, 4)), np.zeros((3, 4), order="F"), np.zeros((4, 3, 2)).transpose(1, 0, 2)]
)
def test_arrays_like_others_lie_like_them(host):
    assert cuda.device_array_like(host).strides == np.empty_like(host).strides
    assert cuda.device_array_like(cuda.to_device(host)).shape == host.shape
    assert cuda.pinned_array_like(host).strides == np.empty_like(host).strides


def test_pinned_memory_is_host_memory():
    array = cuda.pinned_array((3, 4), np.int16, order="F")
    array[...] = 7
    assert array.flags.f_contiguous and array.shape == (3, 4)
    with cuda.pinned(array, np.zeros(3)), cuda.defer_cleanup():
        np.testing.assert_array_equal(cuda.to_device(array).copy_to_host(), array)


@pytest.mark.parametrize("part", [np.s_[:], np.s_[::2, ::2], np.s_[::-1], np.s_[1, :, ::3], np.s_[3:3]])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_like_device_arrays_lie_like_them(part, order):
    host = np.zeros((4, 6, 5), np.int16, order)[part]
    device = cuda.device_array((4, 6, 5), np.int16, order=order)[part]
    expected = np.empty_like(host)
    for like in (cuda.device_array_like(device), cuda.pinned_array_like(device)):
        assert (like.shape, like.dtype) == (expected.shape, expected.dtype)
        assert like.strides == expected.strides or not expected.size


def test_an_object_may_have_an_interface_of_its_own():
    class Tensor:
        """Like tensors that have the attribute in their class, and raise where they are not on a GPU."""

        def __init__(self, held):
            self._held = held

        @property
        def __cuda_array_interface__(self):
            if self._held is None:
                raise AttributeError("on the host")
            return self._held.__cuda_array_interface__

    device = cuda.to_device(np.arange(5))
    holder = type("Plain", (), {})()
    holder.__cuda_array_interface__ = device.__cuda_array_interface__
    for given in (holder, Tensor(device)):
        assert cuda.is_cuda_array(given)
        np.testing.assert_array_equal(cuda.as_cuda_array(given).copy_to_host(), np.arange(5))
    assert not cuda.is_cuda_array(Tensor(None))


class Holder:
    """Somebody else's view of device memory."""

    def __init__(self, array, **changes):
        self.array = array
        self.changes = changes

    @property
    def __cuda_array_interface__(self):
        return {**self.array.__cuda_array_interface__, **self.changes}


def test_the_cuda_array_interface():
    array = cuda.to_device(np.arange(12, dtype=np.int32).reshape(3, 4))
    assert cuda.is_cuda_array(array) and cuda.as_cuda_array(array) is array
    view = cuda.as_cuda_array(Holder(array[:, ::2]))
    np.testing.assert_array_equal(view.copy_to_host(), [[0, 2], [4, 6], [8, 10]])
    held = cuda.as_cuda_array(Holder(cuda.to_device(np.arange(3))))
    np.testing.assert_array_equal(held.copy_to_host(), [0, 1, 2])  # the view keeps the memory alive

    @cuda.jit
    def double(values):
        values[cuda.grid(1), 0] *= 2

    double[1, 3](Holder(array))
    assert array.copy_to_host()[:, 0].tolist() == [0, 8, 16]


def test_what_is_not_the_leased_gpus_memory():
    array = cuda.device_array(4)
    assert not cuda.is_cuda_array(np.zeros(3)) and not cuda.is_cuda_array(3)
    with pytest.raises(TypeError, match="no __cuda_array_interface__"):
        cuda.as_cuda_array([1])
    with pytest.raises(UnsupportedError, match="not the leased GPU's"):
        cuda.as_cuda_array(Holder(array, data=(0x7F00_0000_0000, False)))
    with pytest.raises(UnsupportedError, match="Masked arrays"):
        cuda.as_cuda_array(Holder(array, mask=array))


def test_streams_and_events():
    stream, start, end = cuda.stream(), cuda.event(), cuda.event(timing=True)
    start.record(stream)
    array = cuda.to_device(np.zeros(1000), stream=stream)
    end.record(stream)
    end.synchronize()
    assert cuda.event_elapsed_time(start, end) >= 0
    assert end.query() and stream.query()
    with stream.auto_synchronize():
        array.copy_to_device(np.ones(1000), stream=stream)
    cuda.synchronize()


def test_the_device():
    device = cuda.get_current_device()
    assert device.name == "Virtual GPU"
    assert device.compute_capability >= (5, 0)
    assert (device.WARP_SIZE, device.MAX_THREADS_PER_BLOCK) == (32, 1024)
    assert device.attributes["WARP_SIZE"] == 32
    assert cuda.select_device(0) is device is cuda.gpus[0] is cuda.gpus.current
    assert len(cuda.gpus) == 1 and list(cuda.gpus) == cuda.gpus.lst == list(cuda.list_devices())
    with cuda.gpus[0] as entered:
        assert entered.id == 0 and entered.uuid
    for wrong in (lambda: device.NO_SUCH_LIMIT, lambda: device.colour):
        with pytest.raises(AttributeError):
            wrong()
    with pytest.raises(InvalidValueError, match="number 0"):
        cuda.select_device(1)
    with pytest.raises(IndexError):
        cuda.gpus[1]


def test_the_context(client):
    context = cuda.current_context()
    free, total = context.get_memory_info()
    assert total == client.welcome.memory_limit == 128 << 20
    array = cuda.device_array(1 << 20, np.uint8)
    assert context.get_memory_info().free <= free
    assert context.device is cuda.get_current_device()
    context.create_event().record(context.create_stream())
    context.synchronize()
    del array


def test_detect(capsys):
    assert cuda.is_available() and cuda.cuda_error() is None
    assert cuda.detect()
    out = capsys.readouterr().out
    assert "Found 1 CUDA devices" in out and "Virtual GPU" in out and "128 MiB" in out
