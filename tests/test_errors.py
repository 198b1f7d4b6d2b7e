"""The error tree: one code per class, and what travels arrives as what it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bitfusion import errors
from bitfusion.cli.exit_codes import CODES, ExitCode, exit_code
from bitfusion.errors import BY_CODE, BitfusionError, DeviceMemoryError, RemoteProtocolError, decode, encode


def test_every_class_has_a_code_and_a_docstring_of_its_own():
    classes = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, BitfusionError)]
    assert len({cls.code for cls in classes}) == len(classes) == len(BY_CODE)
    assert all(vars(cls).get("__doc__") for cls in classes)
    assert all(cls.__name__ in errors.__doc__ for cls in classes)


@pytest.mark.parametrize("cls", BY_CODE.values())
def test_a_failure_travels(cls):
    again = decode(encode(cls("what happened", operation="launch", line=7)))
    assert type(again) is cls
    assert (again.message, again.operation, again.details["line"]) == ("what happened", "launch", 7)


def test_out_of_memory_keeps_its_figures():
    again = decode(encode(DeviceMemoryError("full", requested=3, used=2, limit=4)))
    assert (again.requested, again.used, again.limit) == (3, 2, 4)


@pytest.mark.parametrize("value", [None, 7, (), (1,), ("x", "y", {}), (1, 2, {}), (1, "m", ()), b"x"])
def test_a_failure_that_is_none_is_the_peers_breach(value):
    assert type(decode(value)) is RemoteProtocolError


def test_strange_details_do_no_harm():
    error = decode((51, "m", {"requested": "x", "self": 1, 3: 4, "message": "again", "deep": (1,)}))
    assert isinstance(error, BitfusionError)
    assert type(decode((999, "newer", {}))) is BitfusionError


@pytest.mark.parametrize("cls", BY_CODE.values())
def test_every_class_has_the_exit_code_of_its_nearest_kind(cls):
    """A subclass never stands behind its base in the table, where it would not be found."""
    assert exit_code(cls("x")) in ExitCode
    order = [item for item, _ in CODES]
    if cls in order:
        assert exit_code(cls("x")) == dict(CODES)[cls]


def test_the_guide_lists_every_exit_code():
    text = (Path(__file__).parents[1] / "docs" / "guide" / "exit-codes.md").read_text()
    rows = re.findall(r"^\| ([\d, ]+) \|", text, re.MULTILINE)
    listed = {int(number) for row in rows for number in row.split(",")}
    assert listed == {int(code) for code in ExitCode} | {3}  # 3 is of scripts/gpu_check.py
