"""A client of either face on a virtual GPU."""

from __future__ import annotations

import pytest

import bitfusion
from tests.client.faces import done


def connect_with(face: str):
    """The ``connect`` of a face."""
    return bitfusion.connect if face == "blocking" else bitfusion.aio.connect


@pytest.fixture(params=["blocking", "asyncio"])
def connect(request):
    """The ``connect`` of either face."""
    return connect_with(request.param)


@pytest.fixture
async def client(connect, virtual_appliance):
    client = await done(connect(virtual_appliance.address, memory="64MiB", deadline=60))
    yield client
    await done(client.close())
