"""Layouts against NumPy itself: the same index on the same shape must give the same view."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from bitfusion.client.layout import Layout, c_strides, f_strides, runs
from bitfusion.errors import UnsupportedError


def layout_of(array: np.ndarray, base: np.ndarray) -> Layout:
    offset = array.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return Layout(offset, array.shape, array.strides, array.itemsize)


def view_of(layout: Layout, base: np.ndarray) -> np.ndarray:
    return np.ndarray(layout.shape, base.dtype, base, layout.offset, layout.strides)


def viewed(array: np.ndarray, key: object) -> np.ndarray:
    """Always a view: with an ellipsis even a full index gives no scalar."""
    keys = key if isinstance(key, tuple) else (key,)
    return array[keys if any(item is ... for item in keys) else (*keys, ...)]


shapes = npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_indexing_is_numpys(data: st.DataObject) -> None:
    base = np.arange(np.prod(shape := data.draw(shapes)), dtype=np.int16).reshape(shape)
    key = data.draw(npst.basic_indices(shape, allow_newaxis=True))
    expected = base[key if isinstance(key, tuple) else (key,)]
    found = layout_of(base, base)[key]
    assert found.shape == np.shape(expected)
    if found.size:
        assert np.array_equal(view_of(found, base), expected)
        second = data.draw(npst.basic_indices(found.shape, allow_newaxis=True)) if found.shape else ()
        assert np.array_equal(view_of(found[second], base), np.asarray(expected)[second])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_runs_cover_exactly_the_view(data: st.DataObject) -> None:
    base = np.arange(np.prod(shape := data.draw(npst.array_shapes(max_dims=4, max_side=5))), dtype=np.int16).reshape(
        shape
    )
    view = viewed(base, data.draw(npst.basic_indices(shape)))
    view = view.transpose(data.draw(st.permutations(range(view.ndim))))
    if not view.size:
        return
    cut = runs(layout_of(view, base))
    raw = base.tobytes()
    taken = b"".join(raw[offset : offset + cut.run] for offset in cut.offsets())
    assert sorted(np.frombuffer(taken, np.int16)) == sorted(view.reshape(-1))
    canonical = np.frombuffer(taken, np.int16).reshape(cut.lengths)
    steps = [
        0 if axis in cut.repeated else slice(None, None, -1 if axis in cut.flipped else 1) for axis in range(view.ndim)
    ]
    expected = viewed(view, tuple(steps))
    kept = [axis for axis in range(view.ndim) if axis not in cut.repeated]
    assert np.array_equal(canonical, expected.transpose([kept.index(axis) for axis in cut.order]))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_reshaping_is_numpys_or_refused(data: st.DataObject) -> None:
    base = np.arange(720, dtype=np.int16).reshape(2, 3, 4, 5, 6)
    view = viewed(base, data.draw(npst.basic_indices(base.shape)))
    view = view.transpose(data.draw(st.permutations(range(view.ndim))))
    order = data.draw(st.sampled_from("CFA"))
    if not view.size:
        return
    target = data.draw(
        st.sampled_from([(view.size,), (-1,), (view.size, 1), (1, view.size), view.shape, view.shape[::-1]])
    )
    expected = view.reshape(target, order=order)
    layout = layout_of(view, base)
    try:
        found = layout.reshape(target, order)
    except (ValueError, UnsupportedError):
        assert not np.shares_memory(expected, view)
    else:
        assert np.array_equal(view_of(found, base), expected)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 1, 3), (0, 3), (1, 1)])
def test_contiguity_is_numpys(shape: tuple[int, ...]) -> None:
    for order in "CF":
        array = np.empty(shape, np.int32, order=order)
        layout = layout_of(array, array)
        assert (layout.is_c_contiguous, layout.is_f_contiguous) == (array.flags.c_contiguous, array.flags.f_contiguous)
    if 0 not in shape:
        assert c_strides(shape, 4) == np.empty(shape, np.int32).strides
        assert f_strides(shape, 4) == np.empty(shape, np.int32, order="F").strides


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (5, IndexError),
        (-6, IndexError),
        ((0, 0, 0), IndexError),
        ((..., ...), IndexError),
        ([0, 1], TypeError),
        (True, TypeError),
        (1.5, TypeError),
    ],
)
def test_what_is_not_basic_indexing_is_refused(key: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        Layout(0, (5, 4), (16, 4), 4)[key]


def test_squeeze_and_transpose() -> None:
    layout = Layout(0, (1, 5, 1, 4), (80, 16, 16, 4), 4)
    assert layout.squeeze().shape == (5, 4)
    assert layout.squeeze(0).shape == (5, 1, 4)
    assert layout.transpose((3, 2, 1, 0)).strides == (4, 16, 16, 80)
    with pytest.raises(ValueError, match="longer"):
        layout.squeeze(1)
    with pytest.raises(ValueError, match="axes"):
        layout.transpose((0, 0, 1, 2))
