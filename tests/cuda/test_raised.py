"""Exceptions and assertions in kernels: with ``debug`` the launch raises the first one, without it nothing is said."""

from __future__ import annotations

import linecache
import re

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.client.client import Client
from bitfusion.cuda.raising import as_raised
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


class NotRoundError(ValueError):
    """An exception of the program's own, which its kernels name."""

    def __init__(self, shape, colour):
        super().__init__(f"{shape} {colour}")


def raising_ours(values):
    if values[0] > 0:
        raise NotRoundError("a square", "red")


@pytest.mark.parametrize(
    ("how", "exception", "text", "source", "places"),
    [
        (1, AssertionError, "below five", "assert values[i] < 5", {(i // 4, i % 4) for i in range(5, 16)}),
        (2, ValueError, "'nine', 9", "raise ValueError", {(2, 1)}),
        (3, OverflowError, "seven is odd", "raise OverflowError", {(i // 4, i % 4) for i in range(7, 16)}),
        (4, ZeroDivisionError, "integer division by zero", None, {(3, 3)}),
        (5, AssertionError, "", "assert values[i] > 0", {(0, 0)}),
    ],
)
def test_what_a_kernel_raises_is_raised_at_the_launch(how, exception, text, source, places):
    values = cuda.to_device(np.arange(16.0))
    with pytest.raises(exception) as caught:
        debugged[4, 4](values, how)
    assert isinstance(caught.value, KernelRaisedError)
    details, message = caught.value.details, str(caught.value)
    assert (details["exception"], details["text"]) == (exception.__name__, text)
    assert (details["block"], details["thread"]) in {(f"({x}, 0, 0)", f"({y}, 0, 0)") for x, y in places}
    assert details["kernel"] == f"raising (test_raised.py:{raising.__code__.co_firstlineno})"
    assert str(details["kernel"]) in caught.value.operation
    assert re.search(r"tid=\[0, 0, \d\] ctaid=\[0, 0, \d\]", message) and message.endswith(text)
    if source is not None:  # Numba does not say where a division is
        assert source in linecache.getline(details["file"], details["line"])
        assert f"file {details['file']}, line {details['line']}" in message


def test_an_exception_of_the_program_s_own():
    kernel = cuda.jit(debug=True, opt=False)(raising_ours)
    kernel[1, 1](cuda.to_device(np.zeros(1)))
    with pytest.raises(NotRoundError, match=r"In function 'raising_ours'.*'a square', 'red'") as caught:
        kernel[1, 1](cuda.to_device(np.ones(1)))
    assert isinstance(caught.value, KernelRaisedError)
    assert caught.value.__suppress_context__


def test_two_exceptions_of_one_name():
    other = type("NotRoundError", (LookupError,), {})

    @cuda.jit(debug=True, opt=False)
    def either(values, how):
        if how == 1:
            raise NotRoundError
        raise other("second")

    values = cuda.to_device(np.zeros(1))
    with pytest.raises(NotRoundError):
        either[1, 1](values, 1)
    with pytest.raises(other, match="second"):
        either[1, 1](values, 2)


@pytest.mark.parametrize("name", [None, 3, "SystemExit", "eval", "__import__", "NotRoundError"])
def test_what_a_worker_says_is_only_a_name(name):
    """It resolves to what the kernel was captured with, or to an exception that kernels may name."""
    error = KernelRaisedError("raised", exception=name)
    assert as_raised(error, {}) is error


def test_places_are_what_a_worker_says_and_may_be_nonsense():
    error = KernelRaisedError("x", exception="ValueError", text="said", thread="9" * 10_000, block="(1, 2, \u0663)")
    assert str(as_raised(error, {})).endswith("ctaid=[2, 1]: said")


def test_the_session_goes_on():
    values = cuda.to_device(np.arange(16.0))
    for _ in range(2):
        with pytest.raises(ValueError, match="nine"):
            debugged[4, 4](values, 2)
        debugged[4, 4](values, 0)
        assert values.copy_to_host().tolist() == list(range(16))


def test_with_host_arrays_too():
    with pytest.raises(KernelRaisedError, match="below five"):
        debugged[4, 4](np.arange(16.0), 1)


def test_each_stream_s_launch_reports_its_own():
    stream, values = cuda.stream(), cuda.to_device(np.arange(16.0))
    debugged[4, 4, stream](values, 0)
    with pytest.raises(ValueError, match="nine"):
        debugged[4, 4, stream](values, 2)
    with pytest.raises(AssertionError, match="below five"):
        debugged[4, 4](values, 1)
    cuda.synchronize()


def test_without_debug_nothing_is_said():
    values = cuda.to_device(np.arange(16.0))
    for how in range(6):
        plain[4, 4](values, how)
    cuda.synchronize()


def test_in_process_and_from_the_cache(tmp_path):
    """A second session has the kernel from disk, with the texts of its exceptions."""
    for _ in range(2):
        with (
            Client(open_local("virtual:1x64MiB", cache_dir=tmp_path)) as client,
            cuda.use(client),
            pytest.raises(OverflowError, match=r"test_raised\.py, line \d+, .*seven is odd"),
        ):
            debugged[4, 4](cuda.to_device(np.arange(16.0)), 3)
