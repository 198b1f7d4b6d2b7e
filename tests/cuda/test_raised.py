"""Exceptions and assertions in kernels: with ``debug`` the next call that waits reports the first one, without it nothing is said."""

from __future__ import annotations

import linecache

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.client.client import Client
from bitfusion.daemon.inprocess import open_local
from bitfusion.errors import KernelRaisedError

pytestmark = pytest.mark.usefixtures("client")


@cuda.jit(device=True)
def half(value):
    if value > 6:
        raise OverflowError("seven is odd")
    return value / 2


def raising(values, how):
    i = cuda.grid(1)
    if how == 1:
        assert values[i] < 5, "below five"
    if how == 2 and i == 9:
        raise ValueError("nine", 9)
    if how == 3:
        values[i] = half(values[i])
    if how == 4 and i == 15:
        values[i] = 1 // (how - 4)
    if how == 5 and i == 0:
        assert values[i] > 0


debugged = cuda.jit(debug=True, opt=False)(raising)
plain = cuda.jit(raising)


@pytest.mark.parametrize(
    ("how", "exception", "text", "source", "places"),
    [
        (1, "AssertionError", "below five", "assert values[i] < 5", {(i // 4, i % 4) for i in range(5, 16)}),
        (2, "ValueError", "'nine', 9", "raise ValueError", {(2, 1)}),
        (3, "OverflowError", "seven is odd", "raise OverflowError", {(i // 4, i % 4) for i in range(7, 16)}),
        (4, "ZeroDivisionError", "integer division by zero", None, {(3, 3)}),
        (5, "AssertionError", "", "assert values[i] > 0", {(0, 0)}),
    ],
)
def test_what_a_kernel_raises_is_reported_by_the_next_wait(how, exception, text, source, places):
    values = cuda.to_device(np.arange(16.0))
    debugged[4, 4](values, how)
    with pytest.raises(KernelRaisedError) as caught:
        cuda.synchronize()
    details, message = caught.value.details, caught.value.message
    assert (details["exception"], details["text"]) == (exception, text)
    assert (details["block"], details["thread"]) in {(f"({x}, 0, 0)", f"({y}, 0, 0)") for x, y in places}
    assert details["kernel"] == f"raising (test_raised.py:{raising.__code__.co_firstlineno})"
    assert str(details["kernel"]) in caught.value.operation
    assert all(str(details[part]) in message for part in ("exception", "text", "kernel", "block", "thread"))
    if source is not None:  # Numba does not say where a division is
        assert source in linecache.getline(details["file"], details["line"])
        assert f"{details['file']}:{details['line']}" in message


def test_the_session_goes_on():
    values = cuda.to_device(np.arange(16.0))
    for _ in range(2):
        debugged[4, 4](values, 2)
        with pytest.raises(KernelRaisedError, match="nine"):
            values.copy_to_host()
        debugged[4, 4](values, 0)
        assert values.copy_to_host().tolist() == list(range(16))


def test_with_host_arrays_the_launch_itself_reports_it():
    with pytest.raises(KernelRaisedError, match="below five"):
        debugged[4, 4](np.arange(16.0), 1)


def test_the_first_of_several_launches_is_the_one_reported():
    stream, values = cuda.stream(), cuda.to_device(np.arange(16.0))
    debugged[4, 4, stream](values, 0)
    debugged[4, 4, stream](values, 2)
    debugged[4, 4](values, 1)
    with pytest.raises(KernelRaisedError, match="nine"):
        stream.synchronize()
    cuda.synchronize()


def test_without_debug_nothing_is_said():
    values = cuda.to_device(np.arange(16.0))
    for how in range(6):
        plain[4, 4](values, how)
    cuda.synchronize()


def test_in_process_and_from_the_cache(tmp_path):
    """A second session has the kernel from disk, with the texts of its exceptions."""
    for _ in range(2):
        with Client(open_local("virtual:1x64MiB", cache_dir=tmp_path)) as client, cuda.use(client):
            debugged[4, 4](cuda.to_device(np.arange(16.0)), 3)
            with pytest.raises(KernelRaisedError, match=r"OverflowError: seven is odd at .*test_raised\.py:\d+"):
                cuda.synchronize()
