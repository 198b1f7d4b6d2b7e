"""``cuda.reduce``."""

from __future__ import annotations

import operator

import numpy as np
import pytest

from bitfusion import cuda

pytestmark = pytest.mark.usefixtures("client")

SUM = cuda.reduce(lambda a, b: a + b)


@cuda.Reduce
@cuda.jit(device=True)
def largest(a, b):
    return max(a, b)


@pytest.mark.parametrize("size", [1, 2, 31, 256, 257, 65_536, 100_003])
@pytest.mark.parametrize("place", [np.asarray, cuda.to_device])
def test_sum(size, place, client):
    values = np.arange(size, dtype=np.int64)
    given = place(values)
    assert SUM(given) == values.sum()
    assert SUM(given, init=42) == values.sum() + 42
    assert SUM(given, size=size // 2) == values[: size // 2].sum()
    assert largest(given) == size - 1


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.complex128])
def test_types(dtype):
    values = np.arange(1000).astype(dtype)
    result = SUM(values)
    assert result.dtype == dtype and result == values.sum(dtype=dtype)
    assert largest(np.array([3, 9, 1], np.int16)) == 9


def test_the_result_may_stay_on_the_gpu():
    stream, result = cuda.stream(), cuda.to_device(np.zeros(3))
    values = cuda.to_device(np.arange(1000.0), stream)
    assert SUM(values, res=result, stream=stream) is None
    stream.synchronize()
    assert result.copy_to_host().tolist() == [499500, 0, 0]


def test_of_nothing():
    assert SUM(np.zeros(0), init=5) == 5
    assert SUM(np.zeros(9, np.int32), size=0) == 0


def test_views():
    values = cuda.to_device(np.arange(1000))
    assert SUM(values[::-3]) == np.arange(1000)[::-3].sum()


def test_what_cannot_be():
    with pytest.raises(TypeError, match="only support 1D array"):
        SUM(np.zeros((2, 2)))
    with pytest.raises(Exception, match="Python function"):
        cuda.reduce(operator.add)(np.zeros(4))
