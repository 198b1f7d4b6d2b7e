"""Host arrays as they meet device arrays: which dtypes can travel, what fits exactly, how values are cast and broadcast. Pure.

Follows NumPy's assignment (https://numpy.org/doc/stable/user/basics.broadcasting.html) and numba.cuda's checks of copies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bitfusion.errors import InvalidValueError

HostArray = NDArray[Any]


def check_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """The dtype, if its items can live in device memory. InvalidValueError for Python objects, subarrays and items without bytes."""
    checked = np.dtype(dtype)
    if checked.hasobject:
        raise InvalidValueError(f"an array of dtype {checked} holds Python objects, which cannot live in device memory")
    if checked.itemsize == 0:
        raise InvalidValueError(f"an item of dtype {checked} has no bytes")
    if checked.subdtype is not None:
        raise InvalidValueError(f"the items of dtype {checked} are arrays; add their shape to the array's")
    return checked


def host_order(array: HostArray) -> tuple[int, ...] | None:
    """Strides for a device array that lies as the host array does, without its gaps; None for the ordinary order."""
    if array.flags.c_contiguous or not array.size:
        return None
    return np.empty_like(array, order="K", subok=False).strides


def fitting(host: HostArray, dtype: np.dtype[Any], shape: tuple[int, ...]) -> HostArray:
    """The host array in ``shape``, axes of length one added or left out; a view. TypeError, ValueError if it does not fit."""
    if not isinstance(host, np.ndarray):
        raise TypeError(f"a NumPy array is needed, not {type(host).__name__}")
    if host.dtype != dtype:
        raise TypeError(f"incompatible dtype: {dtype} vs. {host.dtype}")
    if host.shape == shape:
        return np.asarray(host)
    if [length for length in host.shape if length != 1] != [length for length in shape if length != 1]:
        raise ValueError(f"incompatible shape: {shape} vs. {host.shape}")
    squeezed = np.asarray(host)[(*(0 if length == 1 else slice(None) for length in host.shape), ...)]
    return squeezed[(*(None if length == 1 else slice(None) for length in shape), ...)]


def writable(host: HostArray) -> HostArray:
    """The host array itself; ValueError if it is read-only."""
    if isinstance(host, np.ndarray) and not host.flags.writeable:
        raise ValueError("the array to copy into is read-only")
    return host


def cast(value: object, dtype: np.dtype[Any]) -> HostArray:
    """The value as an array of ``dtype``, as NumPy assigns: arrays are cast, Python numbers must fit."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value).astype(dtype, copy=False)
    return np.array(value, dtype)


def broadcast(source: HostArray, shape: tuple[int, ...]) -> HostArray:
    """``source`` repeated to ``shape``; leading axes of length one may go, as in NumPy's assignment. ValueError if it does not fit."""
    while source.ndim > len(shape) and source.shape[0] == 1:
        source = source[0]
    try:
        return np.broadcast_to(source, shape)
    except ValueError:
        texts = (str(lengths).replace(" ", "") for lengths in (source.shape, shape))
        raise ValueError("could not broadcast input array from shape {} into shape {}".format(*texts)) from None
