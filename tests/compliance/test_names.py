"""docs/reference/numba-cuda.md against the installed numba-cuda and ``bitfusion.cuda``: no name is missing, none is told wrongly."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numba.cuda
import pytest
from numba.cuda.cudadrv import devicearray, driver
from numba.cuda.dispatcher import CUDADispatcher

from bitfusion import cuda
from bitfusion.cuda import devices
from bitfusion.cuda.dispatcher import Dispatcher

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "numba-cuda.md"
STATUSES = {"works", "differs", "not supported", "internal"}
SUBMODULES = ("cg", "random", "libdevice", "fp16", "types")

HOLDERS = {
    "numba.cuda": (numba.cuda, cuda),
    **{
        f"numba.cuda.{name}": (importlib.import_module(f"numba.cuda.{name}"), getattr(cuda, name))
        for name in SUBMODULES
    },
    "Dispatcher": (CUDADispatcher, Dispatcher),
    "DeviceNDArray": (devicearray.DeviceNDArray, cuda.DeviceArray),
    "Stream": (driver.Stream, cuda.Stream),
    "Event": (driver.Event, cuda.Event),
    "Context": (driver.Context, devices.Context),
    "Device": (driver.Device, devices.Device),
}
"""What each section of the page is about, in numba-cuda and here."""

SECTION = re.compile(r"^## `(.+)`$", re.MULTILINE)
ROW = re.compile(r"^\| (`.+`) \| ([a-z ]+) \| (.*) ?\|$", re.MULTILINE)


def rows() -> Iterator[tuple[str, str, str, str]]:
    """Section, name, status and note of every name on the page."""
    _, *parts = SECTION.split(PAGE.read_text())
    for section, text in zip(parts[::2], parts[1::2], strict=True):
        for names, status, note in ROW.findall(text):
            for name in re.findall(r"`([^`]+)`", names):
                yield section, name, status, note


ROWS = list(rows())


@pytest.mark.parametrize("section", HOLDERS)
def test_every_name_stands_on_the_page_once(section):
    told = [name for place, name, _, _ in ROWS if place == section]
    assert len(told) == len(set(told))
    theirs = HOLDERS[section][0]
    public = {name for name in dir(theirs) if not name.startswith("_")}
    if theirs is numba.cuda:  # which modules it has as attributes depends on what else was imported
        optional = {name for name in public ^ set(told) if isinstance(getattr(theirs, name, None), ModuleType)}
        assert public - set(told) <= optional
        assert set(told) - public <= {"random", "fp16", *optional}
    else:
        assert set(told) == public


def test_the_page_has_nothing_else():
    assert {section for section, *_ in ROWS} == set(HOLDERS)
    assert {status for _, _, status, _ in ROWS} == STATUSES
    assert all(
        note.startswith(("`AttributeError`", "`UnsupportedError`"))
        for *_, status, note in ROWS
        if status == "not supported"
    )


@pytest.mark.parametrize("section", HOLDERS)
def test_what_works_is_there_and_what_is_not_says_so(section):
    ours = HOLDERS[section][1]
    for place, name, status, note in ROWS:
        if place != section or status == "internal":
            continue
        there = status != "not supported" or note.startswith(
            "`UnsupportedError`"
        )  # when it is used: tests/cuda/test_context.py
        assert hasattr(ours, name) == there, f"{section}.{name}: {status}"


def test_the_page_names_the_version_it_was_made_for():
    assert f"numba-cuda {version('numba-cuda')} " in PAGE.read_text()
