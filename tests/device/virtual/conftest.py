"""A virtual GPU for every test: what one test breaks is not another's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.device.virtual.gpu import Gpu


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    """A device with default options and no cache."""
    gpu = Gpu()
    yield gpu
    gpu.device.close()
