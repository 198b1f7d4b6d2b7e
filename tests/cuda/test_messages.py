"""What a user reads: one traceback for one mistake, the kernel's name, and what is not offered."""

from __future__ import annotations

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.cuda import current
from bitfusion.errors import CapacityError, DeviceMemoryError, KernelTypeError

pytestmark = pytest.mark.usefixtures("client")


@cuda.jit
def scale(values, factor):
    values[cuda.grid(1)] *= factor


@pytest.mark.parametrize("configuration", [(0, 16), (-1, 16), 16, (16 / 4, 16), (1, 2, 3, 4, 5), ([0], 1)], ids=repr)
def test_a_configuration_that_is_none_is_told_once(configuration):
    with pytest.raises(Exception) as caught:  # which one, other tests say
        scale[configuration]
    assert not isinstance(caught.value, KeyError)
    assert caught.value.__context__ is None


def test_out_of_memory_is_told_once():
    with pytest.raises(DeviceMemoryError) as caught:
        cuda.device_array(1 << 40)
    assert caught.value.__context__ is None


def test_the_number_of_arguments():
    with pytest.raises(KernelTypeError, match="scale takes 2 arguments, 1 was given"):
        scale[1, 1](cuda.device_array(1))


@pytest.mark.parametrize("given", ["a text", [1.0], object(), np.zeros(1, ">f4"), 2**64], ids=repr)
def test_what_is_no_argument_is_named(given):
    with pytest.raises(KernelTypeError, match=r"scale: argument 2 \(factor\): .*(take|use|fit)") as caught:
        scale[1, 1](cuda.device_array(1), given)
    assert caught.value.details["argument"] == 1
    assert caught.value.__suppress_context__


def test_an_argument_that_does_not_fit_names_the_kernel():
    declared = cuda.jit("void(float32[:], float32)")(scale.py_func)
    with pytest.raises(KernelTypeError, match=r"scale: argument 1 \(values\) must be") as caught:
        declared[1, 1](cuda.to_device(np.zeros((2, 2))), 1)
    assert caught.value.details["argument"] == 0
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("name", ["get_metadata"])
def test_what_a_kernel_does_not_offer(name):
    assert not hasattr(scale, name)
    with pytest.raises(AttributeError, match=rf"Inspection.{name} is not offered .* docs/guide/cuda.md"):
        getattr(scale, name)


@pytest.mark.parametrize("name", ["nvvm", "simulator"])
def test_what_the_module_does_not_offer(name):
    with pytest.raises(AttributeError, match=rf"numba.cuda.{name} is not offered"):
        getattr(cuda, name)


@pytest.mark.parametrize(("fraction", "noted"), [("", True), ("1", False)])
def test_nothing_left_for_another_process(virtual_appliance, client, fraction, noted, monkeypatch):
    monkeypatch.setenv("BITFUSION_SERVER", virtual_appliance.address)
    monkeypatch.setenv("BITFUSION_HOOK", "somewhere")
    monkeypatch.setenv("BITFUSION_FRACTION", fraction)
    with pytest.raises(CapacityError) as caught:  # ``client`` has a part of the only GPU
        current.connect_environment()
    assert getattr(caught.value, "__notes__", []) == [current.WHOLE_GPU] * noted
