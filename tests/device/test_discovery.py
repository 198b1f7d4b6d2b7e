"""The --devices option and the sizes in it."""

from __future__ import annotations

import sys

import pytest

from bitfusion.cuda import stand_in
from bitfusion.device.discovery import FORM, INFINIBAND, discover, find_gpus, find_server, virtual_memory_default
from bitfusion.errors import ConfigError
from bitfusion.limits import GIB, MIB
from bitfusion.types import format_size, parse_size

SIZES = [
    ("1", 1),
    ("4096", 4096),
    ("512MiB", 512 * MIB),
    ("8GiB", 8 * GIB),
    ("2G", 2 * GIB),
    ("2g", 2 * GIB),
    ("1.5Gi", 3 * GIB // 2),
    ("1 KiB", 1024),
    ("2GB", 2_000_000_000),
    ("17B", 17),
    (" 3M ", 3 * MIB),
    ("256T", 1 << 48),
]


@pytest.mark.parametrize(("text", "size"), SIZES)
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "G", "-1", "nan", "inf", "1e9", "1iB", "2 PiB", "1..5G", "0x10", "٣G", "257T", "9" * 20, "9" * 5000]
)
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (512 * MIB, "512 MiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (1 << 48, "256 TiB"),
    ],
)
def test_format_size(size: int, text: str) -> None:
    assert format_size(size) == text


def test_virtual() -> None:
    devices = discover("virtual:3x512MiB")
    assert [(item.kind, item.index, item.memory_size) for item in devices] == [
        ("virtual", index, 512 * MIB) for index in range(3)
    ]
    assert len({item.uuid for item in devices}) == 3
    assert devices == discover("virtual:3x512MiB")
    assert [item.memory_size for item in discover("virtual")] == [virtual_memory_default()]
    assert discover("virtual:1x3000000")[0].memory_size == 2 * MIB


def test_combinations() -> None:
    assert [item.kind for item in discover("null, virtual:2x1GiB")] == ["null", "virtual", "virtual"]


BAD = [
    ("", FORM),
    (",", FORM),
    ("virtual,", FORM),
    ("gpu", FORM),
    ("null:1", FORM),
    ("virtual:", FORM),
    ("virtual:2", FORM),
    ("virtual:2GiB", FORM),
    ("virtual:-1x1GiB", FORM),
    ("virtual:0x1GiB", "1 to 64"),
    ("virtual:65x1GiB", "1 to 64"),
    ("virtual:1xnan", "not a size"),
    ("virtual:1x0", "at least 2 MiB"),
    ("virtual:1x1e30", "--devices 'virtual:1x1e30': '1e30' is not a size"),
    ("virtual:1x9999999TiB", "--devices 'virtual:1x9999999TiB': the size"),
    ("virtual:1x1MiB", "at least 2 MiB"),
    ("virtual:1x1000T", "more than any device"),
    ("virtual,virtual:1x1GiB", "twice"),
    ("null,null", "twice"),
]


@pytest.mark.parametrize(("spec", "message"), BAD)
def test_bad_specs_say_the_right_form(spec: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        discover(spec)
    assert message in caught.value.message


def test_a_virtual_gpu_is_what_it_says_it_is() -> None:
    from bitfusion.device.virtual.device import COMPUTE_CAPABILITY

    assert discover("virtual")[0].compute_capability == COMPUTE_CAPABILITY
    assert discover("null")[0].compute_capability is None


@pytest.mark.parametrize(("addr", "known"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", None), ("::", None)])
def test_what_is_known_of_a_server_without_nvidia(addr: str, known: str | None) -> None:
    found = find_server("here", addr, discover("null"))
    assert (found.hostname, found.addr, found.cuda_version, found.driver_version) == ("here", known, None, None)
    assert found.has_rdma == (INFINIBAND.is_dir() and any(INFINIBAND.iterdir()))


def test_auto_is_the_gpus_or_a_virtual_one() -> None:
    gpus, reason = find_gpus()
    if gpus:
        assert discover("auto") == discover("cuda") == gpus
        return
    assert reason
    (device,) = discover("auto")
    assert device.kind == "virtual" and device.memory_size == virtual_memory_default() <= 4 * GIB
    with pytest.raises(ConfigError, match="--devices auto offers a virtual one") as caught:
        discover("cuda")
    assert reason in caught.value.message


def test_an_appliance_without_the_compilers_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr("bitfusion.device.discovery.COMPILERS", ("msgpack", "no_such_compiler"))
    with pytest.raises(ConfigError, match=r"needs no_such_compiler, .* install bitfusion with its extra 'server'"):
        discover("virtual:1x1GiB")
    assert [item.kind for item in discover("null")] == ["null"]


def test_the_stand_in_for_numba_is_no_compiler(monkeypatch) -> None:
    """In a program under ``bitfusion run``, with a Python that has no Numba."""
    monkeypatch.setitem(sys.modules, "numba", stand_in.module("numba"))
    with pytest.raises(ConfigError, match="needs numba, which"):
        discover("virtual:1x1GiB")
