"""What kernels print reaches the program where CUDA would show it: at what waits, and at the end."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from bitfusion.client.client import connect
from bitfusion.errors import KernelFaultError
from tests.gpu.images import FAULT, TALK


def talker(client):
    """Launches TALK with a number."""
    function = client.load_module(TALK).function("talk")
    return lambda number: function.launch(1, 1, struct.pack("<I", number))


WAITS = {
    "synchronize": lambda client, array, event: client.synchronize(),
    "a stream": lambda client, array, event: client.default_stream.synchronize(),
    "a copy to the host": lambda client, array, event: array.copy_to_host(),
    "an event": lambda client, array, event: event.synchronize(),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_what_was_printed_is_there_when_a_wait_is_over(client, capfd, wait):
    array, event, talk = client.to_device(np.arange(4)), client.event(), talker(client)
    for number in range(5):
        talk(number)
    event.record()
    wait(client, array, event)
    assert capfd.readouterr().out == "".join(f"said {number}\n" for number in range(5))


def test_what_nobody_waited_for_is_there_at_the_end(place, capfd):
    with connect(place.address, memory="2MiB") as client:
        talker(client)(7)
    assert capfd.readouterr().out == "said 7\n"


def test_what_was_printed_before_a_fault_is_there(place, capfd):
    with connect(place.address, memory="2MiB") as client:
        talker(client)(7)
        client.load_module(FAULT).function("fault").launch(1, 1, b"")
        with pytest.raises(KernelFaultError):
            client.synchronize()
    assert capfd.readouterr().out == "said 7\n"


def test_sessions_are_apart(client, other, capfd):
    first, second = talker(client), talker(other)
    for number in range(3):
        first(number)
        second(number + 10)
    client.synchronize()
    assert capfd.readouterr().out == "said 0\nsaid 1\nsaid 2\n"
    other.synchronize()
    assert capfd.readouterr().out == "said 10\nsaid 11\nsaid 12\n"
