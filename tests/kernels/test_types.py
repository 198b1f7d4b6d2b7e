"""The argument types against Numba's own: same spelling, same layouts, same ``typeof``."""

from __future__ import annotations

import copy
import enum
import pickle

import numpy as np
import pytest
from numba.cuda import types as numba_types
from numba.cuda.typing.typeof import typeof as numba_typeof

from bitfusion.errors import KernelTypeError
from bitfusion.kernels import types
from bitfusion.kernels.numba_types import numba_type
from bitfusion.kernels.packing import array_argument
from bitfusion.kernels.types import SCALARS, float32, from_dtype, int32, typeof, void

POINT = np.dtype([("x", np.float32), ("inner", [("n", np.int32), ("m", np.int16, (2, 3))])], align=True)


class Level(enum.IntEnum):
    HIGH = 7


@pytest.mark.parametrize("name", sorted(set(SCALARS) - {"none"}))
def test_scalars_are_numbas(name):
    assert str(numba_type(SCALARS[name])) == name
    assert from_dtype(SCALARS[name].dtype) is SCALARS[name]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (float32[:], numba_types.float32[:]),
        (float32[::1], numba_types.float32[::1]),
        (float32[:, ::1], numba_types.float32[:, ::1]),
        (float32[::1, :], numba_types.float32[::1, :]),
        (float32[:, :, :], numba_types.float32[:, :, :]),
    ],
)
def test_arrays_are_written_as_numbas(ours, theirs):
    assert numba_type(ours) == theirs
    assert str(ours) == str(theirs)


def test_types_are_interned():
    assert float32[:, ::1] is float32[:, ::1]
    assert void(float32, int32) is void(float32, int32)
    assert from_dtype(POINT) is from_dtype(np.dtype(POINT))
    assert types.UniTuple(int32, 2) is types.Tuple((int32, int32))
    for kind in (float32, float32[:], from_dtype(POINT), void(float32), types.UniTuple(int32, 2)):
        assert pickle.loads(pickle.dumps(kind)) is kind
        assert copy.deepcopy(kind) is copy.copy(kind) is kind


@pytest.mark.parametrize(
    "value",
    [
        1,
        -1,
        2**63 - 1,
        1.5,
        True,
        1j,
        None,
        (1, 2.5),
        (1, 2),
        np.float32(1),
        np.uint8(1),
        np.complex64(1),
        np.zeros(3, np.float32),
        np.zeros((2, 3)),
        np.zeros((2, 3), order="F"),
        np.zeros((4, 4))[::2, ::2],
        np.zeros((0, 2)),
        np.zeros((1, 3), order="F"),
        np.zeros((3, 1))[::2],
        np.zeros(()),
        np.zeros(2, POINT),
        np.zeros(1, POINT)[0],
    ],
)
def test_typeof_is_numbas(value):
    theirs = numba_typeof(value)
    if isinstance(theirs, numba_types.Array):
        theirs = theirs.copy(readonly=False)
    assert numba_type(typeof(value)) == theirs


def test_typeof_beyond_64_signed_bits_and_of_enums():
    assert typeof(2**63) is types.uint64
    assert typeof(Level.HIGH) is types.int64
    with pytest.raises(KernelTypeError, match="64 bits"):
        typeof(2**64)


def test_typeof_of_a_device_array_is_what_it_says():
    class Device:
        __bitfusion_argument__ = array_argument(np.dtype(np.float32), (2, 3), (12, 4), 0x1000)

    assert typeof(Device()) is float32[:, ::1]


@pytest.mark.parametrize(
    "value", ["text", object(), [1], {}, np.array(["a"]), np.zeros(2, ">f4"), np.datetime64(0, "s")]
)
def test_what_no_kernel_can_take(value):
    with pytest.raises(KernelTypeError, match="cannot"):
        typeof(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: float32[1:],
        lambda: float32[::2],
        lambda: float32[::1, ::1],
        lambda: float32[:, ::1, :],
        lambda: float32[0],
        lambda: void[:],
        lambda: types.Array(float32, 99, "C"),
        lambda: types.Array(float32, 1, "X"),
        lambda: types.Array(types.UniTuple(int32, 2), 1, "C"),
        lambda: types.Tuple((1, 2)),
        lambda: types.Tuple((void(int32),)),
        lambda: void(void(int32)),
        lambda: float32(1, 2),
        lambda: types.NestedArray(float32, ()),
        lambda: types.NestedArray(float32, (0,)),
        lambda: types.Record((("a b", float32, 0),), 4, False),
        lambda: types.Record((("__class__", float32, 0),), 4, False),
        lambda: types.Record((("x", float32, 2**40),), 4, False),
        lambda: types.Record((("x", types.NestedArray(float32, (2**30,) * 32), 0),), 4, False),
    ],
)
def test_what_is_no_type(make):
    with pytest.raises(KernelTypeError):
        make()


def test_scalars_convert_values():
    assert float32(1.5) == np.float32(1.5) and type(float32(1)) is np.float32
    assert type(types.int8(3)) is np.int8
