"""Arrays that may not be written to: kernels that read them run, kernels that write to them are not compiled, and nothing is lost."""

from __future__ import annotations

import re

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.cuda import float32
from bitfusion.errors import KernelCompileError, KernelTypeError

pytestmark = pytest.mark.usefixtures("client")


@cuda.jit
def copy(source, target):
    i = cuda.grid(1)
    if i < target.size:
        target[i] = source[i]


class Holder:
    """Somebody else's array in device memory, which it does not want to be written to."""

    def __init__(self, values):
        self.array = cuda.to_device(values)

    @property
    def __cuda_array_interface__(self):
        return {**self.array.__cuda_array_interface__, "data": (self.array.address, True)}


def frozen(values):
    values = values.copy()
    values.flags.writeable = False
    return values


def mapped(values):
    array = cuda.mapped_array_like(values)
    array[:] = values
    array.flags.writeable = False
    return array


READ_ONLY = {
    "marked": frozen,
    "broadcast": lambda values: np.broadcast_to(values[:1], values.shape),
    "of bytes": lambda values: np.frombuffer(values.tobytes(), values.dtype),
    "strided": lambda values: frozen(values.repeat(2))[::2],
    "In": lambda values: cuda.In(frozen(values)),
    "InOut": lambda values: cuda.InOut(frozen(values)),
    "mapped": mapped,
    "in device memory": Holder,
}


@pytest.mark.parametrize("make", READ_ONLY.values(), ids=READ_ONLY)
def test_it_is_read_and_not_written(make):
    values, out = np.full(5, 7, np.float32), np.zeros(5, np.float32)
    given = make(values)
    copy[1, 8](given, out)
    assert out.tolist() == [7] * 5
    with pytest.raises(KernelCompileError, match="Cannot modify readonly array of type: readonly array") as caught:
        copy[1, 8](values, given)
    assert caught.value.details["file"] == __file__
    copy[1, 8](values, out)  # and of one that can be written to another specialisation is made


def test_a_tuple_of_them():
    @cuda.jit
    def total(arrays, out):
        out[0] = arrays[0][0] + arrays[1][0]

    out = np.zeros(1)
    total[1, 1]((frozen(np.ones(1)), np.ones(1)), out)
    assert out[0] == 2


def test_declared_signatures():
    readonly = cuda.types.Array(float32, 1, "C", readonly=True)
    values, out = np.arange(5, dtype=np.float32), np.zeros(5, np.float32)
    declared = cuda.jit([(readonly, float32[::1])])(copy.py_func)
    for given in (values, frozen(values)):
        declared[1, 8](given, out)
        assert out.tolist() == [0, 1, 2, 3, 4]
    writing = cuda.jit("(float32[::1], float32[::1])")(copy.py_func)
    expected = re.escape("must be array(float32, 1d, C), not readonly array(float32, 1d, C); pass a copy of it")
    with pytest.raises(KernelTypeError, match=expected):
        writing[1, 8](frozen(values), out)
    writing[1, 8](frozen(values).copy(), out)
