"""Workers cannot always be had, and a stop does not wait for kernels: the client is told what happened."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

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


def test_a_daemon_without_descriptors_refuses_with_the_reason(appliance):
    before = resource.prlimit(appliance.pid, resource.RLIMIT_NOFILE)
    taken = set(map(int, os.listdir(f"/proc/{appliance.pid}/fd")))
    free = min(set(range(len(taken) + 1)) - taken)
    resource.prlimit(
        appliance.pid, resource.RLIMIT_NOFILE, (free + 1, before[1])
    )  # enough to accept, not for a lifeline
    with pytest.raises(ConnectError, match="no worker could be started: Too many open files; try again"):
        connect(appliance.address)
    resource.prlimit(appliance.pid, resource.RLIMIT_NOFILE, before)
    with connect(appliance.address) as client:
        assert client.echo(b"x") == b"x"


def test_secrets_of_the_environment_do_not_reach_workers(tmp_path):
    secrets = {"BITFUSION_TOKEN": "s3cret-1", "AWS_SECRET_ACCESS_KEY": "s3cret-2", "PGPASSWORD": "s3cret-3"}
    environment = {**secrets, "CUDA_VISIBLE_DEVICES": "visible"}
    with Appliance("null", tmp_path / "state", environment=environment) as appliance, connect(appliance.address):
        seen = b"".join(Path(f"/proc/{pid}/environ").read_bytes() for pid in appliance.children())
    assert b"CUDA_VISIBLE_DEVICES=visible" in seen and b"s3cret" not in seen


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
