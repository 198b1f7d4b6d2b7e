"""Kernels in pickles: by reference, as functions are."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import numpy as np
import pytest

from bitfusion import cuda


@cuda.jit(device=True)
def step(value):
    return value + 1


@cuda.jit
def advance(values):
    if cuda.grid(1) == 0:
        values[0] = step(values[0])


class Holder:
    @cuda.jit
    def kernel(values):
        values[0] = 2


def run(launch):
    values = np.zeros(1)
    launch(values)
    return float(values[0])


@pytest.mark.parametrize("made", [advance, step, Holder.kernel])
def test_what_a_module_holds_is_itself(made):
    assert pickle.loads(pickle.dumps(made)) is made
    assert copy.deepcopy(made) is made


def test_a_launch_keeps_its_configuration(client):
    made = pickle.loads(pickle.dumps(advance[2, (8, 1), 0, 64]))
    assert (made.griddim, made.blockdim, made.stream, made.sharedmem) == ((2, 1, 1), (8, 1, 1), 0, 64)
    assert made.dispatcher is advance
    assert run(made) == 1


def test_other_processes_take_kernels(client, virtual_appliance, monkeypatch):
    monkeypatch.setenv("BITFUSION_SERVER", virtual_appliance.address)
    monkeypatch.setenv("BITFUSION_MEMORY", "32MiB")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(run, (advance[1, 1],)) == 1


def test_what_no_module_holds():
    local = cuda.jit(lambda values: None)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(local)
