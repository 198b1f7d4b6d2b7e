"""``vectorize``: signatures, broadcasting, where arguments and results are, and what cannot be."""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.cuda import ufunc
from bitfusion.cuda.ufunc import CUDAVectorize
from bitfusion.errors import InvalidValueError, KernelTypeError

pytestmark = pytest.mark.usefixtures("client")

SIGNATURES = ["int32(int32, int32)", "float32(float32, float32)", cuda.float64(cuda.float64, cuda.float64)]


@cuda.vectorize(SIGNATURES)
def add(a, b):
    return a + b


def on_host(value):
    return value.copy_to_host() if isinstance(value, cuda.DeviceArray) else value


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 31, 256, 10_001])
def test_arrays(dtype, size):
    values = np.arange(size).astype(dtype)
    result = add(values, values[::-1])
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, values + values[::-1])


A, B = np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.arange(4, dtype=np.float32)
SHAPES = {
    "same": (A, A),
    "row": (A, B),
    "column": (A, np.ones((3, 1), np.float32)),
    "outer": (B[:, None], B[None, :]),
    "transposed": (A.T, np.asfortranarray(A.T)),
    "reversed": (A[::-1, :, ::-1], A),
    "every second": (A[:, ::2, ::2], np.float32(1)),
    "no dimensions": (np.array(2, np.float32), np.array(3, np.float32)),
    "empty": (A[:, :0], B),
    "many": (np.ones((2,) * 7, np.float32), np.ones((2,) * 7, np.float32).T),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("places", ["host host", "device device", "device host"])
def test_broadcasting(name, places):
    given = [
        cuda.to_device(value) if place == "device" and np.ndim(value) else value
        for place, value in zip(places.split(), SHAPES[name], strict=True)
    ]
    result = add(*given)
    assert isinstance(result, cuda.DeviceArray) == any(isinstance(value, cuda.DeviceArray) for value in given)
    expected = np.add(*SHAPES[name])
    assert result.shape == expected.shape
    np.testing.assert_array_equal(on_host(result), expected)


def test_views_of_device_arrays():
    device = cuda.to_device(A)
    np.testing.assert_array_equal(add(device[::-1, 1:], device.T.T[:, :-1]).copy_to_host(), A[::-1, 1:] + A[:, :-1])


def test_scalars():
    assert add(1.2, 2.3).tolist() == [3.5]
    device = cuda.to_device(np.arange(3.0))
    assert add(1, device).copy_to_host().tolist() == [1, 2, 3]
    assert add(np.arange(3, dtype=np.int32), 2).tolist() == [2, 3, 4]
    assert add(np.float32(1), np.float32(2)).dtype == np.float32


def test_sequences():
    point = namedtuple("point", "x y")
    assert add((1.0, 2.0), point(3.0, 4.0)).tolist() == [4, 6]
    rows = (np.arange(3, dtype=np.int32), np.arange(3, dtype=np.int32) + 1)
    assert add(rows, rows).tolist() == [[0, 2, 4], [2, 4, 6]]


@pytest.mark.parametrize("place", [np.asarray, cuda.to_device])
def test_out(place, client):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    out = place(np.zeros_like(values))
    assert add(values, values, out=out) is out
    np.testing.assert_array_equal(on_host(out), values * 2)
    device = cuda.to_device(values)
    assert add(device, device, out=device) is device
    np.testing.assert_array_equal(device.copy_to_host(), values * 2)
    strided = np.zeros((2, 6), np.float32)
    add(device, 1.0, out=strided[:, ::2])
    np.testing.assert_array_equal(strided[:, ::2], values * 2 + 1)


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (np.zeros(3, np.float32), ValueError),
        (np.zeros(4, np.float64), TypeError),
        ([0.0] * 4, TypeError),
        (np.broadcast_to(np.float32(0), 4), ValueError),
    ],
)
def test_out_that_does_not_fit(out, error):
    with pytest.raises(error, match="out"):
        add(B, B, out=out)


def test_streams():
    stream = cuda.stream()
    device = cuda.to_device(np.arange(1000, dtype=np.float32), stream)
    result = add(device, device, stream=stream)
    np.testing.assert_array_equal(result.copy_to_host(stream=stream), np.arange(1000) * 2)


def test_complex_numbers_and_device_functions():
    @cuda.jit(device=True)
    def turned(z, angle):
        return z * complex(math.cos(angle), math.sin(angle))

    @cuda.vectorize(["complex128(complex128, float64)", "complex64(complex64, float32)"], target="cuda")
    def turn(z, angle):
        return turned(z, angle)

    values = np.array([1, 1j, 2 - 1j])
    np.testing.assert_allclose(turn(values, np.pi / 2), values * 1j, atol=1e-12)
    assert turn(values.astype(np.complex64), np.float32(1)).dtype == np.complex64


def test_other_result_types():
    @cuda.vectorize(["boolean(float64, int64)"])
    def larger(x, count):
        return x > count

    result = larger(np.array([0.5, 3.5]), np.array([1, 2]))
    assert result.dtype == bool and result.tolist() == [False, True]


@pytest.mark.parametrize("name", ["core", "grid", "loop"])
def test_a_function_may_be_called_anything(name):
    def plain(x):
        return x * 2

    plain.__name__ = plain.__qualname__ = name
    doubled = cuda.vectorize("float64(float64)")(plain)
    assert doubled.__name__ == name and "on the GPU" in repr(doubled)
    assert doubled(np.ones(2)).tolist() == [2, 2]


def test_blocks_can_be_bounded():
    @cuda.vectorize("int64(int64)")
    def threads(x):
        return cuda.blockDim.x

    assert set(threads(np.arange(300)).tolist()) == {256}
    threads.max_blocksize = 32
    assert set(threads(np.arange(300)).tolist()) == {32}
    threads.max_blocksize = 0
    with pytest.raises(InvalidValueError, match="at least one thread"):
        threads(np.arange(3))


@pytest.mark.parametrize("size", [1, 2, 255, 257, 70_000])
@pytest.mark.parametrize("place", [np.asarray, cuda.to_device])
def test_reduce(size, place, client):
    values = np.arange(size, dtype=np.int32)
    stream = cuda.stream()
    result = add.reduce(place(values), stream=stream)
    assert result == values.sum(dtype=np.int32) and result.dtype == np.int32


def returns_nothing(x):
    return


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        (lambda: add(B, B.astype(np.int64)), TypeError, "No matching version.*float32, int64.*int32\\(int32, int32\\)"),
        (lambda: add(1, np.array(["a"])), TypeError, "No matching version"),
        (lambda: add(B), TypeError, "No matching version"),
        (lambda: add(1, 2), TypeError, "ambiguous"),
        (lambda: add(B, B[:3]), ValueError, "failed to broadcast"),
        (lambda: add.reduce(A), TypeError, "one dimension"),
        (lambda: add.reduce(B[:0]), TypeError, "empty"),
        (lambda: cuda.vectorize([], target="cpu"), ValueError, "Unsupported target"),
        (lambda: cuda.vectorize(["float32[:](float32[:])"])(abs), KernelTypeError, "takes and returns numbers"),
        (lambda: cuda.vectorize(["(float32,)"])(returns_nothing), KernelTypeError, "takes and returns numbers.*none"),
        (lambda: cuda.vectorize(add.py_func)(add.py_func), KernelTypeError, "needs its signatures"),
        (lambda: cuda.vectorize([])(add.py_func)(B, B), TypeError, "There are: none"),
        (lambda: cuda.vectorize(SIGNATURES, speed=9)(add.py_func), KeyError, "does not support option: 'speed'"),
        (lambda: cuda.vectorize(SIGNATURES, cache=True)(add.py_func), TypeError, "caching"),
    ],
)
def test_what_cannot_be(wrong, error, match):
    with pytest.raises(error, match=match):
        wrong()


def test_results_that_the_compiler_says():
    @cuda.vectorize(["(int32, int32)", (cuda.float32, cuda.float32)])
    def quotient(a, b):
        return a / b

    assert [str(signature.return_type) for signature in quotient.types] == ["float64", "float32"]
    assert quotient(np.int32(1), np.arange(1, 3, dtype=np.int32)).tolist() == [1, 0.5]


def test_a_function_of_other_results_cannot_reduce():
    @cuda.vectorize("float64(float32, float32)")
    def product(a, b):
        return a * b

    with pytest.raises(TypeError, match="reduce needs"):
        product.reduce(B)


def test_warnings():
    with pytest.warns(RuntimeWarning, match="nopython kwarg for cuda target is redundant"):
        cuda.vectorize(SIGNATURES, nopython=True)(add.py_func)
    with pytest.warns(UserWarning, match="unrecognized keywords: where"):
        add(B, B, where=True)


def test_a_builder_for_numbas_own_decorator():
    builder = CUDAVectorize(add.py_func, identity=0, targetoptions={})
    builder.add("float64(float64, float64)")
    builder.disable_compile()
    assert builder.build_ufunc()(1.0, 2.0).tolist() == [3]
    assert add.max_blocksize == ufunc.THREADS_MAX
