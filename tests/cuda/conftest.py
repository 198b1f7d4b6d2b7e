"""One session on the virtual GPU for each file of tests, as the current one of ``bitfusion.cuda``."""

from __future__ import annotations

import pytest

import bitfusion
from bitfusion import cuda


@pytest.fixture(scope="module")
def client(virtual_appliance):
    with bitfusion.connect(virtual_appliance.address, memory="128MiB") as client, cuda.use(client):
        yield client


@pytest.fixture
def fresh(virtual_appliance):
    """A session of the test's own, which it may poison."""
    with bitfusion.connect(virtual_appliance.address, memory="32MiB") as client, cuda.use(client):
        yield client
