"""``bitfusion bench``: what it writes has the documented form, and its ratios are those of its figures. No speed is asked for."""

from __future__ import annotations

import json

import pytest

from bitfusion.cli.bench import command
from bitfusion.cli.bench.measure import interleave, spread
from bitfusion.cli.bench.plot import relative_times
from bitfusion.cli.bench.report import rows, show
from bitfusion.cli.exit_codes import ExitCode
from bitfusion.cli.main import main
from tests.appliance import Appliance


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def figures(place):
    """What ``bench latency`` writes about an appliance with the null device."""
    with Appliance("null", place / "state") as appliance:
        code = main(["bench", "latency", "--quick", "--server", appliance.address, "--json", str(place / "bench.json")])
    assert code == 0
    return json.loads((place / "bench.json").read_text())


@pytest.fixture(scope="module")
def everything(place):
    """What ``bench all`` writes about a virtual GPU of its own."""
    files = ["--json", str(place / "new" / "all.json"), "--plot", str(place / "new" / "all.png")]
    assert main(["bench", "all", "--quick", "--devices", "virtual:1x1GiB", *files]) == 0
    return json.loads((place / "new" / "all.json").read_text())


def test_latency_is_written_with_its_floor(figures):
    latency = figures["latency"]
    for trip in (latency, *latency["other_placements"]):
        for key in ("call_us", "floor_us"):
            assert 0 < trip[key]["p50"] <= trip[key]["p99"]
        assert trip["ratio"] == pytest.approx(trip["call_us"]["p50"] / trip["floor_us"]["p50"])
    assert latency["sent_size"] > 32 + latency["data_size"] < latency["rcvd_size"]


def test_all_parts_are_written(everything):
    """The keys that others read."""
    assert {"machine", "latency", "bandwidth", "launch", "session", "train"} == set(everything)
    assert everything["latency"]["ratio"] > 0
    sizes = [copy["size"] for copy in everything["bandwidth"]]
    assert sizes == sorted(sizes) and 64 << 20 in sizes
    for copy in everything["bandwidth"]:
        for way in ("h2d", "d2h"):
            assert copy[f"{way}_ratio"] == pytest.approx(copy[f"{way}_gbps"] / copy[f"floor_{way}_gbps"])
    launch, session, train = (everything[part] for part in ("launch", "session", "train"))
    assert launch["posted_per_s"] > 0 and launch["call_us"]["p50"] > 0
    assert (launch["device"], launch["chosen"]["device"]) == ("Null device", "Virtual GPU")
    assert 0 < session["warm_ms"] <= session["warm_p99_ms"] and session["cold_ms"] > 0
    assert 0 < session["idle_private_mib"] < 25
    assert train["ratio"] == pytest.approx(train["remote_ms"] / train["local_ms"])
    assert train["local_device"] == "Virtual GPU"


def test_the_plot_is_a_picture(everything, place):
    assert (place / "new" / "all.png").read_bytes().startswith(b"\x89PNG\r\n")


@pytest.mark.parametrize("terminal", [True, False])
def test_the_table_has_every_figure(everything, terminal, monkeypatch, capsys):
    """On a terminal rich draws it."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    show(everything)
    shown = capsys.readouterr().out
    for row in rows(everything):
        assert row.name in shown and row.median in shown
    assert ("╭" in shown) == terminal


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--plot", "out.svg"], "ends with .png"),
        (["--json", "/proc/nowhere/out.json"], "cannot be written"),
        (["--devices", "none"], "none"),
        (["--server", "host:port"], "host:port"),
    ],
)
def test_what_cannot_be_is_said_before_measuring(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "latency", *options]) != 0
    assert words in capsys.readouterr().err


def test_a_plot_without_matplotlib_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert main(["bench", "latency", "--plot", str(tmp_path / "out.png")]) == ExitCode.USAGE
    assert "install bitfusion with its extra 'bench'" in capsys.readouterr().err


def test_training_without_a_compiler_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert main(["bench", "train"]) == ExitCode.USAGE
    assert "install bitfusion with its extra 'server'" in capsys.readouterr().err


def test_the_machine_is_described(figures):
    machine = figures["machine"]
    assert machine["device"] == "Null device"
    assert {"cpu", "cores", "memory_size", "kernel", "python", "versions", "date", "quick"} <= set(machine)


def test_every_figure_has_its_row(figures):
    assert [row.name for row in rows(figures)] == ["call round trip, free"]


def test_a_slow_copy_has_a_rate_all_the_same(everything):
    """Copies of 4 KiB run at some MB/s, and at 0.00 GB/s when the machine is busy."""
    slow = {**everything, "bandwidth": [{**everything["bandwidth"][0], "h2d_gbps": 0.033, "h2d_p99_gbps": 0.00048}]}
    (row,) = (row for row in rows(slow) if row.name == "H2D 4 KiB")
    assert (row.median, row.p99) == ("33 MB/s", "0.48 MB/s")


def test_table_and_picture_say_which_way_is_better(everything, capsys):
    """The table has the ratio of rates, the picture of times, and calls it so."""
    show(everything)
    assert "of times less is better, of rates (per second) more" in capsys.readouterr().out
    (copy,) = (copy for copy in everything["bandwidth"] if copy["size"] == 64 << 20)
    assert relative_times(everything)["H2D 64 MiB"] == pytest.approx(1 / copy["h2d_ratio"])


@pytest.mark.parametrize("columns", [40, 60, 120])
def test_what_stands_below_the_table_breaks_between_words(figures, columns, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    show(figures)
    lines = capsys.readouterr().out.rpartition("╯")[2].splitlines()[1:]
    assert max(map(len, lines)) <= columns
    assert any(figures["machine"]["date"] in line for line in lines)


def test_what_is_compared_takes_turns():
    order = []
    samples = interleave([lambda: order.append("a"), lambda: order.append("b")], rounds=3, calls=2)
    assert "".join(order) == "bbaa" + "aabb" + "bbaa" + "aabb"  # a warm round first; every other one in reverse
    assert [len(sample) for sample in samples] == [6, 6]


def test_spread_scales():
    found = spread([0.001] * 98 + [0.002] * 2, 1e3)
    assert found.p50 == pytest.approx(1)
    assert found.p99 == pytest.approx(2)
