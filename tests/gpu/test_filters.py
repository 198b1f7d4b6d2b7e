"""Filters by what discovery finds out: the same facts that a session is told, asked of NVML before any session."""

from __future__ import annotations

import pytest

from bitfusion.client.client import connect
from bitfusion.errors import CapacityError


def lease(place, *filters: str) -> object:
    """The device of a session on a GPU that meets all of these."""
    with connect(place.address, memory="2MiB", filters=filters, deadline=60) as client:
        return client.device


def test_by_what_a_device_is(place, client):
    major, minor = client.device.compute_capability
    name, uuid = client.device.name, client.device.uuid
    found = lease(place, f"device.compute_capability={major}.{minor}", f"device.name={name}", f"device.uuid={uuid}")
    assert found.uuid == uuid
    with pytest.raises(CapacityError, match=f"its device.compute_capability is {major}.{minor}"):
        lease(place, "device.compute_capability>=99")


def test_by_the_driver(place, client):
    if client.device.kind != "cuda":
        with pytest.raises(CapacityError, match=r"its server\.driver-version is not known"):
            lease(place, "server.driver-version>=1")
        return
    version = client.device.attributes["DRIVER_VERSION"]
    cuda = f"server.cuda-version={version // 1000}.{version % 1000 // 10}"
    assert lease(place, cuda, "server.driver-version>=400", "server.driver-version<10000").kind == "cuda"
