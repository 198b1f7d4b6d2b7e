"""Workers cannot always be had, and a stop does not wait for kernels: the client is told what happened."""

from __future__ import annotations

import os
import resource
import threading

import pytest

from bitfusion.client.client import connect
from bitfusion.errors import ConnectError, SessionError
from tests.appliance import Appliance

ENDLESS = b"""
.version 6.0
.target sm_52
.address_size 64
.visible .entry endless(.param .u64 unused)
{
Loop:
    bra Loop;
}
"""


@pytest.fixture
def appliance(tmp_path):
    with Appliance("null", tmp_path / "state") as appliance:
        yield appliance


def test_without_descriptors_a_lease_is_refused_and_later_ones_are_not(appliance):
    (zygote,) = (pid for pid, parent in appliance.children().items() if parent == appliance.pid)
    before = resource.prlimit(zygote, resource.RLIMIT_NOFILE)
    taken = set(map(int, os.listdir(f"/proc/{zygote}/fd")))
    free = min(set(range(len(taken) + 1)) - taken)
    resource.prlimit(zygote, resource.RLIMIT_NOFILE, (free + 1, before[1]))  # one descriptor more; a worker needs two
    with pytest.raises(ConnectError, match="no worker could be started: Too many open files; try again"):
        connect(appliance.address)
    assert not appliance.workers()
    resource.prlimit(zygote, resource.RLIMIT_NOFILE, before)
    with connect(appliance.address) as client:  # all of the GPU: the refused lease has gone back
        assert client.echo(b"x") == b"x"


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in-a-kernel"])
def test_a_stop_tells_the_clients(tmp_path, busy):
    with Appliance("virtual:1x256MiB", tmp_path / "state") as appliance, connect(appliance.address) as client:
        if busy:
            client.load_module(ENDLESS).function("endless").launch(1, 1, bytes(8))
            stopping = threading.Timer(0.2, appliance.stop)  # while the client waits; earlier is no harm either
            stopping.start()
        else:
            appliance.stop()
        with pytest.raises(SessionError, match="the appliance was stopped"):
            client.synchronize()
        if busy:
            stopping.join()
        assert appliance.process.returncode == 0
