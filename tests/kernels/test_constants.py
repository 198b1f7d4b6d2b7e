"""Constants of kernels, there and back."""

from __future__ import annotations

import enum

import numba
import numpy as np
import pytest
from numba import types as numba_types

from bitfusion.errors import KernelError, KernelTypeError, RemoteProtocolError
from bitfusion.kernels import types
from bitfusion.kernels.constants import decode_constant, encode_constant, holds_text
from bitfusion.wire import codec

POINT = np.dtype([("x", np.float32), ("m", np.int16, (2, 3))], align=True)


class Level(enum.IntEnum):
    HIGH = 7


class Word(enum.Enum):
    A = "a"


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
        (),
        (1, (2.5, "x"), None),
        np.float32(1.5),
        np.uint8(7),
        np.bool_(True),
        np.complex64(1 + 2j),
        np.float64(2.5),
        np.int64(-1),
        np.float16(0.5),
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
    ],
)
def test_arrays_keep_dtype_shape_and_order(array):
    back = there_and_back(array)
    assert back.dtype == array.dtype and back.shape == array.shape
    assert np.array_equal(back, array)
    assert back.flags.f_contiguous == array.flags.f_contiguous or not array.flags.c_contiguous
    assert not back.flags.writeable


def test_names_for_the_same_value():
    assert encode_constant(Level.HIGH) == 7
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
        b"bytes",
        Word.A,
        2**64,
        -(2**63) - 1,
        "x" * 1025,
        "\udc80",
        (0,) * 1025,
        np.zeros(10000),
        np.array(["text"]),
        np.array([None]),
        np.datetime64(0, "s"),
        np.dtype("S5"),
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
        ["type", None],
    ],
)
def test_what_a_peer_cannot_send(value):
    with pytest.raises((KernelError, RemoteProtocolError)):
        decode_constant(codec.unpack(codec.pack(value)) if value != 2**64 else value)


@pytest.mark.parametrize(
    ("value", "text"), [("a", True), ((1, ("a",)), True), (1, False), ((1, 2), False), (np.zeros(1), False)]
)
def test_text_is_found_in_tuples(value, text):
    assert holds_text(value) is text
