"""Extensions of ``jit``: what changes arguments before a launch."""

from __future__ import annotations

import numpy as np

from bitfusion import cuda
from bitfusion.cuda.args import wrap_arg


def three(values):
    values[0] = 3


class DefaultIn:
    """Host arrays are not copied back."""

    def prepare_args(self, ty, val, **keywords):
        return ty, wrap_arg(val, default=cuda.In)


class Named:
    """Objects of a class of the program's own, by their array; tells when the launch has been posted."""

    def __init__(self):
        self.told = []

    def prepare_args(self, ty, val, *, stream, retr):
        self.told.append((ty is None, stream))
        retr.append(lambda: self.told.append("after"))
        return (ty, val.values) if isinstance(val, Holder) else (ty, val)


class Holder:
    def __init__(self, values):
        self.values = values


def test_the_option(client):
    values = np.zeros(1)
    cuda.jit(three, extensions=[DefaultIn()])[1, 1](values)
    assert values[0] == 0


def test_one_that_is_added_counts_from_then_on(client):
    kernel, values = cuda.jit(three), np.zeros(1)
    held = cuda.to_device(values)
    kernel[1, 1](held)
    kernel[1, 1](held)  # the quick way
    named = Named()
    kernel.extensions.append(named)
    kernel[1, 1](held)
    kernel.forall(1)(held)
    assert named.told == [(False, 0), "after"] * 2


def test_objects_of_the_program_become_arrays(client):
    named, values = Named(), np.zeros(1)
    cuda.jit(three, extensions=[named])[1, 1](Holder(values))
    assert values[0] == 3
    assert named.told == [(True, 0), "after"]


def test_the_last_is_the_first_and_hints_win(client):
    values = np.zeros(1)
    cuda.jit(three, extensions=[DefaultIn()])[1, 1](cuda.InOut(values))
    assert values[0] == 3
    values[0] = 0
    cuda.jit(three, extensions=[DefaultIn(), Named()])[1, 1](Holder(values))
    assert values[0] == 0
