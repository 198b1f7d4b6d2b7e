"""Filters: what is written, what it matches, and what a mistake is told."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from bitfusion.errors import ConfigError
from bitfusion.limits import GIB
from bitfusion.pool.filters import KEYS, Filter, parse_filter
from bitfusion.types import DeviceSpec, ServerSpec

DEVICE = DeviceSpec("cuda", 3, "Tesla V100-SXM2-32GB", "GPU-8f2a", 32 * GIB, (7, 0))
SERVER = ServerSpec("gpu-7.lab", "10.0.0.7", True, "12.4", "560.35.03")


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("device.memory>=16GiB", True),
        ("device.memory>=32GiB", True),
        ("device.memory>32GiB", False),
        ("device.memory<32769", True),  # a number of MiB
        ("device.phy-memory=32768", True),
        ("device.phy-memory!=32768", False),
        ("device.memory <= 32 GiB", True),
        ("device.name=Tesla V100-SXM2-32GB", True),
        ("device.name=*v100*", True),
        ("device.name=V100", False),
        ("device.name!=*A100*", True),
        ("device.name=Tesla?V[0-9]00*", True),
        ("device.kind=cuda", True),
        ("device.kind!=virtual", True),
        ("device.uuid=gpu-8F2A", True),
        ("device.id=3", True),
        ("device.index<3", False),
        ("device.index==3", True),
        ("device.compute_capability>=7", True),
        ("device.compute_capability=7.0", True),
        ("device.compute_capability<7.5", True),
        ("device.compute_capability>=8.0", False),
        ("device.compute_capability=7.*", True),
        ("server.cuda-version>=12.10", False),  # versions, not decimals
        ("server.cuda-version>=12.3.9", True),
        ("server.cuda-version=12.4.0", True),
        ("server.driver-version>=560", True),
        ("server.driver-version=560.*", True),
        ("server.driver-version!=560.*", False),
        ("server.hostname=gpu-?.LAB", True),
        ("server.addr=10.0.0.*", True),
        ("server.has-rdma=true", True),
        ("server.has-rdma=no", False),
        ("server.has-rdma!=no", True),
    ],
)
def test_what_matches(text: str, matches: bool) -> None:
    found = parse_filter(text)
    assert (found.refuse(DEVICE, SERVER) is None) == matches
    assert parse_filter(str(found)) == found == Filter.from_plain(asdict(found)) == Filter.from_plain(str(found))


def test_every_key_finds_something() -> None:
    assert all(key.fact(DEVICE, SERVER) is not None for key in KEYS.values())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("device.memory>=40GiB", "its device.memory is 32 GiB, device.memory>=40GiB is asked for"),
        ("device.name=*A100*", "its device.name is Tesla V100-SXM2-32GB, device.name=*A100* is asked for"),
        ("server.has-rdma=false", "its server.has-rdma is true, server.has-rdma=false is asked for"),
        (
            "device.compute_capability>=9",
            "its device.compute_capability is 7.0, device.compute_capability>=9 is asked for",
        ),
    ],
)
def test_why_not(text: str, reason: str) -> None:
    assert parse_filter(text).refuse(DEVICE, SERVER) == reason


@pytest.mark.parametrize("text", ["server.driver-version>=1", "server.driver-version!=1", "server.has-rdma=no"])
def test_what_is_not_known_matches_nothing(text: str) -> None:
    assert "is not known" in (parse_filter(text).refuse(DEVICE, ServerSpec()) or "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("device.memroy>=1GiB", "there is no filter 'device.memroy'; did you mean device.memory? The keys: device.compute_cap"),
        ("device.compute-capability=8.0", "did you mean device.compute_capability?"),
        ("server.cuda_version>=12", "did you mean server.cuda-version?"),
        ("colour=blue", "there is no filter 'colour'; The keys: "),
        ("device.memory", "'device.memory' is not a filter; write KEY=VALUE"),
        ("", "'' is not a filter"),
        ("=5", "is not a filter"),
        ("device.memory>=", "the value must have 1 to some 256 characters"),
        ("device.memory>=lots", "'lots' is not a size: write a number of MiB, or one with a unit"),
        ("device.memory>=-1", "'-1' is not a size"),
        ("device.memory>=99999999999999999999", "is not a size"),
        ("device.memory=*GiB", "is not a size"),
        ("device.memory=>4GiB", "'>4GiB' is not a size"),
        ("device.index=first", "'first' is not a whole number"),
        ("device.name>=Tesla", "device.name has no order; compare it with = or !="),
        ("server.has-rdma<true", "has no order"),
        ("server.has-rdma=perhaps", "'perhaps' is not true or false"),
        ("server.cuda-version>=12.x", "'12.x' is not a version"),
        ("server.cuda-version>=12.*", "'12.*' is not a version"),
        ("server.cuda-version>=1.2.3.4.5.6.7.8.9", "is not a version"),
        ("device.name=" + "x" * 300, "is not a filter"),
    ],
)  # fmt: skip
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_filter(text)
    assert message in caught.value.message


@pytest.mark.parametrize(
    "plain",
    [None, 5, [], {}, {"key": "device.memory"}, {"key": "device.memory", "operator": "~", "value": "1"},
     {"key": "device.memory", "operator": ">=", "value": 5}, {"key": "device.name", "operator": "=", "value": "x" * 300}],
)  # fmt: skip
def test_plain_data_that_is_no_filter(plain: object) -> None:
    with pytest.raises(ConfigError):
        Filter.from_plain(plain)


def test_a_pattern_cannot_be_made_to_take_long() -> None:
    device = DeviceSpec("virtual", 0, "a" * 1000, "GPU-0", GIB)
    assert parse_filter("device.name=" + "*a" * 100 + "b").refuse(device, SERVER) is not None
