"""Random chains of views and copies on the device against the same chain in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import bitfusion
from bitfusion.errors import UnsupportedError
from tests.client.faces import host, same, sample

DTYPES = st.sampled_from(["u1", "i2", "f4", "c8", "S3", [("x", "i4"), ("y", "f8")]])


@pytest.fixture(scope="module")
def blocking(virtual_appliance):
    with bitfusion.connect(virtual_appliance.address, memory="64MiB", deadline=60) as client:
        yield client


def viewed(array: Any, key: Any) -> Any:
    """Always a view, of NumPy's arrays too: with an ellipsis even a full index gives no scalar."""
    keys = key if isinstance(key, tuple) else (key,)
    return array[keys if any(item is ... for item in keys) else (*keys, ...)]


def step(data: st.DataObject, array: Any, expected: np.ndarray) -> tuple[Any, np.ndarray]:
    """One more view of both."""
    match data.draw(st.sampled_from(["index", "transpose", "reshape", "squeeze"])):
        case "index":
            key = data.draw(npst.basic_indices(expected.shape, max_dims=5, allow_newaxis=True))
            return viewed(array, key), viewed(expected, key)
        case "transpose":
            axes = data.draw(st.permutations(range(expected.ndim)))
            return array.transpose(tuple(axes)), expected.transpose(axes)
        case "reshape":
            shape = data.draw(st.sampled_from([(-1,), (expected.size, 1), expected.shape[::-1]]))
            try:
                reshaped = array.reshape(shape)
            except (ValueError, UnsupportedError):
                return array, expected
            return reshaped, expected.reshape(shape)
        case _:
            return array.squeeze(), expected.squeeze()


def write(data: st.DataObject, array: Any, expected: np.ndarray, source: Any, meant: np.ndarray) -> None:
    """Set the view from the host, from a scalar, or from a part of a device array; overlaps are as NumPy's with a copy between."""
    match data.draw(st.sampled_from(["scalar", "host", "row", "device", "itself"])):
        case "scalar":
            value = sample(expected.dtype, (9,))[8]
            array.setitem(..., value)
            expected[...] = value
        case "host":
            values = sample(expected.dtype, expected.shape)[(slice(None, None, -1),) * expected.ndim]
            array.setitem(..., values)
            expected[...] = values
        case "row":
            values = sample(expected.dtype, (*expected.shape[-1:],))
            array.setitem(..., values)
            expected[...] = values
        case "device":
            pairs = zip(meant.shape, expected.shape, strict=False)
            if meant.ndim == expected.ndim and all(length in (1, other) for length, other in pairs):
                array.setitem(..., source)
                expected[...] = meant.copy()
        case _:
            array.setitem(..., viewed(array, (slice(None, None, -1),) * expected.ndim))
            expected[...] = viewed(expected, (slice(None, None, -1),) * expected.ndim).copy()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_random_chains_of_views_and_copies(blocking: bitfusion.Client, data: st.DataObject) -> None:
    shape = data.draw(npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5))
    whole = sample(data.draw(DTYPES), shape)
    whole = np.asarray(whole, order=data.draw(st.sampled_from("CF")))
    device = blocking.to_device(whole)
    whole = whole.copy(order="K")
    pairs = [(device, whole)]
    for _ in range(data.draw(st.integers(1, 5))):
        array, expected = step(data, *data.draw(st.sampled_from(pairs)))
        assert array.shape == expected.shape
        assert array.is_c_contiguous() == expected.flags.c_contiguous
        assert array.is_f_contiguous() == expected.flags.f_contiguous
        same(array.copy_to_host(), expected)
        write(data, array, expected, *data.draw(st.sampled_from(pairs)))
        same(device.copy_to_host(), whole)
        same(blocking.to_device(array).copy_to_host(), expected)
        pairs.append((array, expected))


async def test_views_share_what_is_written_through_any_of_them(client) -> None:
    array = client.to_device(np.zeros((4, 4), "i4"))
    array = await array if not hasattr(array, "shape") else array
    views = [array, array.T, array[1:, ::2], array.reshape(16), array[::-1].T]
    for number, view in enumerate(views, 1):
        setting = view.setitem((0,) * view.ndim, number)
        if setting is not None:
            await setting
    expected = np.zeros((4, 4), "i4")
    expected[0, 0], expected[1, 0], expected[3, 0] = 4, 3, 5
    same(await host(array), expected)
