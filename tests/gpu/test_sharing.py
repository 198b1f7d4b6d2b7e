"""Several sessions on one GPU: they do not see each other, and the end of one is nothing to the other."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from bitfusion.client import operations
from bitfusion.client.client import connect
from bitfusion.errors import InvalidAddressError, KernelFaultError, WorkerDiedError
from bitfusion.limits import MIB
from tests.gpu.images import FAULT, FOREVER, Adder
from tests.processes import has_ended


def worker_of(appliance, client):
    """The worker that serves a session, found by its name in the log."""
    return int(appliance.wait_log(rf" (\d+) \S+ session {client.session_id} opened").group(1))


def test_two_sessions_share_a_gpu(client, other):
    assert client.device.uuid == other.device.uuid
    arrays = [session.to_device(np.full(5 * MIB, index, np.uint32)) for index, session in enumerate((client, other))]
    adders = [Adder(client), Adder(other)]
    for _ in range(20):
        for add, array in zip(adders, arrays, strict=True):
            add(array, 10)
    for index, array in enumerate(arrays):
        assert (array.copy_to_host() == 200 + index).all()


def test_an_address_of_another_session_is_not_ones_own(client, other):
    theirs = other.to_device(np.arange(1000))
    with pytest.raises(InvalidAddressError):
        client.run(operations.read(client.core, 0, theirs.address + 32 * MIB, memoryview(bytearray(100))))
    np.testing.assert_array_equal(theirs.copy_to_host(), np.arange(1000))


def test_a_killed_worker_beside_a_healthy_session(client, place):
    kept = client.to_device(np.arange(100_000, dtype=np.uint32))
    doomed = connect(place.address, memory="64MiB", deadline=60)
    try:
        doomed.to_device(np.ones(8 * MIB, np.uint8))
        os.kill(worker_of(place, doomed), signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            doomed.synchronize()
    finally:
        doomed.close()
    Adder(client)(kept, 1)
    np.testing.assert_array_equal(kept.copy_to_host(), np.arange(1, 100_001))
    with connect(place.address, memory="128MiB") as next_one:  # what the dead one held is free again
        assert not next_one.device_array(100 * MIB, np.uint8).copy_to_host().any()


@pytest.mark.parametrize("waiting", [False, True])
def test_a_client_that_goes_while_its_kernel_runs_forever(place, waiting):
    client = connect(place.address, memory="64MiB")
    pid = worker_of(place, client)
    client.load_module(FOREVER).function("forever").launch(1, 1, b"")
    if waiting:
        client.core.session.call(0x81, 0, 1)  # SYNCHRONIZE, its answer not awaited
    client._transport.flush()
    client._transport.forget()  # hang up without a goodbye, as the end of a process does
    descriptor = os.pidfd_open(pid)
    try:
        assert has_ended(descriptor), "the worker is still there"
    finally:
        os.close(descriptor)
    with connect(place.address, memory="64MiB", timeout=60) as after:
        assert (after.to_device(np.ones(100)).copy_to_host() == 1).all()


def test_a_fault_does_not_outlive_its_session(place):
    for _ in range(2):
        with connect(place.address, memory="16MiB") as client:
            client.load_module(FAULT).function("fault").launch(1, 1, b"")
            with pytest.raises(KernelFaultError):
                client.synchronize()
