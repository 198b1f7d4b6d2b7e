"""Arguments as bytes. Their offsets are held against real PTX in test_compiler.py."""

from __future__ import annotations

import enum
import struct

import numpy as np
import pytest

from bitfusion.errors import KernelTypeError
from bitfusion.kernels import types
from bitfusion.kernels.packing import Packer, array_argument, record_argument
from bitfusion.kernels.types import boolean, float32, int8, int32, int64, uint64, void

POINT = np.dtype([("x", np.float32), ("n", np.int32)])


class Level(enum.IntEnum):
    HIGH = 7


class Device:
    """What a device array shows of itself."""

    def __init__(self, argument):
        self.__bitfusion_argument__ = argument


def device(dtype=np.float32, shape=(2, 3), order="C", address=0x1000):
    array = np.zeros(shape, dtype, order)
    return Device(array_argument(array.dtype, array.shape, array.strides, address))


def pack(signature, *values):
    return Packer(signature).pack(values)


def test_every_kind_at_its_natural_alignment():
    signature = void(int8, types.float64, boolean, types.complex64, types.UniTuple(types.int16, 2), types.none, float32)
    data = pack(signature, -1, 2.5, True, 1 - 2j, (3, 4), None, 0.5)
    assert data == struct.pack("<b7xd?3xff2hQf", -1, 2.5, True, 1.0, -2.0, 3, 4, 0, 0.5)
    assert Packer(signature).size == len(data) == 44


def test_an_array_is_numbas_array_struct():
    assert pack(void(float32[:, ::1]), device()) == struct.pack("<5Q4q", 0, 0, 6, 4, 0x1000, 2, 3, 12, 4)


def test_a_record_is_its_address():
    record = Device(record_argument(POINT, 0x2000))
    assert pack(void(types.from_dtype(POINT)), record) == struct.pack("<Q", 0x2000)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int32, np.int64(5), struct.pack("<i", 5)),
        (int32, True, struct.pack("<i", 1)),
        (int32, Level.HIGH, struct.pack("<i", 7)),
        (int32, np.array(5), struct.pack("<i", 5)),
        (uint64, 2**64 - 1, struct.pack("<Q", 2**64 - 1)),
        (float32, 1, struct.pack("<f", 1.0)),
        (float32, np.float64(0.1), struct.pack("<f", 0.1)),
        (float32, 1e300, struct.pack("<f", float("inf"))),
        (types.float16, 70000.0, struct.pack("<e", float("inf"))),
        (boolean, 5, b"\1"),
        (types.complex128, 2, struct.pack("<dd", 2.0, 0.0)),
    ],
)
def test_values_are_converted_as_numba_does(kind, value, expected):
    assert pack(void(kind), value) == expected


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        (float32[:, :], device()),
        (float32[:, :], device(order="F")),
        (float32[::1, :], device(order="F")),
        (float32[::1, :], device(shape=(1, 3))),
        (float32[:, ::1], device(shape=(1, 3))),
    ],
)
def test_arrays_fit_where_their_layout_does(wanted, given):
    assert pack(void(wanted), given) == given.__bitfusion_argument__.data


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int32, 2**32),
        (int32, 1.5),
        (int32, "5"),
        (int32, None),
        (uint64, -(2**63) - 1),
        (types.none, 0),
        (float32, "1"),
        (float32, 1j),
        (boolean, "x"),
        (float32[:], 5),
        (float32[:], np.zeros(3, np.float32)),
        (float32[:], device()),
        (float32[:, ::1], device(np.float64)),
        (float32[:, ::1], device(order="F")),
        (float32[::1, :], device()),
        (types.UniTuple(int32, 2), (1,)),
        (types.UniTuple(int32, 2), [1, 2]),
        (types.UniTuple(int32, 2), (1, "x")),
        (types.from_dtype(POINT), device()),
    ],
)
def test_what_does_not_fit_is_named(kind, value):
    with pytest.raises(KernelTypeError, match="argument 2 must be") as failure:
        pack(void(int64, kind), 1, value)
    assert failure.value.details["argument"] == 1
    assert failure.value.details["expected"] == str(kind)


@pytest.mark.parametrize("values", [(), (1, 2, 3)])
def test_the_wrong_number_of_arguments(values):
    with pytest.raises(KernelTypeError, match=rf"takes 2 arguments, {len(values)} were given"):
        pack(void(int32, int32), *values)


def test_signatures_that_no_kernel_can_take():
    with pytest.raises(KernelTypeError, match="cannot take"):
        Packer(void(types.NestedArray(int32, (2,))))
