"""The user's lines are where Numba looks for them, and the table has an end."""

from __future__ import annotations

import linecache
import os

from bitfusion.kernels import listing, program


def function(file: str, line: int) -> program.Function:
    return program.Function("kernel", file, line, "def kernel(x):\n    pass\n")


def test_lines_are_found_under_both_names_and_taken_away_again():
    with listing.listing([function("/users/a.py", 7)]) as names:
        for name in ("/users/a.py", os.path.relpath("/users/a.py")):
            assert names[name] == "/users/a.py"
            assert linecache.getline(name, 8) == "    pass\n"
    assert not {"/users/a.py", os.path.relpath("/users/a.py")} & set(linecache.cache)


def test_functions_at_the_ends_of_many_files_do_not_fill_the_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(listing, "LINE_COUNT_MAX", 250)
    files = [str(tmp_path / f"{number}.py") for number in range(5)]
    for file in files:
        with open(file, "w") as stream:
            stream.write("a file of the server\n" * 200)
    with listing.listing([function(file, 100) for file in files]):
        assert [linecache.getline(file, 101) for file in files] == ["    pass\n"] * 2 + [""] * 3
