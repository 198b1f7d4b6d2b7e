"""More is leased than the GPU has: memory of sessions that are idle moves to the host and back, and nothing is lost."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from bitfusion.client.client import connect
from bitfusion.errors import CapacityError, DeviceMemoryError
from bitfusion.limits import MIB
from tests.appliance import Appliance
from tests.gpu.images import Adder

GPU = 64
"""MiB that it has."""


@pytest.fixture(scope="module")
def appliance(tmp_path_factory):
    options = ["--oversubscribe", "2.5"]
    with Appliance(f"virtual:1x{GPU}MiB", tmp_path_factory.mktemp("oversubscribed"), *options) as appliance:
        yield appliance


def lease(appliance, size):
    return connect(appliance.address, memory=f"{size}MiB", wait=0)


def test_idle_sessions_make_room_and_find_their_memory_again(appliance):
    clients = [lease(appliance, 50) for _ in range(3)]
    try:
        data = [np.random.default_rng(seed).integers(0, 2**32, 10 * MIB, np.uint32) for seed in range(3)]
        arrays = [client.to_device(values) for client, values in zip(clients, data, strict=True)]
        pointers = [array.address for array in arrays]
        for _ in range(2):
            for array, values in zip(arrays, data, strict=True):
                assert (array.copy_to_host() == values).all()
        adder = Adder(clients[0])
        adder(arrays[0], 1)
        assert (arrays[0].copy_to_host() == data[0] + np.uint32(1)).all()
        assert pointers == [array.address for array in arrays]
        assert appliance.wait_log("moved to the host") and appliance.wait_log("is back on the GPU")
    finally:
        for client in clients:
            client.close()


def test_busy_sessions_take_turns(appliance):
    """All work without a pause, each on memory that leaves no room for another."""
    rounds, failures = [0, 0], []
    until = time.monotonic() + 8

    def work(index):
        try:
            with lease(appliance, 60) as client:
                array, add = client.to_device(np.zeros(12 * MIB, np.uint32)), Adder(client)
                while time.monotonic() < until:
                    add(array, 1)
                    client.synchronize()
                    rounds[index] += 1
                assert (array.copy_to_host() == rounds[index]).all()
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and all(rounds), rounds


def test_the_sum_has_an_end_and_each_lease_its_own(appliance):
    with lease(appliance, 64) as one, lease(appliance, 64) as two:
        with pytest.raises(CapacityError):
            lease(appliance, 64)
        with pytest.raises(DeviceMemoryError, match="lease's"):
            one.to_device(np.ones(65 * MIB, np.uint8)).copy_to_host()
        assert two.memory_info().total == 64 * MIB


def test_what_a_dead_session_had_is_room_again(appliance):
    dead = lease(appliance, 60)
    dead.to_device(np.ones(50 * MIB, np.uint8))
    dead.synchronize()
    dead._transport.forget()  # hang up without a goodbye
    with lease(appliance, 60) as other:
        started = time.monotonic()
        assert other.to_device(np.ones(50 * MIB, np.uint8)).copy_to_host().all()
        assert time.monotonic() - started < 30
