"""What may be asked of the pool, and how many bytes it means."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest

from bitfusion.errors import BitfusionError, ConfigError
from bitfusion.limits import GIB, MEMORY_CHUNK_SIZE, MIB
from bitfusion.pool.filters import parse_filter
from bitfusion.pool.request import Holder, LeaseRequest

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
    ({"memory": 1.5}, ConfigError, "memory must be"),
    ({"memory": True}, ConfigError, "memory must be"),
    ({"fraction": "0.5"}, ConfigError, "fraction must be a number"),
    ({"fraction": True}, ConfigError, "fraction must be a number"),
    ({"gpus": 1.0}, ConfigError, "gpus must be"),
    ({"gpus": 10**30}, ConfigError, "gpus must be"),
    ({"exclusive": 1}, ConfigError, "exclusive is true or false"),
    ({"filters": ["device.index=0"]}, ConfigError, "parse_filter makes one"),
    ({"filters": ("device.index=0",)}, ConfigError, "parse_filter makes one"),
    ({"filters": (parse_filter("device.index=0"),) * 33}, ConfigError, "33 filters are too many"),
    ({"priority": 101}, ConfigError, "priority must be -100 to 100"),
    ({"priority": -101}, ConfigError, "priority must be"),
    ({"priority": 0.5}, ConfigError, "priority must be"),
    ({"weight": 0}, ConfigError, "weight must be 1 to 10000"),
    ({"weight": 10001}, ConfigError, "weight must be"),
    ({"cap": 0}, ConfigError, "cap must be 1 to 100"),
    ({"cap": 101}, ConfigError, "per cent of a GPU's time"),
    ({"cap": math.nan}, ConfigError, "cap must be"),
    ({"lifetime_s": 0}, ConfigError, "lifetime must be above 0"),
    ({"lifetime_s": -1.0}, ConfigError, "lifetime must be above 0"),
    ({"lifetime_s": math.nan}, ConfigError, "lifetime must be above 0"),
    ({"lifetime_s": math.inf}, ConfigError, "lifetime_s must be a number"),
    ({"lifetime_s": 1e9}, ConfigError, r"\(a year\)"),
]


@pytest.mark.parametrize(("fields", "error", "message"), BAD)
def test_requests_that_mean_nothing(fields: dict[str, object], error: type[BitfusionError], message: str) -> None:
    with pytest.raises(error, match=message):
        LeaseRequest(**fields)


def test_memory_in_whole_chunks() -> None:
    assert LeaseRequest(memory=1).memory_on(GIB) == MEMORY_CHUNK_SIZE
    assert LeaseRequest(memory=3 * MIB).memory_on(GIB) == 4 * MIB
    assert LeaseRequest(fraction=0.5).memory_on(GIB) == 512 * MIB
    assert LeaseRequest(fraction=1 / 3).memory_on(GIB) == 340 * MIB
    assert LeaseRequest(fraction=0.29).memory_on(200 * MIB) == 58 * MIB  # 0.29 as a float is a little less than 0.29
    assert LeaseRequest(fraction=1e-9).memory_on(GIB) == 0
    assert LeaseRequest().memory_on(GIB + 1) == GIB


@pytest.mark.parametrize(
    ("request_", "exclusive", "words"),
    [
        (LeaseRequest(), True, "a whole GPU"),
        (LeaseRequest(gpus=2), True, "2 whole GPUs"),
        (LeaseRequest(fraction=1), True, "1 of a GPU's memory"),
        (LeaseRequest(fraction=0.5), False, "0.5 of a GPU's memory"),
        (LeaseRequest(memory=2 * GIB), False, "2 GiB"),
        (LeaseRequest(gpus=3, memory=2 * GIB), False, "3 GPUs with 2 GiB each"),
        (LeaseRequest(memory=2 * GIB, exclusive=True), True, "2 GiB alone on it"),
        (LeaseRequest(gpus=2, fraction=0.5, exclusive=True), True, "2 GPUs with 0.5 of a GPU's memory each alone on them"),
        (LeaseRequest(filters=(parse_filter("device.index=0"), parse_filter("device.memory>=8GiB"))), True,
         "a whole GPU where device.index=0 and device.memory>=8GiB"),
    ],
)  # fmt: skip
def test_in_words(request_: LeaseRequest, exclusive: bool, words: str) -> None:
    assert (request_.exclusive, str(request_)) == (exclusive, words)


FULL = LeaseRequest(2, None, 0.5, True, (parse_filter("device.memory>=8GiB"),), -3, 200, 50, 3600.0)


@pytest.mark.parametrize("request_", [FULL, LeaseRequest(), LeaseRequest(memory=GIB)])
def test_plain_data(request_: LeaseRequest) -> None:
    plain = asdict(request_)
    assert LeaseRequest.from_plain(plain) == request_
    assert LeaseRequest.from_plain(json.loads(json.dumps(plain))) == request_
    assert (
        LeaseRequest.from_plain({**plain, "filters": [str(item) for item in request_.filters], "newer": 1}) == request_
    )
    assert LeaseRequest.from_plain({}) == LeaseRequest()


@pytest.mark.parametrize(
    "plain",
    [None, 5, [], {"gpus": 0}, {"gpus": None}, {"filters": "device.index=0"}, {"filters": [5]}, {"weight": None}],
)
def test_plain_data_that_is_no_request(plain: object) -> None:
    with pytest.raises(ConfigError):
        LeaseRequest.from_plain(plain)


def test_holders() -> None:
    holder = Holder("ana", "lab", "pc7", "train.py", 4711)
    assert Holder.from_plain(asdict(holder)) == holder and Holder.from_plain({}) == Holder()
    assert (str(holder), str(Holder())) == ("ana@pc7", "nobody@nowhere")


@pytest.mark.parametrize("plain", [None, {"user": 5}, {"user": "x" * 1025}, {"pid": -1}, {"pid": "1"}, {"pid": True}])
def test_plain_data_that_is_no_holder(plain: object) -> None:
    with pytest.raises(ConfigError):
        Holder.from_plain(plain)
