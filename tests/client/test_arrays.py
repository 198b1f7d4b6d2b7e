"""Device arrays of both faces against NumPy: every kind of dtype, shape and stride, in and out."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import pytest_asyncio

import bitfusion
from bitfusion.errors import (
    DeviceMemoryError,
    InvalidAddressError,
    InvalidValueError,
    SessionClosedError,
    UnsupportedError,
)
from tests.client.conftest import connect_with
from tests.client.faces import done, host, same, sample

pytestmark = pytest.mark.asyncio(loop_scope="module")

STRUCTURED = np.dtype([("x", "<i4"), ("y", "<f8")])

DTYPES = [
    *"bBhHiIqQefdgFDG?",
    "datetime64[ns]",
    "timedelta64[s]",
    "S5",
    "U7",
    "V6",
    ">i4",
    ">f8",
    ">U3",
    ">M8[s]",
    STRUCTURED,
    np.dtype([("x", "i1"), ("y", "f8")], align=True),
    np.dtype([("inner", STRUCTURED), ("many", "<f4", (2, 3)), ("text", "U3")]),
]

SHAPES = [(), (1,), (7,), (0,), (3, 4), (2, 0, 3), (2, 1, 3), (2, 3, 4)]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["blocking", "asyncio"])
async def client(request, virtual_appliance):
    """One session for all tests of a face: none of them needs fresh memory."""
    client = await done(connect_with(request.param)(virtual_appliance.address, memory="64MiB", deadline=60))
    yield client
    await done(client.close())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
async def test_every_dtype_and_shape_travels_there_and_back(client, dtype):
    for shape in SHAPES:
        expected = sample(dtype, shape)
        array = await done(client.to_device(expected))
        assert (array.shape, array.dtype, array.ndim) == (expected.shape, expected.dtype, expected.ndim)
        assert (array.size, array.nbytes) == (expected.size, expected.nbytes)
        assert array.strides == expected.strides or not expected.size
        same(await host(array), expected)
        if shape:
            assert len(array) == len(expected)
            same(await host(array[::-2]), expected[::-2])
            await done(array.setitem(slice(None, None, 2), expected[::2][::-1]))
            expected[::2] = expected[::2][::-1].copy()
            same(await host(array), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
async def test_fill_sets_every_element(client, dtype):
    value = sample(dtype, (3,))[2]
    for shape in [(), (5,), (2, 3), (0, 2)]:
        array = await done(client.device_array(shape, dtype))
        await done(array.fill(value))
        same(await host(array), np.full(shape, value, dtype))


async def test_an_item_larger_than_a_fill_pattern(client):
    dtype = np.dtype([("many", "f8", (100,)), ("one", "i4")])
    array = await done(client.device_array((2, 3), dtype))
    await done(array.fill(sample(dtype, (2,))[1]))
    same(await host(array), np.full((2, 3), sample(dtype, (2,))[1]))


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


HOSTS = {
    "F order": lambda: np.asfortranarray(sample("i4", (3, 4))),
    "reversed": lambda: sample("i4", (3, 4))[::-1, ::-1],
    "every second": lambda: sample("i4", (6, 8))[::2, ::2],
    "transposed": lambda: sample("f8", (2, 3, 4)).transpose(1, 2, 0),
    "repeated": lambda: np.broadcast_to(sample("i4", (4,)), (3, 4)),
    "read-only": lambda: read_only(sample("i4", (3, 4))),
    "big-endian": lambda: sample(">f8", (3, 4))[:, ::-1],
    "one column": lambda: sample("i4", (5, 5))[:, 2],
    "a field": lambda: sample(STRUCTURED, (4,))["y"],
    "no elements": lambda: sample("i4", (4, 4))[2:2, ::-1],
    "large and strided": lambda: sample("u1", (3000, 3000))[::2, :1500],
}


@pytest.mark.parametrize("name", HOSTS)
async def test_host_arrays_of_any_layout_are_copied_in_and_out(client, name):
    expected = HOSTS[name]()
    array = await done(client.to_device(expected))
    same(await host(array), expected)
    other = await done(client.device_array(expected.shape, expected.dtype))
    await done(other.copy_from_host(expected))
    same(await host(other), expected)
    await done(other.fill(np.zeros((), expected.dtype)))
    await done(other.copy_to_device(expected))
    base = np.zeros([2 * length for length in expected.shape], expected.dtype)
    out = base[tuple(slice(None, None, 2) for _ in expected.shape)]
    assert await host(other, out=out) is out
    same(out, expected)
    assert np.count_nonzero(base) == np.count_nonzero(expected)


async def test_the_order_of_a_host_array_is_kept(client):
    assert (await done(client.to_device(np.zeros((3, 4), order="F")))).is_f_contiguous()
    assert (await done(client.to_device(np.zeros((3, 4))[::2, ::2]))).is_c_contiguous()
    array = await done(client.device_array((3, 4), "i4", order="F"))
    assert (array.flags["C_CONTIGUOUS"], array.flags["F_CONTIGUOUS"]) == (False, True)
    assert (await host(array)).flags.f_contiguous


async def test_arrays_of_any_strides(client):
    """Gaps, negative strides and axes that repeat, as the caller says."""
    for strides in [(32, 8), (8, 24), (-32, 8), (0, 8), (64, -16)]:
        array = await done(client.device_array((3, 4), "f8", strides=strides))
        rows = np.arange(4.0)
        await done(array.setitem(..., rows))
        same(await host(array), np.broadcast_to(rows, (3, 4)))
        assert array.strides == strides


KEYS = [
    ...,
    0,
    -1,
    slice(1, None),
    slice(None, None, -1),
    slice(5, 1, -2),
    (slice(None), 2),
    (slice(None), slice(1, 4)),
    (slice(None, None, 2), slice(None, None, -2)),
    (None, slice(None), None, 3),
    (slice(4, 2), slice(None)),
    (..., None),
    (slice(1, 3), ..., slice(-3, None)),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
async def test_views_read_and_write_as_numpys(client, key):
    expected = sample("i4", (6, 5))
    array = await done(client.to_device(expected))
    view = await done(array.getitem(key))
    same(await host(view), expected[key])
    await done(array.setitem(key, 77))
    expected[key] = 77
    same(await host(array), expected)
    values = sample("i4", expected[key].shape) + 1000
    await done(array.setitem(key, values))
    expected[key] = values
    same(await host(array), expected)
    source = await done(client.to_device(values[::-1]))
    await done(array.setitem(key, source))
    expected[key] = values[::-1]
    same(await host(array), expected)


async def test_an_element_of_a_plain_dtype_is_a_numpy_scalar(client):
    array = await done(client.to_device(sample("f4", (3, 4))))
    element = await done(array.getitem((1, 2)))
    assert type(element) is np.float32
    assert element == 6
    record = await done((await done(client.to_device(sample(STRUCTURED, (3,))))).getitem(2))
    assert record.shape == ()
    same(await host(record), sample(STRUCTURED, (3,))[2:].reshape(()))


async def test_fields_of_structured_arrays_are_views(client):
    dtype = np.dtype([("inner", STRUCTURED), ("many", "<f4", (2, 3))])
    expected = sample(dtype, (4,))
    array = await done(client.to_device(expected))
    same(await host(await done(array.getitem("many"))), expected["many"])
    same(await host((await done(array.getitem("inner")))["y"]), expected["inner"]["y"])
    await done((await done(array.getitem("inner"))).setitem("x", [4, 3, 2, 1]))
    expected["inner"]["x"] = [4, 3, 2, 1]
    same(await host(array), expected)
    with pytest.raises(IndexError, match="no field 'z'"):
        await done(array.getitem("z"))


ASSIGNMENTS = [
    (slice(None), 3.7),
    (slice(None), [1, 2, 3, 4]),
    (slice(None), np.arange(3).reshape(3, 1)),
    ((slice(None), slice(None, None, 2)), np.arange(6.0).reshape(1, 3, 2)),
    (0, np.float32(2.5)),
    ((1, 1), 9),
    (slice(0, 0), np.zeros((0, 4))),
]


@pytest.mark.parametrize(("key", "value"), ASSIGNMENTS)
async def test_assignment_broadcasts_and_casts_as_numpys(client, key, value):
    expected = np.zeros((3, 4), "i2")
    array = await done(client.to_device(expected))
    await done(array.setitem(key, value))
    expected[key] = value
    same(await host(array), expected)
    if isinstance(value, np.ndarray):
        for dtype in (value.dtype, array.dtype):
            await done(array.fill(0))
            await done(array.setitem(key, await done(client.to_device(value.astype(dtype)))))
            same(await host(array), expected)


OVERLAPS = [
    lambda a: (a[1:], a[:-1]),
    lambda a: (a[:-1], a[1:]),
    lambda a: (a, a[::-1]),
    lambda a: (a[:, 1:], a[:, :-1]),
    lambda a: (a[:, :-1], a[:, 1:]),
    lambda a: (a, a.T),
    lambda a: (a[::2], a[1::2]),
    lambda a: (a[2:6, 2:6], a[1:5, 3:7]),
    lambda a: (a, a[3]),
    lambda a: (a, a),
]


@pytest.mark.parametrize("pair", OVERLAPS)
async def test_copies_within_one_array_may_overlap(client, pair):
    expected = sample("i4", (8, 8))
    array = await done(client.to_device(expected))
    target, source = pair(expected)
    target[...] = source.copy()
    target, source = pair(array)
    await done(target.setitem(..., source))
    same(await host(array), expected)


async def test_an_array_of_the_same_session_can_be_copied_to_a_new_one(client):
    expected = sample("f4", (6, 5))
    array = await done(client.to_device(expected))
    for view, meant in [(array, expected), (array[::2, ::-1], expected[::2, ::-1]), (array.T, expected.T)]:
        copied = await done(client.to_device(view))
        await done(view.fill(0))
        same(await host(copied), meant)
        await done(array.copy_from_host(expected))


RESHAPES = [
    lambda a: a.reshape(4, 6),
    lambda a: a.reshape((2, -1)),
    lambda a: a.reshape([24]),
    lambda a: a.reshape(3, 8, order="F") if a.ndim == 1 else a.reshape(2, 3, 4, order="F"),
    lambda a: a.ravel(),
    lambda a: a.T,
    lambda a: a.transpose(1, 2, 0),
    lambda a: a.transpose((2, 0, 1)),
    lambda a: a.T.ravel(order="F"),
    lambda a: a[:, :1].squeeze(),
    lambda a: a[:, :1].squeeze(axis=1),
    lambda a: a.view("u4"),
    lambda a: a.view("i2"),
    lambda a: a.view("f8"),
    lambda a: a[1].view("S16"),
    lambda a: a[:, ::2].reshape(2, 2, 2, 2),
]


@pytest.mark.parametrize("change", RESHAPES)
async def test_shapes_change_without_a_copy(client, change):
    expected = sample("i4", (2, 3, 4))
    array = await done(client.to_device(expected))
    view = change(array)
    same(await host(view), change(expected))
    assert view.allocation is array.allocation


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.T.reshape(24),
        lambda a: a.reshape(5, 5),
        lambda a: a[:, ::2].ravel(),
        lambda a: a.view("V5"),
        lambda a: a.T.view("f8"),
        lambda a: a.transpose(0, 0, 1),
        lambda a: a.squeeze(axis=0),
        lambda a: list(a.split(2)),
        lambda a: list(a.reshape(24).split(0)),
        lambda a: list(a.reshape(24).split(-1)),
    ],
)
async def test_what_would_need_a_copy_is_refused(client, change):
    array = await done(client.to_device(sample("i4", (2, 3, 4))))
    with pytest.raises((ValueError, UnsupportedError)):
        change(array)


async def test_a_copy_that_casts_goes_in_its_stream(client):
    stream = await done(client.stream())
    source = await done(client.to_device(sample("i4", (3, 4)), stream=stream))
    for target in (await done(client.device_array((3, 4), "f8")), await done(client.device_array((2, 3, 4), "i2"))):
        await done(target.setitem(..., source, stream=stream))
        same(await host(target), np.broadcast_to(sample("i4", (3, 4)), target.shape).astype(target.dtype))
        await done(target.bind(stream).fill(source[1, ::-1]))
        same(await host(target), np.broadcast_to(sample("i4", (3, 4))[1, ::-1], target.shape).astype(target.dtype))
    with pytest.raises(ValueError):
        await done(target.setitem(..., source[:, :3], stream=stream))


async def test_split(client):
    array = await done(client.to_device(sample("i4", (10,))))
    parts = [await host(part) for part in array.split(4)]
    assert [part.tolist() for part in parts] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_copy_to_host_into_the_callers_memory(client):
    expected = sample("f8", (4, 6))
    array = await done(client.to_device(expected))
    for out in [np.empty((4, 6)), np.empty((4, 6), order="F"), np.empty((8, 12))[::2, ::-2], np.empty((4, 1, 6))]:
        assert await host(array, out=out) is out
        same(out.reshape(4, 6), expected)
    assert await host(array, ary=out) is out


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (np.empty((4, 6), "f4"), TypeError),
        (np.empty((4, 6), ">f8"), TypeError),
        ([0] * 24, TypeError),
        (np.empty((6, 4)), ValueError),
        (np.empty(24), ValueError),
        (read_only(np.empty((4, 6))), ValueError),
        (np.broadcast_to(np.empty(6), (4, 6)), ValueError),
    ],
)
async def test_memory_that_does_not_fit_is_refused(client, out, error):
    array = await done(client.to_device(sample("f8", (4, 6))))
    with pytest.raises(error):
        await host(array, out=out)
    same(await host(array), sample("f8", (4, 6)))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (np.zeros((4, 6), "f4"), TypeError),
        (np.zeros((6, 4)), ValueError),
        (np.zeros(6), ValueError),
        (0.0, ValueError),
    ],
)
async def test_copies_in_must_fit_exactly(client, value, error):
    array = await done(client.to_device(sample("f8", (4, 6))))
    for method in (array.copy_from_host, array.copy_to_device):
        with pytest.raises(error):
            await done(method(value))
    with pytest.raises(error):
        await done(array.copy_to_device(await done(client.to_device(value))))
    same(await host(array), sample("f8", (4, 6)))


@pytest.mark.parametrize("value", [np.zeros(5), np.zeros((2, 3, 4)), [[1], [2]]])
async def test_assignments_that_do_not_broadcast(client, value):
    array = await done(client.device_array((3, 4)))
    with pytest.raises(ValueError):
        await done(array.setitem(..., value))
    with pytest.raises(ValueError):
        await done(array.setitem(..., await done(client.to_device(value))))


@pytest.mark.parametrize("dtype", ["O", "V0", [], [("x", "O")], ("f4", (3,)), "U0"])
async def test_dtypes_that_cannot_live_in_device_memory(client, dtype):
    with pytest.raises(InvalidValueError):
        await done(client.device_array(3, dtype))
    with pytest.raises(InvalidValueError):
        (await done(client.device_array(3, "u1"))).view(dtype)


@pytest.mark.parametrize(
    ("shape", "options", "error"),
    [
        (-1, {}, ValueError),
        ((2, -3), {}, ValueError),
        (2.5, {}, TypeError),
        ("ab", {}, TypeError),
        (3, {"order": "K"}, ValueError),
        (3, {"strides": (1, 2)}, ValueError),
        (2**62, {}, DeviceMemoryError),
    ],
)
async def test_shapes_that_are_none(client, shape, options, error):
    with pytest.raises(error):
        await done(client.device_array(shape, **options))


async def test_indices_that_would_need_a_copy(client):
    array = await done(client.device_array((3, 4)))
    for key, error in [
        ([0, 1], TypeError),
        (np.array([True] * 3), TypeError),
        (3, IndexError),
        ((0, 0, 0), IndexError),
    ]:
        with pytest.raises(error):
            await done(array.getitem(key))
        with pytest.raises(error):
            await done(array.setitem(key, 0))


async def test_an_array_without_dimensions_has_no_length(client):
    with pytest.raises(TypeError):
        len(await done(client.device_array(())))


async def test_freed_memory_cannot_be_used_by_any_view(client):
    array = await done(client.to_device(sample("i4", (4, 4))))
    view = array[1]
    array.free()
    array.free()
    for use in (
        lambda: view.copy_to_host(),
        lambda: view.fill(0),
        lambda: view.setitem(0, 1),
        lambda: array.getitem((0, 0)),
        lambda: client.to_device(view),
    ):
        with pytest.raises(InvalidAddressError, match="freed"):
            await done(use())
    for attribute in ("address", "__cuda_array_interface__", "__bitfusion_argument__"):
        with pytest.raises(InvalidAddressError, match="freed"):
            getattr(view, attribute)


async def test_an_argument_made_before_is_not_used_after(client):
    array = await done(client.to_device(sample("i4", (4,))))
    assert array.__bitfusion_argument__ is array.__bitfusion_argument__
    array.free()
    with pytest.raises(InvalidAddressError, match="freed"):
        _ = array.__bitfusion_argument__


async def test_arrays_do_not_travel_between_sessions(client, virtual_appliance):
    face = "blocking" if isinstance(client, bitfusion.Client) else "asyncio"
    other = await done(connect_with(face)(virtual_appliance.address, memory="2MiB"))
    array, foreign = await done(client.device_array(4)), await done(other.device_array(4))
    for use in (
        lambda: array.copy_to_device(foreign),
        lambda: array.setitem(0, foreign[0:1]),
        lambda: client.to_device(foreign),
    ):
        with pytest.raises(SessionClosedError, match="another session"):
            await done(use())
    await done(other.close())


async def test_what_cuda_programs_ask_of_an_array(client):
    array = await done(client.to_device(sample("f4", (4, 6))))
    interface = array[:, ::2].__cuda_array_interface__
    assert interface["shape"] == (4, 3)
    assert (interface["strides"], interface["typestr"], interface["version"]) == ((24, 8), "<f4", 3)
    assert interface["data"] == (array.address, False)
    assert array.__cuda_array_interface__["strides"] is None
    assert array[1:].address == array.address + 24
    assert array.device_ctypes_pointer.value == array.address
    assert array[::-1].alloc_size == array.alloc_size == 96
    assert (await done(client.device_array(0))).address == 0
    assert "(4, 6)" in repr(array) and "float32" in repr(array)


async def test_arrays_stay_on_the_device_when_they_are_copied_or_pickled(client):
    array = await done(client.to_device(sample("f4", (4,))))
    view = copy.copy(array)
    assert view is not array and view.address == array.address and view.stream is array.stream
    for use in (pickle.dumps, copy.deepcopy, lambda array: copy.deepcopy({"a": [array]})):
        with pytest.raises(TypeError, match=r"copy_to_host\(\) gives .* to_device\(array\)"):
            use(array)


async def test_asyncio_arrays_say_what_to_await(virtual_appliance):
    """NumPy and Python would else make arrays and lists of arrays, by way of len and indexing."""
    async with bitfusion.aio.connect(virtual_appliance.address, memory="2MiB") as client:
        array = await client.to_device(sample("f4", (3, 4)))
        for use in (
            np.asarray,
            np.array,
            np.sum,
            list,
            tuple,
            iter,
            lambda array: [*array],
        ):
            with pytest.raises(TypeError, match=r"await array\.copy_to_host\(\)"):
                use(array)


async def test_numpy_and_iteration_take_blocking_arrays_as_they_are(virtual_appliance):
    with bitfusion.connect(virtual_appliance.address, memory="2MiB") as client:
        expected = sample("f4", (3, 4))
        array = client.to_device(expected)
        same(np.asarray(array), expected)
        same(np.array(array[1:], dtype="f8"), expected[1:].astype("f8"))
        assert float(np.sum(array)) == expected.sum()
        assert [row.copy_to_host().tolist() for row in array] == expected.tolist()
        assert list(array[0]) == [0, 1, 2, 3]
        array[0, 0], array[1] = 5, array[2]
        expected[0, 0], expected[1] = 5, expected[2]
        same(np.asarray(array), expected)
        assert array[2, 3] == 11
        with pytest.raises(TypeError):
            iter(array[0, 0, ...]).__next__()
