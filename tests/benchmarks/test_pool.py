"""benchmarks/pool.py: that every part runs and gives its figures; how fast is its own business."""

from __future__ import annotations

import json

import pytest

from benchmarks import pool


def test_all_parts_give_their_figures(tmp_path, capfd):
    path, picture = tmp_path / "pool.json", tmp_path / "pool.png"
    pool.main(["--quick", "--json", str(path), "--plot", str(picture)])
    figures = json.loads(path.read_text())
    assert set(pool.PARTS) < set(figures) and figures["quick"]
    assert figures["queue"]["leased_max"] <= figures["queue"]["memory_size"]
    assert sum(figures["weights"]["part"]) == pytest.approx(1)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "clients at once" in capfd.readouterr().out


def test_unknown_parts_are_told(capsys):
    with pytest.raises(SystemExit):
        pool.main(["--only", "quue"])
    assert "there is no quue" in capsys.readouterr().err
