"""Every way a process can end: the others go on, the client learns why, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from bitfusion import limits
from bitfusion.errors import (
    CapacityError,
    ConfigError,
    ConnectionLostError,
    DeadlineError,
    RemoteProtocolError,
    ResolveError,
    SessionError,
    UnreachableError,
    WorkerDiedError,
)
from bitfusion.session.hello import Hello
from bitfusion.transport.address import parse_target
from bitfusion.transport.blocking import BlockingTransport, open_session
from bitfusion.wire.operations import Opcode
from tests.appliance import Appliance
from tests.processes import ends

SMALL = Hello(memory=16 * limits.MIB)


def opened(appliance: Appliance, hello: Hello = SMALL) -> BlockingTransport:
    return open_session(parse_target(appliance.address), hello)


def echo(transport: BlockingTransport, data: bytes = b"x") -> bytes:
    asked = transport.session.call(Opcode.ECHO, 0, data)
    transport.wait(asked)
    return asked.result()


def worker_of(appliance: Appliance, transport: BlockingTransport) -> int:
    """The worker that serves ``transport``, found by its session's name in the log."""
    match = appliance.wait_log(rf" (\d+) \S+ session {transport.session.welcome.session_id} opened")
    return int(match.group(1))


@pytest.fixture
def appliance(tmp_path):
    with Appliance("null", tmp_path / "state") as appliance:
        yield appliance


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_workers_death_ends_its_own_session_with_the_reason_and_nothing_else(null_appliance, number):
    healthy, doomed = opened(null_appliance), opened(null_appliance)
    pid = worker_of(null_appliance, doomed)
    os.kill(pid, number)
    name = doomed.session.welcome.session_id
    with pytest.raises(WorkerDiedError, match=rf"{number.name}.*cuda\.close\(\).*worker {pid}, session {name}"):
        echo(doomed)
    line = null_appliance.wait_log(rf"session {name}: its worker {pid} died by {number.name}$").string
    assert "log" not in line.partition("session")[2]  # it is the log
    with pytest.raises(WorkerDiedError):
        doomed.session.post(Opcode.RELEASE, 0, 1)
    assert echo(healthy) == b"x"
    healthy.close()
    doomed.close()


CLIENT = """
import sys
from bitfusion.session.hello import Hello
from bitfusion.transport.address import parse_target
from bitfusion.transport.blocking import open_session
transport = open_session(parse_target(sys.argv[1]), Hello())
print(transport.session.welcome.session_id, flush=True)
sys.stdin.read()
"""


def test_a_clients_death_frees_all_it_held(appliance):
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, appliance.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with client:
        client.stdout.readline()
        with pytest.raises(CapacityError, match="no GPU has room"):
            opened(appliance, Hello(wait=0))
        (worker,) = appliance.workers()
        before = len(appliance.lines)
        client.kill()
    assert ends(worker)
    appliance.wait_log("released", after=before)
    opened(appliance, Hello()).close()


def test_closing_is_over_when_the_lease_is_free(appliance):
    for _ in range(5):
        opened(appliance, Hello()).close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_ordered_stop_takes_the_workers_along(appliance, number, tmp_path):
    transport = opened(appliance)
    below = appliance.children()
    assert appliance.stop(number) == 0
    for pid in below:
        assert ends(pid)
    with pytest.raises(SessionError):
        echo(transport)
    transport.close()


def test_the_daemons_death_takes_everything_along(appliance):
    transport = opened(appliance)
    below = appliance.children()
    assert appliance.stop(signal.SIGKILL) == -signal.SIGKILL
    for pid in below:
        assert ends(pid)
    with pytest.raises(ConnectionLostError):
        echo(transport)
    transport.close()


def test_the_zygotes_death_costs_no_session_and_a_new_one_takes_its_place(appliance):
    transport = opened(appliance)
    (zygote,) = (pid for pid, parent in appliance.children().items() if parent == appliance.pid)
    os.kill(zygote, signal.SIGKILL)
    appliance.wait_log("started again")
    assert echo(transport) == b"x"
    appliance.wait_log("the new zygote is ready")
    opened(appliance).close()
    transport.close()


# a server that is not there, refuses, or stays silent


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UnreachableError, match="no appliance listens there"):
        open_session(parse_target(f"127.0.0.1:{port}"), SMALL)


def test_no_such_name():
    with pytest.raises(ResolveError, match="does not resolve"):
        open_session(parse_target("no-such-host.invalid"), SMALL)


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "host:port", "host:0", "host:70000", "[::1", "[::1]x", "a:b:c", "[host]:7"),
        *("http://127.0.0.1:56001", "https://host", "host:7/path"),
    ],
)
def test_targets_that_are_none(text):
    with pytest.raises(ConfigError, match="server address"):
        parse_target(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("gpu1", "gpu1", 56001),
        ("gpu1:7", "gpu1", 7),
        ("[::1]", "::1", 56001),
        ("[::1]:7", "::1", 7),
        ("::1", "::1", 56001),
    ],
)
def test_targets(text, host, port):
    target = parse_target(text)
    assert (target.host, target.port) == (host, port)
    assert parse_target(str(target)) == target


def serve_once(reply: bytes, *, linger: threading.Event | None = None) -> tuple[str, threading.Thread]:
    """A server that takes one connection, says ``reply`` and hangs up, or waits for ``linger``."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(reply)
                if linger is not None:
                    linger.wait(30)

    thread = threading.Thread(target=serve)
    thread.start()
    return f"127.0.0.1:{listener.getsockname()[1]}", thread


def test_something_else_listens_there():
    address, thread = serve_once(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    with pytest.raises(RemoteProtocolError, match="not the bitfusion protocol"):
        open_session(parse_target(address), SMALL)
    thread.join()


def test_a_server_that_hangs_up():
    address, thread = serve_once(b"")
    with pytest.raises(ConnectionLostError, match="connect again"):
        open_session(parse_target(address), SMALL)
    thread.join()


def test_a_server_that_stays_silent():
    linger = threading.Event()
    address, thread = serve_once(b"", linger=linger)
    with pytest.raises(DeadlineError):
        open_session(parse_target(address), SMALL, timeout_s=0.3)
    linger.set()
    thread.join()


def test_a_port_that_is_taken(null_appliance, tmp_path):
    with pytest.raises(RuntimeError, match="cannot serve on"):
        Appliance("null", tmp_path, "--port", str(null_appliance.port))


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_only_loopback_is_served_without_credentials(tmp_path, host):
    with pytest.raises(RuntimeError, match="--insecure"):
        Appliance("null", tmp_path, "--host", host)


def test_the_ready_file_says_where_and_goes_with_the_daemon(tmp_path):
    ready = tmp_path / "ready.json"
    with Appliance("null", tmp_path / "state", "--ready-file", str(ready)) as appliance:
        assert json.loads(ready.read_text())["address"] == appliance.address
        assert json.loads(ready.read_text())["pid"] == appliance.pid
    assert not ready.exists()
