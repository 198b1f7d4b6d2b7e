"""The argument types against Numba's own: same spelling, same layouts, same ``typeof``."""

from __future__ import annotations

import collections
import copy
import enum
import pickle

import numpy as np
import pytest
from numba.cuda import types as numba_types
from numba.cuda.typing.typeof import typeof as numba_typeof

from bitfusion.errors import KernelTypeError
from bitfusion.kernels import types
from bitfusion.kernels.foreign import foreign_type
from bitfusion.kernels.named import EnumMember, NamedTuple
from bitfusion.kernels.numba_types import numba_type
from bitfusion.kernels.packing import Packer, array_argument
from bitfusion.kernels.signatures import decode, encode
from bitfusion.kernels.typeof import typeof
from bitfusion.kernels.types import SCALARS, Chars, Signature, float32, from_dtype, int32, void
from bitfusion.wire import codec

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


@pytest.mark.parametrize("readonly", [False, True])
def test_whether_an_array_can_be_written_to_is_kept_both_ways(readonly):
    ours = types.Array(float32, 2, "C", readonly)
    assert foreign_type(numba_type(ours)) is ours
    assert pickle.loads(pickle.dumps(ours)) is ours
    assert str(ours) == str(numba_type(ours))


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
        np.broadcast_to(np.float32(1), (2, 3)),
        np.frombuffer(b"abcd", np.int16),
        np.zeros(2, POINT),
        np.zeros(1, POINT)[0],
        np.datetime64("2020-01-01", "D"),
        np.timedelta64(3, "ns"),
        np.zeros(3, "M8[ms]"),
        np.array(["abc"]),
        np.array([b"abc"]),
        np.zeros(2, [("name", "U4"), ("code", "S2"), ("when", "M8[s]")]),
    ],
)
def test_typeof_is_numbas(value):
    theirs = numba_typeof(value)
    assert numba_type(typeof(value)) == theirs


def test_typeof_beyond_64_signed_bits():
    assert typeof(2**63) is types.uint64
    with pytest.raises(KernelTypeError, match="64 bits"):
        typeof(2**64)


def test_typeof_of_a_device_array_is_what_it_says():
    class Device:
        __bitfusion_argument__ = array_argument(np.dtype(np.float32), (2, 3), (12, 4), 0x1000)

    assert typeof(Device()) is float32[:, ::1]


@pytest.mark.parametrize(
    "value",
    ["text", object(), [1], {}, np.array([object()]), np.zeros(2, ">f4"), np.datetime64(1, "25s")],
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


class Colour(enum.Enum):
    RED = 1.5
    BLUE = 2.5


Point = collections.namedtuple("Point", "x y")
Pair = collections.namedtuple("Pair", "left right")


@pytest.mark.parametrize("value", [Level.HIGH, Colour.BLUE, Point(1, 2.5), Pair(1, 2), (Point(1, Level.HIGH), 3)])
def test_classes_of_the_program_become_classes_of_the_same_names(value):
    """Numba's types are of the worker's own classes, which spell like those of the program."""
    kind = typeof(value)
    assert decode(codec.unpack(codec.pack(encode(kind)))) is kind
    assert numba_type(kind) == numba_type(kind)
    assert str(numba_type(kind)).count("(") == str(numba_typeof(value)).count("(")
    assert pickle.loads(pickle.dumps(kind)) is kind
    assert Packer(Signature(types.none, kind)).pack([value])


def test_one_and_true_make_two_enums():
    kinds = [EnumMember("Switch", False, [("ON", value)]) for value in (1, 1.0, True)]
    assert len(set(kinds)) == len({id(numba_type(kind).instance_class) for kind in kinds}) == 3
    assert [kind.dtype.name for kind in kinds] == ["int64", "float64", "bool"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: EnumMember("E", False, []),
        lambda: EnumMember("E", False, [("A", 1), ("B", 1.5)]),
        lambda: EnumMember("E", False, [("A", "text")]),
        lambda: EnumMember("E", True, [("A", 1.5)]),
        lambda: EnumMember("E", False, [("mro", 1)]),
        lambda: EnumMember("E", False, [("_missing_", 1)]),
        lambda: EnumMember("E", False, [("A", 1), ("A", 2)]),
        lambda: EnumMember("E()", False, [("A", 1)]),
        lambda: NamedTuple("P", ["x"], []),
        lambda: NamedTuple("P", ["x", "x"], [int32, int32]),
        lambda: NamedTuple("P", ["class"], [int32]),
        lambda: NamedTuple("P", ["_x"], [int32]),
        lambda: NamedTuple("P", ["x=print()"], [int32]),
        lambda: NamedTuple("P q", ["x"], [int32]),
        lambda: Chars("S", 0),
        lambda: Chars("X", 1),
        lambda: Chars("U", 1 << 30),
    ],
)
def test_classes_that_are_not_made(make):
    with pytest.raises(KernelTypeError):
        make()
