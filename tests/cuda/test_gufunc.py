"""``guvectorize``: layouts, types, where arguments and results are, and what cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.cuda.gufunc import CUDAGUFuncVectorize
from bitfusion.errors import KernelTypeError

pytestmark = pytest.mark.usefixtures("client")


@cuda.guvectorize(
    ["void(float32[:,:], float32[:,:], float32[:,:])", "void(float64[:,:], float64[:,:], float64[:,:])"],
    "(m,n),(n,p)->(m,p)",
)
def matmul(a, b, c):
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            total = c.dtype.type(0)
            for k in range(a.shape[1]):
                total += a[i, k] * b[k, j]
            c[i, j] = total


@cuda.guvectorize([(cuda.int32[:], cuda.int32[:])], "(n)->()", target="cuda")
def total(values, result):
    result[0] = 0
    for value in range(values.size):
        result[0] += values[value]


@cuda.guvectorize("void(int32, int32[:])", "()->()")
def twice(value, result):
    result[0] = 2 * value


@cuda.guvectorize("void(float32, float32[:], float32[:], float32[:])", "(),(t),(t)->(t)")
def saxpy(a, x, y, out):
    for i in range(out.size):
        out[i] = a * x[i] + y[i]


@cuda.guvectorize("void(int32[:], int32[:], float64[:])", "(x)->(x),(x)")
def copy_and_scale(a, b, c):
    for i in range(a.size):
        b[i] = a[i]
        c[i] = a[i] * 1.5


A = np.arange(4 * 25 * 2 * 3, dtype=np.float32).reshape(4, 25, 2, 3)
B = np.arange(4 * 25 * 3 * 5, dtype=np.float32).reshape(4, 25, 3, 5)


@pytest.mark.parametrize("place", [np.asarray, cuda.to_device])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (A, B),
        (A[0, 0], B[0, 0]),
        (A, B[0, 0]),
        (A[:, :1], B[:1]),
        (A.transpose(1, 0, 2, 3)[::-2], B.transpose(1, 0, 2, 3)[::-2]),
        (A.astype(np.float64), B.astype(np.float64)),
        (A[:0], B[:0]),
    ],
)
def test_matmul(a, b, place, client):
    result = matmul(place(a), b)
    assert isinstance(result, cuda.DeviceArray) == (place is cuda.to_device)
    result = np.asarray(result)
    assert result.dtype == a.dtype
    np.testing.assert_allclose(result, a @ b, rtol=1e-5)


def test_results_and_arguments_without_axes():
    values = np.arange(12, dtype=np.int32).reshape(2, 2, 3)
    np.testing.assert_array_equal(total(values), values.sum(2))
    assert total(values[0, 0]) == 3
    assert twice(10) == 20 and twice(10).dtype == np.int32
    np.testing.assert_array_equal(twice(values), values * 2)
    x = np.arange(10, dtype=np.float32).reshape(5, 2)
    for a in (2, np.float32(2), np.arange(5, dtype=np.float32), cuda.to_device(np.arange(5, dtype=np.float32))):
        scale = np.asarray(a) if np.ndim(a) == 0 else np.asarray(a)[:, None]
        np.testing.assert_array_equal(np.asarray(saxpy(a, x, x)), scale * x + x)


def test_an_array_of_one_element_for_a_number():
    @cuda.guvectorize(["void(int32[:], int32[:], int32[:])"], "(n),()->(n)")
    def shifted(x, y, result):
        for i in range(x.size):
            result[i] = x[i] + y[0]

    x = np.arange(4, dtype=np.int32)
    out = np.zeros(4, np.int32)
    shifted(x, np.array([2], np.int32), out=out)
    assert out.tolist() == [2, 3, 4, 5]
    assert shifted(x.reshape(2, 2), np.array([2, 10], np.int32)).tolist() == [[2, 3], [12, 13]]


@pytest.mark.parametrize("place", [np.asarray, cuda.to_device])
def test_several_results(place, client):
    values = np.arange(4, dtype=np.int32)
    whole, scaled = copy_and_scale(values)
    assert whole.tolist() == [0, 1, 2, 3] and scaled.tolist() == [0, 1.5, 3, 4.5]
    outs = place(np.zeros(4, np.int32)), place(np.zeros(4))
    for call in (lambda: copy_and_scale(values, *outs), lambda: copy_and_scale(values, out=outs)):
        assert all(given is out for given, out in zip(call(), outs, strict=True))
    assert np.asarray(outs[1]).tolist() == [0, 1.5, 3, 4.5]


def test_host_results_of_device_arguments():
    values, out = np.arange(6, dtype=np.int32).reshape(2, 3), np.zeros(2, np.int32)
    assert total(cuda.to_device(values), out=out) is out
    assert out.tolist() == [3, 12]


def test_casts():
    assert twice(np.int64(4)) == 8 and twice(np.arange(3, dtype=np.uint8)).dtype == np.int32
    np.testing.assert_allclose(matmul(A[0, 0].astype(np.int32), B[0, 0]), A[0, 0] @ B[0, 0])
    with pytest.raises(TypeError, match=r"does not support \.astype\(\)"):
        twice(cuda.to_device(np.array(4)))
    with pytest.raises(TypeError, match=r"no matching signature of twice for \(complex128\)"):
        twice(1j)


def test_streams():
    stream = cuda.stream()
    values = cuda.to_device(np.ones((100, 3), np.int32), stream)
    out = cuda.device_array(100, np.int32, stream=stream)
    assert total(values, out=out, stream=stream) is out
    assert set(out.copy_to_host(stream=stream).tolist()) == {3}


def test_blocks_can_be_bounded():
    @cuda.guvectorize(["void(int64[:], int64[:])"], "(n)->()")
    def threads(x, result):
        result[0] = cuda.blockDim.x

    threads.max_blocksize = 16
    assert set(threads(np.zeros((40, 2), np.int64)).tolist()) == {16}


def declare(signature, layout, **options):
    return cuda.guvectorize([signature], layout, **options)(twice.py_func)


@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        (lambda: saxpy(1, 2), TypeError, "accepts 3 positional arguments .* or 4 positional .*Got 2 positional"),
        (lambda: twice(1, 2, 3), TypeError, "accepts 1 positional argument .* Got 3"),
        (lambda: twice(1, np.zeros(1), out=np.zeros(1)), ValueError, "both positional and keyword"),
        (lambda: copy_and_scale(np.zeros(2, np.int32), out=np.zeros(2)), ValueError, "out takes 2 arrays"),
        (lambda: matmul(A, B.swapaxes(2, 3)), ValueError, "mismatch argument"),
        (lambda: total(np.zeros((2, 3), np.int32), out=np.zeros(3, np.int32)), ValueError, "output shape mismatch"),
        (lambda: declare("int32(int32, int32[:])", "()->()"), TypeError, "cannot return values.*int32 return type"),
        (lambda: declare("void(int32, int32[:])", "(n)->(n)"), ValueError, "ndim>0 for scalar"),
        (lambda: declare("void(int32[:,:], int32[:])", "(n)->(n)"), ValueError, "2d.* for 1 inner"),
        (lambda: declare("void(int32[:])", "(n)->(n)"), ValueError, "has 2 arrays"),
        (lambda: declare((cuda.types.none, cuda.int32[:]), "()->()"), KernelTypeError, "arrays and numbers"),
        (lambda: declare("void(int32, int32[:])", "()->()", nopython=False), TypeError, "nopython flag must be True"),
        (lambda: declare("void(int32, int32[:])", "()->()", fast=1), TypeError, "are not supported: 'fast'"),
        (lambda: declare("void(int32, int32[:])", "()->()", cache=True), TypeError, "caching"),
        (lambda: declare("void(int32, int32[:])", "()->()", writable_args=(0,)), TypeError, "writable_args"),
        (lambda: declare("void(int32, int32[:])", "()->()", target="cpu"), ValueError, "Unsupported target"),
    ],
)
def test_what_cannot_be(wrong, error, match):
    with pytest.raises(error, match=match):
        wrong()


def test_a_builder_for_numbas_own_decorator():
    builder = CUDAGUFuncVectorize(twice.py_func, "()->()", targetoptions={"nopython": True})
    builder.add("void(int32, int32[:])")
    builder.disable_compile()
    made = builder.build_ufunc()
    assert made(4) == 8 and made.__name__ == "twice" and "generalized" in repr(made)
