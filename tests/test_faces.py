"""The two faces of the client have the same methods with the same parameters."""

from __future__ import annotations

import inspect

import pytest

from bitfusion import aio
from bitfusion.client import async_client, async_control, client, control
from bitfusion.client.array import DeviceArray

PAIRS = [
    (client.Client, async_client.AsyncClient),
    (DeviceArray, async_client.AsyncDeviceArray),
    (client.Stream, async_client.AsyncStream),
    (client.Event, async_client.AsyncEvent),
    (client.Function, async_client.AsyncFunction),
    (client.Module, async_client.AsyncModule),
    (control.Control, async_control.AsyncControl),
]

BLOCKING_ONLY = {
    *("__enter__", "__exit__", "__setitem__", "__init__"),
    *("fileno", "look", "turn"),
    *("refresh", "legacy_default_stream", "per_thread_default_stream", "external_stream", "add_callback", "async_done"),
}
"""What Python calls by itself and nobody could await (setitem and getitem stand beside the operators), what numba.cuda has for
threads and mapped memory, and what those need who wait without a loop."""

ASYNCIO_ONLY = {"__aenter__", "__aexit__", "__init__"}


def methods(cls: type) -> dict[str, object]:
    """The public methods and properties of a face, its base's and object's own left out."""
    special = {"__enter__", "__exit__", "__iter__", "__setitem__", "__getitem__", "__array__", "__len__"}
    return {
        name: inspect.getattr_static(cls, name)
        for name in dir(cls)
        if not name.startswith("_") or (name in special | ASYNCIO_ONLY and name not in vars(object))
    }


def parameters(method: object) -> list[tuple[str, object, object]]:
    """Name, kind and default of each; contexts and coroutines are looked through."""
    function = inspect.unwrap(method)  # type: ignore[arg-type]
    return [(item.name, item.kind, item.default) for item in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("blocking", "asyncio"), PAIRS, ids=lambda cls: cls.__name__)
def test_both_faces_have_the_same_methods(blocking, asyncio):
    first, second = methods(blocking), methods(asyncio)
    assert first.keys() - BLOCKING_ONLY == second.keys() - ASYNCIO_ONLY
    for name in first.keys() & second.keys():
        if inspect.isfunction(first[name]):
            assert parameters(first[name]) == parameters(second[name]), name
            assert first[name].__doc__ == second[name].__doc__ or name == "__getitem__", name
        else:
            assert type(first[name]) is type(second[name]), name


def test_both_are_opened_alike():
    assert parameters(client.connect) == parameters(async_client.connect)
    assert parameters(control.open_control) == parameters(async_control.open_control)
    assert set(aio.__all__) == {"connect", "open_control"} | {cls.__name__ for _, cls in PAIRS}
