"""Fixtures that every test may use: appliances that live as long as the test run, clients as long as a test."""

from __future__ import annotations

import os

import pytest

from tests.appliance import Appliance

os.environ["NUMBA_DISABLE_PERFORMANCE_WARNINGS"] = "1"  # small grids and host arrays are what most tests launch


@pytest.fixture(scope="session")
def virtual_appliance(tmp_path_factory):
    """An appliance with one virtual GPU of 1 GiB, or with the devices that BITFUSION_TEST_DEVICES names (scripts/gpu_check.py)."""
    devices = os.environ.get("BITFUSION_TEST_DEVICES", "virtual:1x1GiB")
    with Appliance(devices, tmp_path_factory.mktemp("virtual")) as appliance:
        yield appliance


@pytest.fixture(scope="session")
def null_appliance(tmp_path_factory):
    """An appliance with a device that does nothing."""
    with Appliance("null", tmp_path_factory.mktemp("null")) as appliance:
        yield appliance
