"""The engine in this very process: what a client does there is what it does over the network."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.client.client import Client
from bitfusion.daemon.inprocess import open_local
from bitfusion.errors import (
    CapacityError,
    ConfigError,
    DeviceMemoryError,
    InvalidAddressError,
    InvalidHandleError,
    SessionClosedError,
)
from bitfusion.limits import MEMORY_CHUNK_SIZE, MIB
from bitfusion.wire.operations import Opcode
from tests.client.faces import same, sample


@pytest.fixture
def client():
    with Client(open_local("virtual:1x64MiB")) as client:
        yield client


def test_arrays_streams_and_events(client):
    stream, first, last = client.stream(), client.event(), client.event()
    expected = sample("f4", (600, 500))
    first.record(stream)
    array = client.to_device(expected, stream=stream)
    array[::2, ::-3] = 7
    expected[::2, ::-3] = 7
    last.record(stream)
    last.synchronize()
    same(array.copy_to_host(), expected)
    same(array.T[3:, ::2].copy_to_host(), expected.T[3:, ::2])
    assert first.elapsed_time(last) >= 0
    assert client.echo(b"x") == b"x"
    assert client.metrics.calls > 0 and client.metrics.operations_posted > 0
    assert not client.core.session.full and not client.core.session.waiting


def test_memory(client):
    array = client.device_array(64 * MIB, "u1")
    with pytest.raises(DeviceMemoryError) as caught:
        client.device_array(1)
    assert caught.value.limit == 64 * MIB
    del array
    assert client.memory_info() == (64 * MIB, 64 * MIB)


def test_a_failure_of_posted_work_is_the_next_calls(client):
    client.core.session.post(Opcode.EVENT_RECORD, 0, 77)
    array = client.to_device(np.ones(4))  # skipped until it is reported
    with pytest.raises(InvalidHandleError) as caught:
        array.copy_to_host()
    assert caught.value.operation.startswith("event_record")
    client.core.session.post_payload(Opcode.WRITE_PAYLOAD, 0, 256, payload=memoryview(bytes(8)))
    with pytest.raises(InvalidAddressError) as caught:
        client.synchronize()
    assert caught.value.operation.startswith("write")
    array.fill(2)
    assert array.copy_to_host().tolist() == [2] * 4


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, 64 * MIB),
        ({"memory": 1}, MEMORY_CHUNK_SIZE),
        ({"fraction": 0.5}, 32 * MIB),
        ({"memory": 64 * MIB}, 64 * MIB),
    ],
)
def test_it_is_as_large_as_a_lease_would_be(options, size):
    with Client(open_local("virtual:1x64MiB", **options)) as client:
        assert client.welcome.memory_limit == size


@pytest.mark.parametrize(
    ("spec", "options", "error"),
    [
        ("virtual:1x64MiB", {"memory": 64 * MIB + 1}, CapacityError),
        ("virtual:2x64MiB", {"gpus": 2}, CapacityError),
        ("virtual:1x64MiB", {"memory": 0}, ConfigError),
        ("virtual:1x64MiB", {"fraction": 2.0}, ConfigError),
        ("tpu", {}, ConfigError),
    ],
)
def test_what_cannot_be_opened(spec, options, error):
    with pytest.raises(error):
        open_local(spec, **options)


def test_two_at_once_do_not_see_each_other():
    with Client(open_local("virtual:1x64MiB")) as first, Client(open_local("virtual:1x64MiB")) as second:
        one, other = first.to_device(np.full(1000, 1)), second.to_device(np.full(1000, 2))
        assert one.address != other.address
        assert (one.copy_to_host().sum(), other.copy_to_host().sum()) == (1000, 2000)
        with pytest.raises(SessionClosedError, match="another session"):
            one.copy_to_device(other)


@cuda.jit
def fill(out, value):
    i = cuda.grid(1)
    for _ in range(200):
        out[i] = value + 0 * out[i]


def test_threads_take_turns(client):
    wrong = []

    def work(number):
        for value in range(number, 4000, 20):
            fill[64, 64](arrays[number], value)
            if not (arrays[number].copy_to_host() == value).all():
                wrong.append(value)

    with cuda.use(client):
        arrays = [client.to_device(np.zeros(64 * 64, int)) for _ in range(4)]
        fill[64, 64](arrays[0], 0)
        threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_closed_it_says_so(client):
    array = client.to_device([1, 2, 3])
    client.close()
    client.close()
    for use in (lambda: client.device_array(3), array.copy_to_host, client.synchronize, lambda: array.fill(0)):
        with pytest.raises(SessionClosedError):
            use()


def test_a_forked_child_has_no_part_in_it():
    with Client(open_local("null")) as client:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                client.echo(b"x")
            except SessionClosedError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader) as told:
            assert "belongs to the parent process" in told.read()
        assert os.waitpid(pid, 0)[1] == 0
        assert client.echo(b"x") == b"x"
