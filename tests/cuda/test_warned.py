"""Warnings about performance: Numba's classes, texts and settings, at the program's own line."""

from __future__ import annotations

import linecache
import subprocess
import sys
import warnings

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.cuda import config, hooked, numba_errors, stand_in

SETTINGS = ("CUDA_LOW_OCCUPANCY_WARNINGS", "CUDA_WARN_ON_IMPLICIT_COPY")


@pytest.fixture
def asked(monkeypatch, client):
    """All warnings wanted, by whichever settings there are."""
    for module in (config, *(sys.modules[name] for name in config.MODULES if name in sys.modules)):
        monkeypatch.setattr(module, "DISABLE_PERFORMANCE_WARNINGS", 0)
        for setting in SETTINGS:
            monkeypatch.setattr(module, setting, 1)
    return monkeypatch


@cuda.jit
def fill(values, n):
    i = cuda.grid(1)
    if i < n:
        values[i] = i


def given(action):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        action()
    return [
        str(item.message)
        for item in found
        if issubclass(item.category, numba_errors.warning("NumbaPerformanceWarning"))
    ]


@pytest.mark.parametrize(("grid", "count"), [(1, 1), (127, 1), (128, 0), ((8, 16), 0), ((2, 3, 4), 1)])
def test_small_grids(asked, grid, count):
    found = given(lambda: cuda.jit(fill.py_func)[grid, 32])
    assert len(found) == count
    assert all("low occupancy" in text for text in found)


def test_forall_has_a_grid_too(asked):
    values = cuda.device_array(10, np.int64)
    assert any("Grid size 1 " in text for text in given(lambda: cuda.jit(fill.py_func).forall(10)(values, 10)))


def test_nobody_is_told_of_a_reduction_s_grids(asked):
    assert given(lambda: cuda.reduce(lambda a, b: a + b)(np.ones(1000))) == []


@pytest.mark.parametrize(
    ("value", "count"),
    [
        (lambda: np.zeros(4), 1),
        (lambda: cuda.pinned_array(4), 1),
        (lambda: cuda.In(np.zeros(4)), 1),
        (lambda: cuda.Out(np.zeros(4)), 0),
        (lambda: cuda.device_array(4), 0),
        (lambda: cuda.mapped_array(4), 0),
        (lambda: cuda.managed_array(4), 0),
    ],
)
def test_host_arrays(asked, value, count):
    made = value()
    found = given(lambda: fill[128, 32](made, 4))
    assert found == ["Host array used in CUDA kernel will incur copy overhead to/from device."] * count


def test_the_warning_points_at_the_program(asked):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        cuda.jit(fill.py_func)[1, 32](np.zeros(4), 4)
    assert [item.filename for item in found] == [__file__] * 2


@pytest.mark.parametrize("setting", [*SETTINGS, "DISABLE_PERFORMANCE_WARNINGS"])
def test_a_setting_turns_them_off(asked, setting):
    asked.setattr(config, setting, int(setting.startswith("DISABLE")))
    found = given(lambda: cuda.jit(fill.py_func)[1, 32](np.zeros(4), 4))
    assert len(found) == (0 if setting.startswith("DISABLE") else 1)


@pytest.mark.parametrize("setting", SETTINGS)
def test_numba_s_settings_count(asked, setting):
    settings = pytest.importorskip("numba.core.config")
    asked.setattr(settings, "DISABLE_PERFORMANCE_WARNINGS", 0)
    asked.setattr(settings, setting, 0)
    assert len(given(lambda: cuda.jit(fill.py_func)[1, 32](np.zeros(4), 4))) == 1


@pytest.mark.parametrize(("text", "expected"), [("0", "0"), ("1", "1"), ("", "1"), ("yes", "1")])
def test_the_environment_says_what_is_wanted(text, expected):
    program = "from bitfusion.cuda import config; print(config.CUDA_LOW_OCCUPANCY_WARNINGS)"
    environment = {"NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS": text}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_programs_find_the_settings_where_numba_has_them():
    assert stand_in.module("numba.config") is hooked.module("numba.cuda.config") is config


@pytest.mark.parametrize("count", [32, 33])
def test_more_values_than_a_print_can_have(count, client, capsys):
    values = ", ".join(map(str, range(count)))
    scope = {}
    text = f"def kernel(out):\n    print({values})\n"
    linecache.cache["<printing>"] = (len(text), None, text.splitlines(True), "<printing>")
    exec(compile(text, "<printing>", "exec"), scope)
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        cuda.jit(scope["kernel"])[128, 1](cuda.device_array(1))
    cuda.synchronize()
    expected = (
        [] if count == 32 else ["CUDA print() cannot print more than 32 items. The raw format string will be emitted"]
    )
    assert [str(item.message).partition(" by the kernel")[0] for item in given] == expected
    assert {item.filename for item in given} <= {__file__}
    line = " ".join(["%lld"] * count) if expected else values.replace(",", "")
    assert capsys.readouterr().out.splitlines() == [line] * 128
