"""What tests of both faces of the client share: each test is written once and awaits what has to be awaited."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np


async def done(value: Any) -> Any:
    """What a method of either face returns, awaited where it is the asyncio one's."""
    return await value if inspect.isawaitable(value) else value


async def host(array: Any, **options: Any) -> np.ndarray:
    """The elements of a device array."""
    return await done(array.copy_to_host(**options))


def sample(dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An array whose elements differ, of any dtype."""
    dtype, count = np.dtype(dtype), math.prod(shape)
    array = np.zeros(count, dtype)
    if dtype.names is not None:
        for name in dtype.names:
            field = dtype[name]
            array[name] = sample(field.base, (count, *field.shape))
    elif dtype.kind in "SU":
        array[...] = [f"w{index}" for index in range(count)]
    elif dtype.kind == "V":
        array.view(np.uint8)[...] = np.arange(array.nbytes) % 251
    elif dtype.kind == "b":
        array[...] = np.arange(count) % 3 == 0
    elif dtype.kind == "c":
        array[...] = np.arange(count) - 2j * np.arange(count)
    else:
        array[...] = (np.arange(count) % 101).astype(dtype)
    return array.reshape(shape)


def same(found: np.ndarray, expected: np.ndarray) -> None:
    """Of one dtype, shape and content."""
    assert isinstance(found, np.ndarray)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(found, expected)
