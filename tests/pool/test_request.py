"""What may be asked of the pool, and how many bytes it means."""

from __future__ import annotations

import math

import pytest

from bitfusion.errors import BitfusionError, ConfigError
from bitfusion.limits import GIB, MEMORY_CHUNK_SIZE, MIB
from bitfusion.pool.request import LeaseRequest

BAD = [
    ({"gpus": 0}, ConfigError, "at least 1 GPU"),
    ({"gpus": -3}, ConfigError, "at least 1 GPU"),
    ({"gpus": 1025}, ConfigError, "gpus must be 1 to 1024"),
    ({"gpus": True}, ConfigError, "gpus must be"),
    ({"memory": 0}, ConfigError, "memory must be"),
    ({"memory": -1}, ConfigError, "memory must be"),
    ({"memory": 2**60}, ConfigError, "memory must be"),
    ({"fraction": 0.0}, ConfigError, "fraction must be"),
    ({"fraction": -0.5}, ConfigError, "fraction must be"),
    ({"fraction": 1.0001}, ConfigError, "fraction must be"),
    ({"fraction": math.nan}, ConfigError, "fraction must be"),
    ({"fraction": math.inf}, ConfigError, "fraction must be"),
    ({"memory": GIB, "fraction": 0.5}, ConfigError, "not both"),
]


@pytest.mark.parametrize(("fields", "error", "message"), BAD)
def test_requests_that_mean_nothing(fields: dict[str, int | float], error: type[BitfusionError], message: str) -> None:
    with pytest.raises(error, match=message):
        LeaseRequest(**fields)  # type: ignore[arg-type]


def test_memory_in_whole_chunks() -> None:
    assert LeaseRequest(memory=1).memory_on(GIB) == MEMORY_CHUNK_SIZE
    assert LeaseRequest(memory=3 * MIB).memory_on(GIB) == 4 * MIB
    assert LeaseRequest(fraction=0.5).memory_on(GIB) == 512 * MIB
    assert LeaseRequest(fraction=1 / 3).memory_on(GIB) == 340 * MIB
    assert LeaseRequest(fraction=0.29).memory_on(200 * MIB) == 58 * MIB  # 0.29 as a float is a little less than 0.29
    assert LeaseRequest(fraction=1e-9).memory_on(GIB) == 0
    assert LeaseRequest().memory_on(GIB + 1) == GIB
