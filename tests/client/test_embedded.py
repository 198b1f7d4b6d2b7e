"""The private appliance: started when no server is named, shared, stopped with its last client, and never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path

import pytest

import bitfusion
from bitfusion.client import embedded
from bitfusion.errors import ConfigError, KernelFaultError, SessionError, UnreachableError
from tests.client.faces import done
from tests.processes import ends
from tests.scenarios.programs import running


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No server in the environment, a state directory of the test's own, and no appliance before or after."""
    monkeypatch.delenv("BITFUSION_SERVER", raising=False)
    monkeypatch.setenv("BITFUSION_DEVICES", "null")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert embedded._running == []
    yield
    assert (embedded._running, embedded._clients) == ([], 0)


def appliance_pid() -> int:
    (appliance,) = embedded._running
    return appliance.process.pid


def test_by_default_it_offers_this_machines_gpus_or_a_virtual_one(monkeypatch):
    monkeypatch.delenv("BITFUSION_DEVICES")
    with bitfusion.connect(memory="4MiB") as client:
        assert client.device.kind in ("cuda", "virtual")
        assert client.to_device([1, 2, 3]).copy_to_host().tolist() == [1, 2, 3]


async def test_it_starts_with_the_first_client_and_stops_with_the_last(connect):
    first = await done(connect(memory="4MiB"))
    pid = appliance_pid()
    second = await done(connect(memory="4MiB"))
    assert appliance_pid() == pid
    await done(first.close())
    assert await done(second.echo(b"x")) == b"x"
    await done(second.close())
    await done(second.close())
    assert ends(pid)


async def test_a_refused_lease_stops_it_again(connect):
    with pytest.raises(bitfusion.errors.CapacityError):
        await done(connect(memory="100TiB"))
    assert embedded._running == []


def test_when_it_dies_the_next_client_gets_a_new_one():
    first = bitfusion.connect(memory="4MiB")
    pid = appliance_pid()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(SessionError, match="connect again"):
        while True:
            first.echo(b"x")
    assert ends(pid)
    with bitfusion.connect(memory="4MiB") as second:
        assert appliance_pid() != pid
        assert second.echo(b"x") == b"x"
        first.close()
        assert second.echo(b"x") == b"x"


def test_one_that_does_not_start_says_why():
    """With the appliance's own error, and so its exit code (``bitfusion run``)."""
    with pytest.raises(ConfigError, match=r"did not start: .*'tpu' is not known") as caught:
        embedded.Appliance(devices="tpu")
    assert "bitfusion serve" not in str(caught.value)
    with pytest.raises(ConfigError, match="--state-dir /proc/here cannot be written"):
        embedded.Appliance(state_dir=Path("/proc/here"))


def test_one_that_dies_as_it_starts_leaves_what_it_said(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import os\nos.write(2, b'last words')\nos._exit(7)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UnreachableError, match=r"`bitfusion serve` to see why. It said: last words"):
        embedded.Appliance()


PROGRAM = """
import os, sys
import bitfusion
from bitfusion.client import embedded
client = bitfusion.connect(memory="4MiB")
array = client.to_device([1, 2, 3])
print(embedded._running[0].process.pid, flush=True)
"""

ENDS = {
    "falls off the end": "",
    "is killed": "os.kill(os.getpid(), 9)",
    "exits at once": "os._exit(0)",
    "forks and is killed": "pid = os.fork()\nif pid: os.kill(os.getpid(), 9)\nelse: sys.stdin.read(); os._exit(0)",
    "raises": "raise SystemExit(3)",
}


@pytest.mark.parametrize("end", ENDS)
def test_it_ends_however_its_program_ends(end):
    with running(PROGRAM + ENDS[end], BITFUSION_DEVICES="null") as process:
        pid = int(process.stdout.readline())
        assert ends(pid)
        process.stdin.close()


LONG = """
import sys
import bitfusion
from bitfusion.client import embedded
with bitfusion.connect(memory="4MiB") as client:
    array = client.to_device([1, 2, 3])
    try:
        print(embedded._running[0].process.pid, flush=True)
        sys.stdin.read()
    except KeyboardInterrupt:
        print(client.echo(b"still there").decode(), flush=True)
"""


def test_ctrl_c_in_a_terminal_is_the_programs_alone():
    """A terminal sends it to the whole group of processes; the appliance is in one of its own."""
    with running(LONG, BITFUSION_DEVICES="null") as process:
        pid = int(process.stdout.readline())
        assert os.getpgid(pid) != os.getpgid(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "still there\n"
        assert ends(pid)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


def test_what_a_program_sets_for_itself_does_not_reach_it(monkeypatch, tmp_path):
    (tmp_path / "hook").mkdir()
    monkeypatch.setenv("BITFUSION_HOOK", str(tmp_path / "hook"))
    monkeypatch.setenv("BITFUSION_SERVER", "elsewhere:1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "hook"), "kept"]))
    environment = embedded._environment()
    assert not {"BITFUSION_HOOK", "BITFUSION_SERVER"} & environment.keys()
    paths = environment["PYTHONPATH"].split(os.pathsep)
    assert "kept" in paths and str(tmp_path / "hook") not in paths


async def test_a_cancelled_connect_leaves_nothing_running():
    task = asyncio.get_running_loop().create_task(bitfusion.aio.connect(memory="4MiB"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.get_running_loop().shutdown_default_executor()  # as asyncio.run does; the start is over then
    for thread in threading.enumerate():
        if thread.name == "bitfusion-release":
            thread.join()


ENDLESS = """
.version 8.0
.target sm_80
.address_size 64
.visible .entry kernel() { AGAIN: bra AGAIN; }
"""


def test_it_holds_kernels_to_what_the_environment_says(monkeypatch):
    monkeypatch.setenv("BITFUSION_DEVICES", "virtual:1x64MiB")
    monkeypatch.setenv("BITFUSION_KERNEL_TIMEOUT", "0.1")
    monkeypatch.setenv("BITFUSION_CHECK", "global")
    with bitfusion.connect(memory="4MiB") as client:
        client.load_module(ENDLESS).function("kernel").launch(1, 1, b"")
        with pytest.raises(KernelFaultError, match="ran longer than the device allows") as caught:
            client.synchronize()
    assert caught.value.cuda_name == "CUDA_ERROR_LAUNCH_TIMEOUT"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KERNEL_TIMEOUT", "0"),
        ("KERNEL_TIMEOUT", "-1"),
        ("KERNEL_TIMEOUT", "nan"),
        ("KERNEL_TIMEOUT", "inf"),
        ("KERNEL_TIMEOUT", "1 h"),
        ("CHECK", "ALL"),
    ],
)
def test_rules_that_cannot_be(monkeypatch, name, value):
    monkeypatch.setenv(f"BITFUSION_{name}", value)
    with pytest.raises(ConfigError, match=f"BITFUSION_{name}={value!r} cannot be"):
        bitfusion.connect(memory="4MiB")
