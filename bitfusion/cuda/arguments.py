"""Host values in a launch: copied to the device before it and back after it, as numba.cuda does; ``In``, ``Out`` and ``InOut`` say which.

Owns what becomes of each argument. Device arrays pass untouched, once it is sure that they are this session's and not freed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from bitfusion.client.array import DeviceArray
from bitfusion.client.client import Client
from bitfusion.client.core import check_memory, check_session
from bitfusion.cuda.mapped import MappedArray
from bitfusion.cuda.memory import as_cuda_array, is_cuda_array
from bitfusion.cuda.warned import warn_of_copy
from bitfusion.errors import KernelTypeError
from bitfusion.kernels.typeof import typeof
from bitfusion.kernels.types import Type

CopyBack: TypeAlias = tuple[DeviceArray, Any]
"""What to copy back after a launch: the device array, and the host array or record it came from."""


class Hint:
    """A host array with the word which way it is copied around a launch."""

    copied_in = True
    copied_back = True

    def __init__(self, value: Any) -> None:
        self.value = value


class In(Hint):
    """Copied to the device before the launch."""

    copied_back = False


class Out(Hint):
    """Copied back after the launch; on the device it starts with whatever is there."""

    copied_in = False


class InOut(Hint):
    """Copied to the device before and back after the launch: what a host array without a hint is."""


def extended(extensions: Sequence[Any], values: tuple[Any, ...], stream: Any) -> tuple[tuple[Any, ...], list[Any]]:
    """The arguments as extensions change them, the last registered first, and what to call after the launch.

    As in Numba each has ``prepare_args(ty, val, stream=, retr=)``, which returns a type and a value and may append functions without
    arguments to the list ``retr``. ``ty`` is None for what has no type; the type it returns is not needed: it is that of the value.
    """
    retr: list[Any] = []
    if not extensions:
        return values, retr
    made = []
    for value in values:
        try:
            kind: Type | None = typeof(value.value if isinstance(value, Hint) else value)
        except KernelTypeError:  # the extension's to make something of
            kind = None
        for extension in reversed(extensions):
            kind, value = extension.prepare_args(kind, value, stream=stream, retr=retr)
        made.append(value)
    return tuple(made), retr


class Around(NamedTuple):
    """What belongs to a launch: the content of ``mapped`` goes with it and comes with a later wait, ``back`` is copied back after it."""

    mapped: list[MappedArray]
    back: list[CopyBack]


def on_device(client: Client, values: tuple[Any, ...], stream: Any) -> tuple[list[Any], Around]:
    """The arguments as a launch takes them, and what is to be done around it."""
    around = Around([], [])
    return [_ready(client, value, stream, around) for value in values], around


def _ready(client: Client, value: Any, stream: Any, around: Around) -> Any:
    """One argument, or each item of a tuple; what is to be done for it is added to ``around``."""
    hint = value if isinstance(value, Hint) else InOut(value)
    given = hint.value
    if isinstance(given, tuple):
        items = (item if isinstance(item, Hint) else type(hint)(item) for item in given)
        ready = tuple(_ready(client, item, stream, around) for item in items)
        return type(given)._make(ready) if hasattr(given, "_make") else ready  # a named tuple stays one
    if isinstance(given, MappedArray) and (mirror := given.mirror) is not None:
        check_session(client.core, mirror.client.core)
        around.mapped.append(given)
        return mirror if given.flags.writeable else mirror.for_reading()
    if isinstance(given, np.ndarray | np.void):
        array = _copied(client, given, hint, stream)
        if not given.flags.writeable:
            return array.for_reading()  # so that Numba refuses to write what would be lost
        if hint.copied_back:
            around.back.append((array, given))
        return array
    if is_cuda_array(given):
        array = as_cuda_array(given)
        check_session(client.core, array.client.core)
        check_memory(array.allocation)
        return array if isinstance(given, DeviceArray) or _writable(given) else array.for_reading()
    return given


def copy_back(client: Client, back: list[CopyBack], stream: Any) -> None:
    """Bring the results to the host arrays; waits for the launch."""
    for array, host in back:
        if isinstance(host, np.void):
            _fill_record(host, array.copy_to_host(stream=stream))
        else:
            array.copy_to_host(host, stream)


def _copied(client: Client, host: Any, hint: Hint, stream: Any) -> DeviceArray:
    array = np.asanyarray(host)
    if hint.copied_in:
        if isinstance(host, np.ndarray):
            warn_of_copy()
        return client.to_device(array, stream)
    return client.device_array(array.shape, array.dtype, order=_order(array), stream=stream)


def _writable(given: Any) -> bool:
    """Whether an object in device memory may be written to: CUDA Array Interface, ``data`` is (address, read-only)."""
    return not given.__cuda_array_interface__["data"][1]


def _order(array: np.ndarray[Any, Any]) -> str:
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


def _fill_record(record: np.void, values: np.ndarray[Any, Any]) -> None:
    """A record that is an element of an array is a view of it: field by field the array gets the values."""
    for name in record.dtype.names or ():
        record[name] = values[name][()]
