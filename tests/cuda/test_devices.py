"""A lease of several GPUs: each a device of ``cuda.gpus``, with a session of its own, selected by each thread for itself."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.client.control import open_control
from bitfusion.cuda import current
from bitfusion.errors import CapacityError, InvalidValueError
from tests.appliance import Appliance


@cuda.jit
def add(x, n):
    i = cuda.grid(1)
    if i < x.size:
        x[i] += n


@pytest.fixture(scope="module")
def appliance(tmp_path_factory):
    with Appliance("virtual:3x64MiB", tmp_path_factory.mktemp("devices")) as appliance:
        yield appliance


@pytest.fixture(params=["asked for", "named"])
def two(appliance, monkeypatch, request):
    """Two leased GPUs: asked for by the environment, or of a lease that it names."""
    monkeypatch.setenv("BITFUSION_SERVER", appliance.address)
    with open_control(appliance.address) as control:
        if request.param == "named":
            lease = control.request(gpus=2, memory="8MiB")
            monkeypatch.setenv("BITFUSION_LEASE", f"{lease.id}:{lease.key}")
        else:
            monkeypatch.setenv("BITFUSION_GPUS", "2")
            monkeypatch.setenv("BITFUSION_MEMORY", "8MiB")
        yield control
        cuda.close()
        assert control.health()["sessions"] == 0
        assert control.health()["leases"] == (request.param == "named")
        control.dealloc(everything=True)


def test_each_gpu_is_a_device(two):
    assert len(cuda.gpus) == 2 and [device.id for device in cuda.gpus] == [0, 1]
    assert len({device.uuid for device in cuda.gpus}) == 2 and cuda.gpus[-1].id == 1
    with pytest.raises(IndexError, match="numbered 0 to 1"):
        cuda.gpus[2]
    with pytest.raises(InvalidValueError, match="no device 2: this program has leased 2 GPUs, numbers 0 to 1"):
        cuda.select_device(2)


def test_all_are_detected_whichever_is_current(two, capsys):
    with cuda.gpus[1]:
        assert cuda.detect()
        assert cuda.get_current_device().id == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Found 2 CUDA devices" and lines[-1].strip() == "2/2 devices are supported"
    assert [line.split()[1] for line in lines if line.startswith("id ")] == ["0", "1"]
    assert [line.split()[-1] for line in lines if "UUID: " in line] == [device.uuid for device in cuda.gpus]


def test_what_is_made_belongs_to_the_current_device(two):
    first = cuda.to_device(np.zeros(100))
    with cuda.gpus[1]:
        assert cuda.get_current_device().id == 1
        second = cuda.to_device(np.ones(100))
        add[1, 128](second, 2)
    assert cuda.get_current_device().id == 0
    add[1, 128](first, 5)
    assert first.client is not second.client
    assert (first.copy_to_host() == 5).all() and (second.copy_to_host() == 3).all()
    assert (cuda.to_device(second).copy_to_host() == 3).all() and cuda.to_device(second).client is first.client
    assert cuda.select_device(1).id == cuda.current_context().device.id == 1
    assert cuda.current_context().get_memory_info().total == 8 << 20


def test_each_thread_has_its_own_current_device(two):
    cuda.select_device(1)
    found = {}

    def work(number: int) -> None:
        before = cuda.get_current_device().id
        cuda.select_device(number)
        array = cuda.to_device(np.full(1000, number))
        for _ in range(20):
            add[8, 128](array, 1)
        found[number] = before, cuda.get_current_device().id, array.copy_to_host().tolist() == [number + 20] * 1000

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: (0, 0, True), 1: (0, 1, True)} and cuda.get_current_device().id == 1


def test_more_than_there_are(appliance, monkeypatch):
    monkeypatch.setenv("BITFUSION_SERVER", appliance.address)
    monkeypatch.setenv("BITFUSION_GPUS", "4")
    with pytest.raises(CapacityError, match="4"):
        cuda.to_device(np.zeros(1))
    assert current.client is None


def test_a_program_that_is_to_see_one_gpu_of_its_lease(two, appliance, monkeypatch):
    lease = two.request(gpus=2, memory="2MiB")
    monkeypatch.setenv("BITFUSION_LEASE", f"{lease.id}:{lease.key}")
    monkeypatch.setenv("BITFUSION_GPU", "1")
    monkeypatch.delenv("BITFUSION_GPUS", raising=False)
    assert len(cuda.gpus) == 1 and cuda.gpus[0].uuid == lease.gpus[1].uuid
    cuda.close()
    two.release(lease.id, lease.key)


def test_on_a_private_appliance(monkeypatch):
    monkeypatch.delenv("BITFUSION_SERVER", raising=False)
    monkeypatch.setenv("BITFUSION_DEVICES", "virtual:2x64MiB")
    monkeypatch.setenv("BITFUSION_GPUS", "2")
    with cuda.gpus[1]:
        array = cuda.to_device(np.zeros(10))
        add[1, 32](array, 1)
        assert array.copy_to_host().tolist() == [1] * 10
    cuda.close()
