"""A client that leaves while its worker cannot listen: in a kernel, in a compile, in the middle of an answer. The lease comes back."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitfusion import limits
from bitfusion.client.client import connect
from bitfusion.session.hello import Hello
from bitfusion.transport.address import parse_target
from bitfusion.transport.blocking import BlockingTransport, open_session
from bitfusion.wire.operations import CONFIG, Opcode
from bitfusion.worker.process import STOP_TIMEOUT_S
from tests.appliance import Appliance
from tests.kernels.test_cuda_cpp import ENDLESS as ENDLESS_CPP
from tests.processes import ends

HEADER = ".version 8.0\n.target sm_80\n.address_size 64\n"
ENDLESS = HEADER + ".visible .entry k() { Loop: bra Loop; }"
LONG_TO_COMPILE = HEADER + ".visible .entry k() {\n" + "bar.sync 0;\n" * 20_000 + "ret; }"
"""Every barrier is a region of its own: minutes of LLVM's time."""

READ_SIZE = 64 * limits.MIB


def load(transport: BlockingTransport, text: str) -> None:
    transport.session.call(Opcode.MODULE_LOAD, 0, 1, text.encode())
    transport.session.call(Opcode.FUNCTION_LOAD, 0, 1, 1, "k")


def launch(transport: BlockingTransport) -> None:
    load(transport, ENDLESS)
    transport.session.post(Opcode.LAUNCH, 0, 1, CONFIG.pack(1, 1, 1, 1, 1, 1, 0), b"")


def compile_(transport: BlockingTransport) -> None:
    load(transport, LONG_TO_COMPILE)


def read(transport: BlockingTransport) -> None:
    base = transport.session.welcome.memory_base
    transport.session.post(Opcode.ALLOCATE, 0, base, READ_SIZE)
    transport.session.call(Opcode.READ, 0, base, READ_SIZE, into=memoryview(bytearray(READ_SIZE)))


@pytest.fixture(scope="module")
def appliance(tmp_path_factory):
    with Appliance("virtual:1x256MiB", tmp_path_factory.mktemp("busy")) as appliance:
        yield appliance


def cut(transport: BlockingTransport) -> None:
    transport.cut()


def half_close(transport: BlockingTransport) -> None:
    """The end of what we send, and no word, not even of TCP's, that we will not read."""
    transport._sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize(
    ("occupy", "leave", "seconds"),
    [(launch, cut, 0), (compile_, cut, STOP_TIMEOUT_S), (read, cut, 0), (read, half_close, 0)],
)
def test_the_lease_of_a_client_that_leaves_a_busy_worker_comes_back(appliance, occupy, leave, seconds):
    before = len(appliance.lines)
    transport = open_session(parse_target(appliance.address), Hello(memory=192 * limits.MIB))
    lease = appliance.wait_log(r"lease (\w+): .*@", after=before)[1]
    occupy(transport)
    for buffer in transport.session.data_to_send():
        transport._sock.sendall(buffer)
    with connect(appliance.address, memory="64MiB") as other:  # nobody else waits for it
        assert other.echo(b"x") == b"x"
    left = time.monotonic()
    leave(transport)
    appliance.wait_log(f"lease {lease}: released", after=before)
    assert time.monotonic() - left < seconds + STOP_TIMEOUT_S
    transport.close()
    with connect(appliance.address) as client:  # the whole GPU
        assert client.echo(b"x") == b"x"


LINKING = f"""
import numpy as np
from bitfusion import cuda
code = cuda.CUSource({ENDLESS_CPP!r} + 'extern "C" __device__ int f(int x) {{ return endless; }}')
f = cuda.declare_device("f", "int32(int32)", link=code, abi="c")
@cuda.jit
def kernel(values):
    values[0] = f(1)
kernel[1, 1](np.zeros(1, np.int32))
"""


def test_the_compiler_of_cuda_cpp_goes_with_its_client(appliance, tmp_path):
    """The compile that passes the check of its text and has no end."""
    (tmp_path / "linking.py").write_text(LINKING)
    environment = {**os.environ, "BITFUSION_SERVER": appliance.address}
    with subprocess.Popen([sys.executable, str(tmp_path / "linking.py")], env=environment) as client:
        compiler, worker = compiler_of(appliance, client)
        client.kill()
    assert ends(worker)
    assert ends(compiler)


def compiler_of(appliance: Appliance, client: subprocess.Popen[bytes]) -> tuple[int, int]:
    """NVRTC's process and its worker, once it is there."""
    while client.poll() is None:
        for pid, parent in appliance.children().items():
            try:
                if b"bitfusion.kernels.nvrtc" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    return pid, parent
            except OSError:  # it has gone meanwhile
                continue
    raise AssertionError("the client ended before its code was compiled")
