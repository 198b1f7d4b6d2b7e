"""The tables of ``smi`` and ``top``: nothing is wider than the terminal, what matters most stays, and peers' texts are only texts."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from bitfusion.cli.tables import FULL, NONE, SOME, SORTS, memory_bar, pool_tables
from bitfusion.cli.words import memory_text, part_text, time_text
from tests.cli import pools
from tests.cli.pools import GIB


def drawn(pool, width, sort="gpu"):
    file = io.StringIO()
    Console(file=file, width=width, markup=False, emoji=False, highlight=False).print(pool_tables(pool, width, sort))
    return file.getvalue()


POOLS = {"nothing": pools.pool(), "empty": pools.pool(pools.gpu()), "full": pools.full(), "crowded": pools.crowded()}


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_everything_fits(pool, width):
    lines = drawn(pool, width).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert all(cell_len(line) == width for line in lines if line.startswith(("│", "╭", "╰")))


@pytest.mark.parametrize("width", [80, 120, 200])
def test_what_matters_is_there_at_every_width(width):
    text = drawn(pools.full(), width)
    for word in ("2 GPUs, 3 leases, 1 waiting", "NVIDIA H100", "80 GiB / 80 GiB", "41 %", "41 °C", "312 W"):
        assert word in text
    for word in ("00020002", "ana", "4002", "768 MiB", "33m20s", "carl", "2 whole GPUs", "5m12s"):
        assert word in text
    rows = [line for line in drawn(pools.crowded(), width).splitlines() if "4000" in line]
    assert len(rows) == 40


def test_more_columns_where_there_is_room():
    assert "UUID" in drawn(pools.full(), 200) and "GPU-7f6c2b1e" in drawn(pools.full(), 200)
    for word in ("Host", "node17", "alone", "Ends in", "2h"):
        assert word in drawn(pools.full(), 120) and word not in drawn(pools.full(), 80)


def test_what_is_not_known_has_no_column():
    assert "Temp" not in drawn(pools.pool(pools.gpu()), 120)
    assert "Power" in drawn(pools.pool(pools.gpu(), pools.gpu(1, power_w=5.0)), 120)


@pytest.mark.parametrize("text", ["[red]alarm[/]", "[link=http://x]here[/link]", ":smile:", "[/]"])
def test_what_peers_say_is_no_markup(text):
    lease = pools.lease(1, user=text, sessions=1)
    assert text in drawn(pools.pool(pools.gpu(0, [lease], name=text)), 200)


@pytest.mark.parametrize(
    ("used", "leased", "bar"),
    [
        (0, 0, NONE * 10),
        (1, 1, FULL + NONE * 9),
        (0, 1, SOME + NONE * 9),
        (4 * GIB, 8 * GIB, FULL * 2 + SOME * 3 + NONE * 5),
        (0, 16 * GIB - 1, SOME * 9 + NONE),
        (0, 16 * GIB, SOME * 10),
        (16 * GIB, 16 * GIB, FULL * 10),
        (20 * GIB, 20 * GIB, FULL * 10),
    ],
)
def test_the_bar_shows_what_is_there(used, leased, bar):
    lease = pools.lease(memory=leased, sessions=0)
    sessions = (pools.session(memory=used),)
    gpu = pools.gpu(
        0, [pools.Lease(**{**{name: getattr(lease, name) for name in lease.__slots__}, "sessions": sessions})]
    )
    assert memory_bar(gpu, 10).plain == bar


def test_sorting():
    gpus = pools.gpu(
        0, [pools.lease(1, user="b", memory=GIB, idle_s=1), pools.lease(2, user="a", memory=2 * GIB, idle_s=None)]
    )
    orders = {
        sort: [
            line.split("│")[2].strip()[:4] for line in drawn(pools.pool(gpus), 120, sort).splitlines() if "4000" in line
        ]
        for sort in SORTS
    }
    assert orders == {
        "gpu": ["0001", "0002"],
        "memory": ["0002", "0001"],
        "idle": ["0001", "0002"],
        "user": ["0002", "0001"],
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (-1, "0s"),
        (0.04, "0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m"),
        (61, "1m1s"),
        (3600, "1h"),
        (86399, "23h59m"),
        (90000, "1d1h"),
        (1e7, "115d17h"),
    ],
)
def test_times(seconds, text):
    assert time_text(seconds) == text


def test_sizes_and_parts():
    assert [memory_text(size) for size in (None, 0, 512, 1536, 3 << 29)] == ["", "0", "512 bytes", "1.5 KiB", "1.5 GiB"]
    assert [part_text(part) for part in (None, 0, 0.125, 1)] == ["", "0 %", "12 %", "100 %"]
