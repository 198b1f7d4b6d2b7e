"""What a program does wrong is an error of its own session, and only there."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from bitfusion.errors import DeviceError, InvalidValueError, KernelFaultError, LaunchError
from tests.gpu.images import ADD, FAULT, Adder


def test_an_illegal_address_poisons_its_session_and_only_it(client, other):
    kept = other.to_device(np.arange(1000, dtype=np.uint32))
    client.load_module(FAULT).function("fault").launch(1, 1, b"")
    for _ in range(3):
        with pytest.raises(KernelFaultError) as caught:
            client.synchronize()
        assert caught.value.cuda_name == "CUDA_ERROR_ILLEGAL_ADDRESS"
    with pytest.raises(KernelFaultError):
        client.to_device(np.ones(10)).copy_to_host()
    Adder(other)(kept, 5)
    np.testing.assert_array_equal(kept.copy_to_host(), np.arange(5, 1005))


def test_the_gpu_serves_others_after_a_fault(client, other):
    client.load_module(FAULT).function("fault").launch(1, 1, b"")
    with pytest.raises(KernelFaultError):
        client.synchronize()
    client.close()
    assert (other.to_device(np.ones(100)).copy_to_host() == 1).all()


@pytest.mark.parametrize(
    ("grid", "block", "shared_size"),
    [(1, 1025, 0), (1, (32, 32, 2), 0), ((1, 65536, 1), 1, 0), (1, 1, 1 << 20), (1, 1, (1 << 31) + 5)],
)
def test_a_launch_that_does_not_fit(client, grid, block, shared_size):
    add, array = Adder(client), client.to_device(np.zeros(10, np.uint32))
    add.function.launch(grid, block, struct.pack("<QII", array.address, 10, 1), 0, shared_size)
    add(array, 3)  # skipped, as what follows a failure is
    with pytest.raises(LaunchError) as caught:
        client.synchronize()
    assert "add" in caught.value.message or "add" in (caught.value.operation or "")
    add(array, 4)
    assert (array.copy_to_host() == 4).all()


def test_arguments_of_another_size(client):
    add = Adder(client)
    with pytest.raises(LaunchError, match="takes 16 bytes"):
        add.function.launch(1, 1, bytes(15))


def test_shared_memory_beyond_the_default(client):
    add, array = Adder(client), client.to_device(np.zeros(10, np.uint32))
    add.function.launch(1, 32, struct.pack("<QII", array.address, 10, 1), 0, 64 * 1024)
    assert (array.copy_to_host() == 1).all()


def test_what_the_image_does_not_have(client):
    with pytest.raises(InvalidValueError, match="nothing_like_it"):
        client.load_module(ADD).function("nothing_like_it")


@pytest.mark.parametrize("image", [b"no PTX at all", ADD.replace(b".version", b".verion")])
def test_what_is_no_image(client, image):
    with pytest.raises(DeviceError) as caught:
        client.load_module(image).function("add")
    assert len(caught.value.message) > 20
    Adder(client)


def test_ptx_newer_than_the_driver(client):
    """The double knows PTX up to 8: nvJitLink assembles the rest, as on a driver of an older minor release."""
    array = client.to_device(np.zeros(10, np.uint32))
    function = client.load_module(ADD.replace(b".version 7.0", b".version 9.0")).function("add")
    function.launch(1, 32, struct.pack("<QII", array.address, 10, 3))
    assert (array.copy_to_host() == 3).all()


WAIT = b"""
    mov.u32 %r1, %envreg2;
    ld.param.u64 %rd1, [address];
AGAIN:
    ld.volatile.global.u32 %r2, [%rd1];
    setp.eq.u32 %p1, %r2, 4294967295;
    @%p1 bra AGAIN;
    ld.param.u32 %r1, [count];"""

COOPERATIVE = ADD.replace(b"ld.param.u32 %r1, [count];", WAIT)
"""Asks for the grid's workspace, as what nvcc makes of ``grid.sync()`` does, and waits for what others write."""


def test_a_grid_whose_blocks_wait_for_each_other(client):
    array = client.to_device(np.zeros(64, np.uint32))
    function = client.load_module(COOPERATIVE).function("add")
    arguments = struct.pack("<QII", array.address, 64, 3)
    held = function.resident_blocks(1024)
    function.launch(held, 1024, arguments)
    assert (array.copy_to_host() == 3).all()
    function.launch(held + 1, 1024, arguments)
    with pytest.raises(
        LaunchError, match=f"waits for all {held + 1} blocks of its grid, and the device runs {held} of"
    ) as caught:
        client.synchronize()
    assert caught.value.cuda_name == "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE"
    assert function.resident_blocks(1025) == function.resident_blocks(0) == function.resident_blocks(32, 2**31 - 1) == 0
    with pytest.raises(InvalidValueError, match="-1 bytes"):
        function.resident_blocks(32, -1)


def test_what_functions_say_about_themselves(client):
    info = Adder(client).function.info
    assert (info.name, info.arguments_size) == ("add", 16)
    assert info.parameters == ((0, 8), (8, 4), (12, 4)) and info.threads_max == 1024
