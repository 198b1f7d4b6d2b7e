"""The same scenarios on three devices: the virtual GPU, a real one (marker ``gpu``), and the cuda device on a double of the driver.

The double (double/cuda.c) runs no kernels but the four of images.py, so scenarios with kernels of their own leave it out by
``COMPILES``. On a real GPU only the ``gpu`` ones run: ``pytest -m gpu tests/gpu``.
"""

from __future__ import annotations

import pytest

from bitfusion.client.client import connect
from bitfusion.device.discovery import find_gpus
from tests.appliance import Appliance
from tests.gpu import double

LEASE = "64MiB"

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
DEVICES = ["virtual", "double", GPU]


@pytest.fixture(scope="session")
def place(request, tmp_path_factory):
    """An appliance with the device the test is parametrised with; kept for all tests on that device."""
    folder = tmp_path_factory.mktemp(request.param)
    environment: dict[str, str] = {}
    devices = {"virtual": "virtual:1x256MiB"}.get(request.param, "cuda")
    if request.param == "double":
        environment = double.build(folder)
    with Appliance(devices, folder / "state", environment=environment) as appliance:
        yield appliance


def pytest_runtest_setup(item):
    """Skip what needs a real GPU, all from one place, so that the summary says it in one line."""
    if item.get_closest_marker("gpu"):
        gpus, reason = find_gpus()
        if not gpus:
            pytest.skip(f"no NVIDIA GPU: {reason}")


def pytest_generate_tests(metafunc):
    """Every test that uses ``place`` runs on every device, the double only where the module does not say ``COMPILES``."""
    if "place" in metafunc.fixturenames:
        devices = ["virtual", GPU] if getattr(metafunc.module, "COMPILES", False) else DEVICES
        metafunc.parametrize("place", devices, indirect=True, scope="session")


@pytest.fixture
def client(place):
    """A session with a lease of 64 MiB."""
    with connect(place.address, memory=LEASE, deadline=60) as client:
        yield client


@pytest.fixture
def other(place):
    """A second session on the same GPU."""
    with connect(place.address, memory=LEASE, deadline=60) as client:
        yield client
