"""Constants of kernels, there and back."""

from __future__ import annotations

import collections
import enum

import numba
import numpy as np
import pytest
from numba import types as numba_types

from bitfusion.errors import KernelError, KernelTypeError, RemoteProtocolError
from bitfusion.kernels import types
from bitfusion.kernels.constants import decode_constant, encode_constant, holds_text
from bitfusion.kernels.named import FIELD_COUNT_MAX
from bitfusion.wire import codec

POINT = np.dtype([("x", np.float32), ("m", np.int16, (2, 3))], align=True)


class Level(enum.IntEnum):
    HIGH = 7


class Word(enum.Enum):
    A = "a"


class Planet(enum.Enum):
    EARTH = (5.9e24, 6)
    MARS = (6.4e23, 3)


Corner = collections.namedtuple("Corner", "x y")


def there_and_back(value):
    return decode_constant(codec.unpack(codec.pack(encode_constant(value))))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -(2**63),
        2**64 - 1,
        1.5,
        float("inf"),
        1 - 2j,
        "text",
        b"bytes",
        (),
        (1, (2.5, "x"), None),
        np.float32(1.5),
        np.uint8(7),
        np.bool_(True),
        np.complex64(1 + 2j),
        np.float64(2.5),
        np.int64(-1),
        np.float16(0.5),
        np.datetime64(3, "s"),
        np.timedelta64(3, "ns"),
        np.bytes_(b"abc"),
        np.dtype("S5"),
        np.dtype(np.float32),
        POINT,
        types.float32,
        types.float32[:, ::1],
        types.from_dtype(POINT),
    ],
)
def test_values_come_back_as_they_were(value):
    back = there_and_back(value)
    assert back == value and type(back) is type(value)


def test_classes_of_the_program():
    """The worker's own classes, one for each."""
    level, planet, corner = map(there_and_back, (Level, Planet, Corner))
    assert issubclass(level, enum.IntEnum) and not issubclass(planet, enum.IntEnum)
    assert [(member.name, member.value) for member in planet] == [("EARTH", (5.9e24, 6)), ("MARS", (6.4e23, 3))]
    assert there_and_back(Planet.MARS) is planet.MARS
    assert there_and_back((Level.HIGH, 1)) == (level.HIGH, 1)
    point = there_and_back(Corner(1, Corner(2.5, 3)))
    assert type(point) is corner and point._fields == ("x", "y") and point.y.x == 2.5


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        np.arange(12)[::2],
        np.zeros((0, 3)),
        np.array(5),
        np.array([True, False]),
        np.zeros(3, POINT),
        np.array(["text", "of", "some"]),
        np.array(["2020-01-01"], "M8[D]"),
    ],
)
def test_arrays_keep_dtype_shape_and_order(array):
    back = there_and_back(array)
    assert back.dtype == array.dtype and back.shape == array.shape
    assert np.array_equal(back, array)
    assert back.flags.f_contiguous == array.flags.f_contiguous or not array.flags.c_contiguous
    assert not back.flags.writeable


def test_names_for_the_same_value():
    assert encode_constant(numba_types.void) == ("type", "none")
    assert encode_constant(numba_types.float32) == ("type", "float32")
    assert encode_constant(numba_types.float32[:, ::1]) == ("type", ("array", "float32", 2, "C"))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (numba_types.float32[:], types.float32[:]),
        (numba.from_dtype(POINT), types.from_dtype(POINT)),
        (numba.from_dtype(POINT)[:, :], types.from_dtype(POINT)[:, :]),
        (numba_types.UniTuple(numba_types.int8, 2), types.Tuple([types.int8, types.int8])),
    ],
    ids=str,
)
def test_numbas_types_are_ours(theirs, ours):
    assert there_and_back(theirs) is ours


@pytest.mark.parametrize(
    "value",
    [
        [1],
        {},
        object(),
        print,
        lambda: 0,
        b"x" * 1025,
        Word.A,
        2**64,
        -(2**63) - 1,
        "x" * 1025,
        "\udc80",
        (0,) * 1025,
        np.zeros(10000),
        np.array([None]),
        np.datetime64(0, "25s"),
        np.dtype("O"),
        np.zeros(1, POINT)[0],
        {1},
        numba_types.List(numba_types.int32),
        types.Tuple,
    ],
)
def test_what_cannot_travel(value):
    with pytest.raises(KernelTypeError, match=r"travel|too large|cannot use"):
        encode_constant(value)


def test_tuples_in_tuples_end():
    value = ()
    for _ in range(20):
        value = (value,)
    with pytest.raises(KernelTypeError):
        encode_constant(value)
    plain = ("tuple", ())
    for _ in range(20):
        plain = ("tuple", (plain,))
    with pytest.raises(RemoteProtocolError):
        decode_constant(plain)


@pytest.mark.parametrize(
    "value",
    [
        b"x",
        {},
        [],
        ["word"],
        ["complex", 1, 2],
        ["complex", 1.0],
        ["tuple", "abc"],
        ["tuple", 1],
        2**64,
        ["scalar", "float32", b"123"],
        ["scalar", "none", b""],
        ["scalar", ["array", "float32", 1, "C"], b"1234"],
        ["array", "float32", [1], "C", b"12345"],
        ["array", "float32", [-1], "C", b"1234"],
        ["array", "float32", [1], "A", b"1234"],
        ["array", "float32", [1] * 9, "C", b"1234"],
        ["array", "float32", [0, 65536, 65536, 65536, 65536], "C", b""],
        ["array", "float32", [True], "C", b"1234"],
        ["array", "uint8", [70000], "C", bytes(70000)],
        ["dtype", "none"],
        ["dtype", "os"],
        ["type", 5],
        ["fields", "P q", ["x"]],
        ["fields", "P", ["x", "__class__"]],
        ["fields", "P", ["class"]],
        ["fields", "P", [1]],
        ["named", ["fields", "P", ["x"]], ["tuple", [1, 2]]],
        ["named", ["enum", "E", True, [["A", 1]]], ["tuple", [1]]],
        ["named", ["fields", "P", ["x"]], 1],
        ["enum", "E", True, [["A", "text"]]],
        ["enum", "E", True, [["A", 1.5]]],
        ["enum", "E", False, [["A", ["tuple", ["text"]]]]],
        ["enum", "E", False, [["mro", 1]]],
        ["enum", "E", False, [["_missing_", 1]]],
        ["enum", "E", False, [["A", 1], ["A", 2]]],
        ["member", ["enum", "E", True, [["A", 1]]], "B"],
        ["member", ["enum", "E", True, [["A", 1]]], "__class__"],
        ["device", "float32", -1, [1], [4]],
        ["device", "float32", 4096, [1], [4, 4]],
        ["device", "float32", 4096, [-1], [4]],
        ["device", "float32", 4096, ["x"], [4]],
        ["device", ["array", "float32", 1, "C"], 4096, [1], [4]],
        ["device", "none", 4096, [1], [4]],
        ["device", "bool", 4096, [1], [1]],
        ["fields", "Point", [f"f{number}" for number in range(FIELD_COUNT_MAX + 1)]],
        ["device", "datetime64[s]", 4096, [1], [8]],
        ["device", "float32", 4096, [1] * 9, [4] * 9],
        ["type", None],
    ],
)
def test_what_a_peer_cannot_send(value):
    with pytest.raises((KernelError, RemoteProtocolError)):
        decode_constant(codec.unpack(codec.pack(value)) if value != 2**64 else value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", True),
        (b"a", True),
        ((1, ("a",)), True),
        (1, False),
        ((1, 2), False),
        (np.zeros(1), False),
        (np.array(["a"]), True),
        (np.zeros(1, [("x", "S2", 2)]), True),
    ],
)
def test_text_is_found_in_tuples(value, text):
    assert holds_text(value) is text
