"""The forms that options' values have: what they mean, and what is said of those that cannot be."""

from __future__ import annotations

import argparse

import pytest

from bitfusion.cli import options

MIB = 1 << 20


@pytest.mark.parametrize(
    ("convert", "text", "value"),
    [
        (options.server, "gpu1", "gpu1:56001"),
        (options.server_list, "a:1,b,a:1", ["a:1", "b:56001"]),
        (options.gpu_count, "1024", 1024),
        (options.fraction, "1e-3", 0.001),
        (options.memory, "2048", 2048 * MIB),
        (options.memory, "1.5GiB", 1536 * MIB),
        (options.weight, "10000", 10_000),
        (options.percent, "100%", 100),
        (options.priority, "-100", -100),
        (options.duration, "90", 90.0),
        (options.duration, "1.5h", 5400.0),
        (options.duration, "2 D", 172_800.0),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_values(convert, text, value):
    assert convert(text) == value


@pytest.mark.parametrize(
    ("convert", "texts", "words"),
    [
        (options.server, ["", "a b:c", "http://a", "a:99999", "[::1"], "server address"),
        (options.server_list, ["a,,b", "a:0"], "server address"),
        (options.gpu_count, ["0", "-1", "1025", "one", "1.5", "", "٣", "9" * 5000], "write a whole number, 1 to 1024"),
        (options.fraction, ["0", "-0.5", "1.01", "nan", "inf", "half", ""], "above 0 and up to 1"),
        (options.memory, ["0", "-1", "nan", "12 parsecs", "900TiB", "", "9" * 5000], ""),
        (options.weight, ["0", "10001", "-1", "nan"], "1 to 10000"),
        (options.percent, ["0", "101", "50.5", "%"], "1 to 100"),
        (options.priority, ["101", "-101", "high"], "-100 to 100"),
        (options.duration, ["0", "-1", "nan", "inf", "5y", "1h30", "367d", "", "1e9", "9" * 5000], "90, 30m, 8h"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be(convert, texts, words):
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            convert(text)
        assert words in str(caught.value) and len(str(caught.value)) < 300, text


def parse(*words):
    parser = argparse.ArgumentParser()
    options.add_server_options(parser)
    options.add_request_options(parser)
    return parser.parse_args(words)


def test_filters_come_in_several_ways():
    words = ["--filter", "device.name=V100", "device.memory>=16GiB", "-n", "2", "--filter", "server.hostname=a"]
    assert parse(*words).filter == ["device.name=V100", "device.memory>=16GiB", "server.hostname=a"]


@pytest.mark.parametrize(
    "words",
    [["-p", "0.5", "-m", "10"], ["--timeout", "5", "--no-wait"], ["--server", "a", "--server_list", "b"]],
    ids=" ".join,
)
def test_options_that_exclude_each_other(words, capsys):
    with pytest.raises(SystemExit):
        parse(*words)
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "variable", "found"),
    [
        ([], None, ["127.0.0.1:56001"]),
        ([], "gpu1", ["gpu1:56001"]),
        (["--server", "gpu2:1"], "gpu1", ["gpu2:1"]),
        (["--server_list", "gpu2:1,gpu3"], "gpu1", ["gpu2:1", "gpu3:56001"]),
    ],
)
def test_which_servers(words, variable, found, monkeypatch):
    monkeypatch.delenv("BITFUSION_SERVER", raising=False)
    if variable:
        monkeypatch.setenv("BITFUSION_SERVER", variable)
    assert options.servers(parse(*words)) == found
