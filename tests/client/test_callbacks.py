"""The thread that calls functions once streams have come to a point: nothing that they or the waits raise ends it for the others."""

from __future__ import annotations

import queue
import threading
import warnings

import pytest

from bitfusion.client.callbacks import Callbacks
from bitfusion.errors import BitfusionError, DeadlineError

TIMEOUT_S = 10


def raising(error):
    def function(*arguments):
        raise error

    return function


@pytest.mark.parametrize(
    ("wait", "told"),
    [
        (lambda: None, type(None)),
        (raising(DeadlineError("late")), DeadlineError),
        (raising(ValueError("of on_output")), BitfusionError),
    ],
)
def test_each_is_called_with_what_its_wait_raised(wait, told):
    callbacks, calls = Callbacks(), queue.Queue()
    callbacks.add(wait, calls.put)
    callbacks.add(lambda: None, lambda failure: calls.put("next"))
    assert type(calls.get(timeout=TIMEOUT_S)) is told
    assert calls.get(timeout=TIMEOUT_S) == "next"


def test_a_warning_that_is_an_error_ends_one_call_only(monkeypatch):
    reported, calls = queue.Queue(), queue.Queue()
    monkeypatch.setattr(threading, "excepthook", lambda failed: reported.put(failed.exc_type))
    callbacks = Callbacks()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        callbacks.add(lambda: None, raising(ValueError("of the program")))
        callbacks.add(lambda: None, lambda failure: calls.put("next"))
        assert calls.get(timeout=TIMEOUT_S) == "next"
        assert reported.get(timeout=TIMEOUT_S) is UserWarning
