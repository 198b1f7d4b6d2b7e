"""What kernels take and close over beside numbers and arrays: named tuples, enums, dates, text, arrays in device memory."""

from __future__ import annotations

import collections
import enum

import numpy as np
import pytest

import bitfusion
from bitfusion import cuda
from bitfusion.errors import BitfusionError, KernelSourceError, SessionClosedError

pytestmark = pytest.mark.usefixtures("client")

DAY = np.timedelta64(1, "D")
START = np.datetime64("2019-12-31")


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


class Shape(enum.IntEnum):
    SQUARE = 3
    CIRCLE = 4


class Planet(enum.Enum):
    MERCURY = (3.3e23, 2.4e6)
    EARTH = (5.9e24, 6.3e6)


class Text(enum.Enum):
    A = "a"


Point = collections.namedtuple("Point", "x y")
ORIGIN = Point(3, 4.5)
FAVOURITE = Shape.CIRCLE


def ran(kernel, *arguments, count=8):
    out = cuda.to_device(np.zeros(count))
    cuda.jit(kernel)[1, 1](out, *arguments)
    return out.copy_to_host().tolist()


def test_enums():
    def kernel(out, shape, colour):
        out[0] = shape == Shape.CIRCLE
        out[1] = colour is Colour.GREEN
        out[2] = Shape.SQUARE.value + FAVOURITE
        out[3] = Colour.GREEN.value
        out[4] = colour.value
        out[5] = Shape.SQUARE + 1
        if colour == Colour.RED:
            out[6] = 1

    assert ran(kernel, Shape.CIRCLE, Colour.GREEN) == [1, 1, 7, 2, 2, 4, 0, 0]


def test_named_tuples():
    def kernel(out, point):
        made = Point(1, 2)
        out[0] = point.x + point.y
        out[1] = ORIGIN.x + ORIGIN.y
        out[2] = made.x + 10 * made[1]

    assert ran(kernel, Point(1, 2.5), count=3) == [3.5, 7.5, 21]


def test_a_named_tuple_of_arrays():
    def kernel(out, point):
        point.x[0] = 5
        out[0] = point.y[1]

    point = Point(cuda.to_device(np.zeros(2)), np.arange(2.0))
    assert ran(kernel, point, count=1) == [1]
    assert point.x.copy_to_host()[0] == 5


def test_dates():
    @cuda.jit
    def kernel(out, first, second, days):
        out[0] = second - first
        out[1] = days[1] - days[0]
        out[2] = days[1] - START + DAY

    out = cuda.to_device(np.zeros(3, "m8[s]"))
    days = np.array(["2020-01-01", "2020-01-03"], "M8[s]")
    kernel[1, 1](out, np.datetime64("2020-01-01T00:00:00"), np.datetime64("2020-01-02T00:00:00"), days)
    assert out.copy_to_host().tolist() == [np.timedelta64(days, "D") for days in (1, 2, 4)]
    with pytest.raises(BitfusionError, match="days"):
        cuda.jit("void(int64)")(lambda days: None)[1, 1](np.timedelta64(3, "D"))


def test_records_with_text_and_dates():
    record = np.dtype([("name", "U5"), ("code", "S3"), ("day", "M8[D]")], align=True)
    values = np.array([("hello", b"abc", "2020-01-01"), ("wrld", b"x", "2021-01-01")], record)

    def kernel(out, records):
        out[0] = len(records[0].name)
        out[1] = records[1].name == "wrld"
        out[2] = records[1].day > records[0].day

    assert ran(kernel, values, count=3) == [5, 1, 1]


def test_bytes():
    code = b"xyz"

    @cuda.jit
    def kernel(out):
        out[0] = b"abc"
        out[1] = code

    out = cuda.to_device(np.zeros(2, "S3"))
    kernel[1, 1](out)
    assert out.copy_to_host().tolist() == [b"abc", b"xyz"]


def test_an_array_in_device_memory_by_its_address():
    closed = cuda.to_device(np.arange(12.0).reshape(3, 4))
    part = closed[1:, ::2]

    @cuda.jit(device=True)
    def at(i):
        return closed[i, 3]

    def kernel(out):
        out[0] = at(2)
        out[1] = part[1, 1]
        out[2] = part.shape[1]
        closed[0, 0] = 42

    assert ran(kernel, count=3) == [11, 10, 2]
    assert closed.copy_to_host()[0, 0] == 42


def test_an_array_of_another_session(virtual_appliance):
    with bitfusion.connect(virtual_appliance.address, memory="16MiB") as other:
        foreign = other.to_device(np.arange(3.0))

        def kernel(out):
            out[0] = foreign[0]

        with pytest.raises(SessionClosedError, match="another session"):
            ran(kernel)


def test_what_cannot_be_closed_over():
    records = cuda.to_device(np.zeros(2, [("x", "f4")]))

    def of_records(out):
        out[0] = records[0].x

    with pytest.raises(KernelSourceError, match=r"test_values\.py:\d+: in of_records: .*as an argument"):
        ran(of_records)

    def of_text(out):
        out[0] = Text.A is Text.A

    with pytest.raises(KernelSourceError, match="no numbers"):
        ran(of_text)


def test_an_enum_of_tuples_is_what_numba_says():
    def kernel(out):
        out[0] = Planet.EARTH is Planet.MERCURY

    assert ran(kernel, count=1) == [0]
