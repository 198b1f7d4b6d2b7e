"""The context, bare device memory, and Numba's modules of the driver."""

from __future__ import annotations

import ctypes
import gc

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.cuda.cudadrv import devicearray, devices, driver, error, linkable_code, runtime
from bitfusion.errors import (
    BitfusionError,
    ConnectError,
    DeviceError,
    InvalidAddressError,
    InvalidValueError,
    KernelFaultError,
    UnsupportedError,
)

pytestmark = pytest.mark.usefixtures("client")


def test_the_context_is_one():
    context = cuda.current_context()
    assert context == devices.get_context() == cuda.gpus[0].get_primary_context() and len({context, context}) == 1
    context.push()
    context.pop()
    context.prepare_for_use()
    assert context.device is cuda.get_current_device() and context.memory_manager is context
    assert not context.can_access_peer(1)
    assert context.create_external_stream(int(context.create_stream())).external
    defaults = (context.get_default_stream, context.get_legacy_default_stream, context.get_per_thread_default_stream)
    assert [int(make()) for make in defaults] == [0, 1, 2]


def test_the_device_says_what_it_can():
    device = cuda.get_current_device()
    assert cuda.is_float16_supported() and device.supports_float16
    assert cuda.is_bfloat16_supported() == device.supports_bfloat16 == (device.compute_capability >= (8, 0))
    assert cuda.is_fp8_supported() == device.supports_fp8 == (device.compute_capability >= (8, 9))
    identity = device.get_device_identity()
    assert set(identity) == {"pci_domain_id", "pci_bus_id", "pci_device_id"}
    assert type(device).from_identity(identity) is device
    with pytest.raises(InvalidValueError, match="no leased GPU"):
        type(device).from_identity({})


def test_releases_can_be_put_off(client):
    gone = cuda.current_context().deallocations
    gone.clear()
    with cuda.defer_cleanup(), cuda.current_context().defer_cleanup():
        arrays = [cuda.device_array(4) for _ in range(3)]
        assert gone.is_disabled and not len(gone)
        del arrays
        gc.collect()
        gone.clear()
        cuda.synchronize()
        assert len(gone) == 3
    assert not gone.is_disabled
    gone.clear()
    assert not len(gone)


def test_bare_memory():
    context = cuda.current_context()
    memory = context.memalloc(64)
    assert memory.size == 64 == driver.device_memory_size(memory) and driver.is_device_memory(memory)
    assert isinstance(memory.device_ctypes_pointer, ctypes.c_size_t)
    assert (
        memory.device_pointer_value
        == int(memory)
        == driver.device_pointer(memory)
        == memory.device_ctypes_pointer.value
    )
    assert driver.device_ctypes_pointer(memory).value == int(memory)
    memory.memset(7)
    memory.view(8, 16).memset(0x109, 4)
    assert memory.own() is memory
    np.testing.assert_array_equal(cuda.as_cuda_array(memory).copy_to_host(), [7] * 8 + [9] * 4 + [7] * 52)
    part = memory.view(60)
    assert int(part) == int(memory) + 60 and part.size == 4
    with pytest.raises(InvalidValueError, match="bytes 60 to 65"):
        memory.view(60, 65)
    memory.free()
    with pytest.raises(InvalidAddressError):
        part.memset(0)


@pytest.mark.parametrize("stream", [False, True])
def test_copies_of_bytes(stream):
    stream = cuda.stream() if stream else 0
    source, target = np.arange(12, dtype=np.float32).reshape(3, 4, order="F"), np.zeros((3, 4), np.float32, order="F")
    memory, other = cuda.current_context().memalloc(48), cuda.device_array(12, np.float32)
    driver.host_to_device(memory, source, 48, stream)
    driver.device_to_device(other, memory, 48, stream)
    driver.device_to_host(target, other, 48, stream)
    np.testing.assert_array_equal(target, source)
    driver.device_memset(other, 0, 4, stream)
    assert other.copy_to_host(stream=stream)[:2].tolist() == [0, 1]
    text = (ctypes.c_char * 4)(*b"abcd")
    driver.host_to_device(memory, text, 4, stream)
    taken = bytearray(4)
    driver.device_to_host(taken, memory, 4, stream)
    assert taken == b"abcd"


def test_copies_that_do_not_fit():
    memory = cuda.current_context().memalloc(8)
    for wrong in (
        lambda: driver.device_memset(memory, 0, 9),
        lambda: driver.host_to_device(memory, np.zeros(9, np.uint8), 9),
        lambda: driver.device_to_host(np.zeros(9, np.uint8), memory, 9),
        lambda: driver.device_to_device(memory, memory, -1),
    ):
        with pytest.raises(InvalidValueError, match="do not fit"):
            wrong()
    with pytest.raises(ValueError, match="gaps"):
        driver.host_to_device(memory, np.zeros((4, 4), np.uint8)[:, 0], 4)
    with pytest.raises(TypeError, match="Not a CUDA memory object: ndarray"):
        driver.require_device_memory(np.zeros(3))


def test_host_memory_by_the_context():
    context = cuda.current_context()
    assert type(context.memhostalloc(16)) is np.ndarray
    for memory in (context.memhostalloc(32, mapped=True), context.memallocmanaged(32)):
        view = np.ndarray(8, np.uint32, memory)
        driver.device_memset(memory, 0xAB, 32)
        assert (view == 0xABABABAB).all()
        view.fill(3)
        back = np.empty_like(view)
        driver.device_to_host(back, memory, 32)
        assert back.tolist() == [3] * 8
    own = np.zeros(4)
    assert context.mempin(own, 0, 0) is own
    pinned = context.mempin(own, own.ctypes.data, own.nbytes, mapped=True)
    driver.device_memset(pinned, 0, 8)
    assert np.shares_memory(pinned, own)


def test_classes_for_isinstance():
    array = cuda.device_array(3)
    assert isinstance(array, devicearray.DeviceNDArray) and isinstance(array, devicearray.DeviceNDArrayBase)
    assert isinstance(cuda.mapped_array(2), devicearray.MappedNDArray)
    assert isinstance(cuda.managed_array(2), devicearray.ManagedNDArray)
    assert isinstance(cuda.stream(), driver.Stream) and isinstance(cuda.event(), driver.Event)
    assert isinstance(cuda.current_context(), driver.Context) and isinstance(cuda.gpus[0], driver.Device)
    assert cuda.devicearray is devicearray and cuda.driver is driver and cuda.devices.get_context is devices.get_context
    assert linkable_code.PTXSource is cuda.PTXSource


def test_what_asks_about_arrays():
    array, record = cuda.device_array((3, 4)), np.zeros(1, [("a", "i4"), ("b", "f8")])[0]
    devicearray.require_cuda_ndarray(array)
    devicearray.verify_cuda_ndarray_interface(array)
    assert devicearray.is_cuda_ndarray(array) and not devicearray.is_cuda_ndarray(np.zeros(3))
    assert devicearray.auto_device(array) == (array, False)
    made, new = devicearray.auto_device([1, 2, 3])
    assert new and made.copy_to_host().tolist() == [1, 2, 3]
    assert devicearray.from_array_like(np.zeros((2, 2))).shape == (2, 2)
    assert devicearray.from_array_like(np.zeros((2, 6)), gpu_data=array).shape == (2, 6)
    assert devicearray.from_record_like(record).dtype == record.dtype
    assert devicearray.is_contiguous(array) and not devicearray.is_contiguous(array[:, 1:])
    assert devicearray.is_contiguous(np.broadcast_to(np.zeros(4), (3, 4)))
    assert devicearray.array_core(np.broadcast_to(np.zeros(4), (3, 4))).shape == (4,)
    with pytest.raises(ValueError, match="require an cuda ndarray"):
        devicearray.verify_cuda_ndarray_interface(np.zeros(3))


def test_the_driver():
    assert driver.driver.is_available and driver.driver.initialization_error is None
    assert driver.driver.get_device_count() == 1 == len(driver.driver.list_devices())
    assert driver.driver.get_device() is cuda.gpus[0]
    assert runtime.runtime is cuda.runtime and cuda.runtime.is_supported_version() and cuda.is_supported_version()
    with cuda.profiling():
        cuda.profile_start()
        cuda.profile_stop()


def test_exceptions_catch_ours(fresh):
    assert issubclass(cuda.CudaSupportError, ConnectError) and error.CudaAPIError is driver.CudaAPIError is DeviceError

    @cuda.jit
    def outside(values):
        values[1 << 40] = 1

    outside[1, 1](cuda.device_array(1))
    with pytest.raises(driver.CudaAPIError) as caught:
        cuda.synchronize()
    assert isinstance(caught.value, KernelFaultError) and caught.value.name


def test_a_session_for_each_call():
    @cuda.require_context
    def work(x, *, y):
        """Adds."""
        return x + y

    assert work(1, y=2) == 3 and work.__doc__ == "Adds."


class Manager(cuda.HostOnlyCUDAMemoryManager, cuda.GetIpcHandleMixin):
    """A program may define one; using it is refused."""


@pytest.mark.parametrize(
    "use",
    [
        lambda: cuda.set_memory_manager(Manager),
        Manager,
        cuda.BaseCUDAMemoryManager,
        lambda: cuda.GetIpcHandleMixin().get_ipc_handle(None),
        lambda: cuda.IpcHandle(None, None, 4),
        lambda: cuda.open_ipc_array(b"", 4, "f4").__enter__(),
        lambda: cuda.device_array(3).get_ipc_handle(),
        cuda.MappedMemory,
        cuda.PinnedMemory,
        lambda: cuda.current_context().get_ipc_handle(None),
        lambda: cuda.current_context().open_ipc_handle(None, 0),
        lambda: cuda.current_context().enable_peer_access(None),
        lambda: cuda.current_context().create_module_ptx(""),
        lambda: cuda.current_context().create_module_image(""),
        lambda: cuda.current_context().unload_module(None),
    ],
)
def test_what_one_leased_gpu_does_not_have(use):
    with pytest.raises(UnsupportedError) as caught:
        use()
    assert isinstance(caught.value, NotImplementedError) and isinstance(caught.value, BitfusionError)
    assert len(caught.value.message) > 30


def test_modules_that_are_not_offered():
    for name in ("nvrtc", "nvvm"):
        with pytest.raises(AttributeError, match="not offered"):
            getattr(cuda.cudadrv, name)


def test_the_version_of_cuda(client):
    version = client.device.attributes["DRIVER_VERSION"]
    assert cuda.runtime.get_version() == runtime.get_version() == (version // 1000, version // 10 % 100)
    assert cuda.runtime.get_version() >= (12, 4)


def test_a_device_that_does_not_say_its_version(client, monkeypatch):
    monkeypatch.delitem(client.device.attributes, "DRIVER_VERSION")
    with pytest.raises(UnsupportedError):
        cuda.runtime.get_version()
