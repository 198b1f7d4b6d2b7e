"""``bitfusion serve`` as a process: its options, its readiness, its exit codes, its stop."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import bitfusion
from bitfusion.cli.exit_codes import ExitCode
from bitfusion.client import embedded
from bitfusion.client.control import open_control
from bitfusion.errors import ConfigError, LeaseEndedError, SessionError, decode
from tests.appliance import Appliance

IPV6 = socket.has_ipv6 and Path("/proc/net/if_inet6").exists()


def serve(*options: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """``bitfusion serve`` that is expected to fail."""
    command = [sys.executable, "-m", "bitfusion", "serve", "--devices", "null", "--port", "0"]
    return subprocess.run(
        [*command, *options],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--port", "65536"], ExitCode.USAGE, "0 to 65535"),
        (["--port", "x"], ExitCode.USAGE, "0 to 65535"),
        (["--port", "-1"], ExitCode.USAGE, "0 to 65535"),
        (["--devices", "tpu"], ExitCode.USAGE, "'tpu' is not known; write auto"),
        (["--devices", "virtual:0x1GiB"], ExitCode.USAGE, "1 to 64 virtual GPUs"),
        (["--devices", "virtual:1x1"], ExitCode.USAGE, "at least 2 MiB"),
        (["--devices", "null,null"], ExitCode.USAGE, "twice"),
        (["--host", "0.0.0.0"], ExitCode.USAGE, "--insecure"),
        (["--host", "::"], ExitCode.USAGE, "--insecure"),
        (["--idle-warning", "5m", "--idle-timeout", "1m"], ExitCode.USAGE, "nobody would be warned"),
        (["--host", "no-such-host.invalid"], ExitCode.DNS, "does not resolve"),
        (["--host", "192.0.2.1", "--insecure"], ExitCode.BIND, "an address of this machine"),
        (["--state-dir", "file/state"], ExitCode.USAGE, "--state-dir file/state cannot be written"),
        (["--ready-file", "missing/ready.json"], ExitCode.USAGE, "--ready-file missing/ready.json cannot be written"),
        (["--ready-file", "."], ExitCode.USAGE, "cannot be written"),
        (["--kernel-timeout", "0"], ExitCode.USAGE, "a number of seconds above 0 and at most 1000000, not '0'"),
        (["--kernel-timeout", "nan"], ExitCode.USAGE, "a number of seconds"),
        (["--kernel-timeout", "long"], ExitCode.USAGE, "a number of seconds"),
        (["--check", "some"], ExitCode.USAGE, "'all', 'global', 'none'"),
        (["--strategy", "any"], ExitCode.USAGE, "'pack', 'spread'"),
        (["--lifetime", "long"], ExitCode.USAGE, "'long' is not a time"),
        (["--idle-timeout", "0"], ExitCode.USAGE, "'0' is not a time"),
        (["--log-level", "loud"], ExitCode.USAGE, "'loud' is no level; write DEBUG, INFO"),
        (["--no-such-option"], ExitCode.USAGE, "bitfusion serve: error: unrecognized arguments: --no-such-option"),
    ],
)
def test_what_cannot_work_is_refused_at_once_with_what_to_do(tmp_path, options, code, words):
    (tmp_path / "file").touch()
    result = serve("--state-dir", str(tmp_path / "state"), *options, directory=tmp_path)
    assert result.returncode == code
    assert words in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_cache_that_others_can_write_to_is_refused(tmp_path, mode):
    """Workers load machine code from it."""
    cache = tmp_path / "state" / "cache"
    cache.mkdir(parents=True)
    cache.chmod(mode)
    result = serve("--state-dir", "state", directory=tmp_path)
    assert result.returncode == ExitCode.USAGE
    assert "others can write to" in result.stderr and "Traceback" not in result.stderr


def test_what_an_appliance_writes_is_its_users_alone(tmp_path):
    with Appliance("virtual:1x64MiB", tmp_path / "state") as appliance, bitfusion.connect(appliance.address) as client:
        client.load_module(b".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k() { ret; }").function("k")
        kept = [path for path in (tmp_path / "state" / "cache").rglob("*") if path.stat().st_mode & 0o077]
        assert not kept


def test_a_port_that_is_taken(null_appliance, tmp_path):
    (tmp_path / "ready.json").write_text("of the appliance that has the port")
    options = ["--state-dir", "state", "--ready-file", "ready.json", "--port", str(null_appliance.port)]
    result = serve(*options, directory=tmp_path)
    assert result.returncode == ExitCode.BIND
    assert "another --port" in result.stderr and "Traceback" not in result.stderr
    assert (tmp_path / "ready.json").exists()


def start(*options: str, directory: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bitfusion", "serve", "--devices", "null", "--port", "0", *options]
    return subprocess.Popen(
        command,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def ready(process: subprocess.Popen[str]) -> str:
    """The address in the readiness line."""
    assert process.stderr is not None
    for line in process.stderr:
        match = re.fullmatch(r"bitfusion: ready at (\S+) with 1 GPU: Null device \(64 GiB\)\n", line)
        if match:
            return match[1]
    raise AssertionError("the appliance ended without a readiness line")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_readiness_line_and_file_and_a_clean_stop_with_sessions_open(tmp_path, number):
    ready_file = tmp_path / "ready.json"
    ready_file.write_text("left by one that was killed")
    with start("--state-dir", "state", "--ready-file", str(ready_file), directory=tmp_path) as process:
        address = ready(process)
        content = json.loads(ready_file.read_text())
        assert (content["address"], content["pid"], content["gpus"]) == (address, process.pid, 1)
        clients = [bitfusion.connect(address, memory="2MiB") for _ in range(3)]
        process.send_signal(number)
        assert process.wait(30) == ExitCode.OK
        assert "Traceback" not in process.stderr.read()
    for client in clients:
        with pytest.raises(SessionError, match="connect again"):
            client.echo(b"x")
        client.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]
    host, port = address.split(":")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


def test_signals_while_it_starts_stop_it_in_order(tmp_path):
    """Whenever the signal comes: before the readiness line, after it, or before there is anything to stop."""
    for delay_lines in range(2):
        with start("--state-dir", "state", "--log-level", "DEBUG", directory=tmp_path) as process:
            for _ in range(delay_lines):
                process.stderr.readline()
            process.terminate()
            assert process.wait(30) in (ExitCode.OK, -signal.SIGTERM)
            assert "Traceback" not in process.stderr.read()


def test_the_address_is_free_again_at_once(tmp_path):
    with Appliance("null", tmp_path) as first:
        client = bitfusion.connect(first.address)
    with Appliance("null", tmp_path, "--port", str(first.port)) as second:
        assert second.port == first.port
        with bitfusion.connect(second.address) as other:
            assert other.echo(b"x") == b"x"
    client.close()


def test_two_appliances_never_share_a_state_directory(tmp_path):
    with Appliance("null", tmp_path) as first:
        result = serve("--state-dir", str(tmp_path), directory=tmp_path)
        assert result.returncode == ExitCode.USAGE
        assert (
            f"pid {first.pid} has the state directory {tmp_path}" in result.stderr
            and "another --state-dir" in result.stderr
        )
        with open_control(first.address) as control:
            name = control.welcome.server_id
        first.stop(signal.SIGKILL)
        with Appliance("null", tmp_path) as second, open_control(second.address) as control:
            assert control.welcome.server_id == name


def test_private_appliances_share_a_state_directory_with_anybody(tmp_path):
    with Appliance("null", tmp_path) as appliance:
        private = embedded.Appliance("null", tmp_path)
        try:
            with bitfusion.connect(str(private.target)) as one, bitfusion.connect(appliance.address) as other:
                assert (one.echo(b"1"), other.echo(b"2")) == (b"1", b"2")
        finally:
            private.stop()


def test_what_the_owner_says_of_leases(tmp_path):
    options = ["--strategy", "spread", "--lifetime", "1h", "--idle-warning", "0.5", "--idle-timeout", "1.5"]
    with Appliance("virtual:2x64MiB", tmp_path, *options) as appliance, open_control(appliance.address) as control:
        first, second = control.request(memory="2MiB"), control.request(memory="2MiB", lifetime=60)
        assert [lease.gpus[0].index for lease in (first, second)] == [0, 1]
        assert [round(lease.expires_at - lease.granted_at) for lease in (first, second)] == [3600, 60]
        before, others = len(appliance.lines), f"{first.id}|{second.id}"
        ended = pytest.raises(
            LeaseEndedError, match="it was idle for"
        )  # as it opens, on a machine that is slower than that
        with ended, bitfusion.connect(appliance.address, memory="2MiB") as client:
            appliance.wait_log(f"lease (?!{others})[0-9a-f]+: idle for", after=before)
            appliance.wait_log(f"lease (?!{others})[0-9a-f]+: released", after=before)
            client.synchronize()


@pytest.mark.skipif(not IPV6, reason="this machine has no IPv6")
def test_ipv6_loopback(tmp_path):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"::1 cannot be served on here: {error}")
    with Appliance("null", tmp_path, "--host", "::1") as appliance:
        assert appliance.address.startswith("[::1]:")
        with bitfusion.connect(appliance.address) as client:
            assert client.echo(b"x") == b"x"


def test_several_kinds_of_devices_and_leases_on_each(tmp_path):
    with Appliance("virtual:2x64MiB,null", tmp_path) as appliance:
        clients = [bitfusion.connect(appliance.address, fraction=1.0) for _ in range(3)]
        assert [client.device.kind for client in clients] == ["virtual", "virtual", "null"]
        assert clients[0].device.uuid != clients[1].device.uuid
        for client in clients:
            client.close()


def test_virtual_gpus_that_exceed_the_machine_are_warned_of(tmp_path):
    with Appliance("virtual:2x4TiB", tmp_path) as appliance:
        appliance.wait_log(r"the virtual GPUs have 8 TiB together, this machine has [\d.]+ [GT]iB: programs that fill")
        appliance.wait_log(r"with 2 GPUs: Virtual GPU \(4 TiB\), Virtual GPU \(4 TiB\)")
    with Appliance("virtual:1x64MiB,null", tmp_path) as appliance:
        assert not [line for line in appliance.lines if "together" in line]


def test_who_waits_for_the_ready_line_is_told_the_error_instead(tmp_path):
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "bitfusion", "serve", "--devices", "tpu", "--ready-fd", str(writer)]
    code = subprocess.run(command, cwd=tmp_path, pass_fds=[writer], capture_output=True, timeout=60).returncode
    os.close(writer)
    with open(reader) as told:
        error = decode(json.loads(told.read())["error"])
    assert (code, type(error)) == (ExitCode.USAGE, ConfigError) and "'tpu' is not known" in error.message


def test_help_lists_every_kind_of_device(tmp_path):
    options = " ".join(serve("--help", directory=tmp_path).stdout.split())
    assert "auto | cuda | null | virtual | virtual:COUNTxMEMORY" in options


def test_without_a_home_it_serves_without_a_cache(tmp_path):
    environment = {"HOME": "/dev/null/home", "XDG_STATE_HOME": ""}
    with start(directory=tmp_path, **environment) as process:
        assert process.stderr.readline().startswith("bitfusion: no kernel cache: ")
        with bitfusion.connect(ready(process)) as client:
            assert client.echo(b"x") == b"x"
        process.terminate()
        assert process.wait(30) == ExitCode.OK


def test_modules_where_it_was_started_are_not_taken_for_pythons(tmp_path):
    """A user's random.py beside the program must not become the appliance's."""
    for name in ("random", "selectors", "msgpack", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a module of the user was imported')")
    command = [sys.executable, "-P", "-m", "bitfusion", "serve", "--devices", "null", "--port", "0", "--state-dir", "s"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        with bitfusion.connect(ready(process)) as client:
            assert client.echo(b"x") == b"x"
        process.terminate()
        assert process.wait(30) == ExitCode.OK


def test_a_clients_installation_says_what_it_lacks_to_serve(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['numba'] = None\n")
    result = serve("--devices", "virtual", directory=tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == ExitCode.USAGE
    assert "needs numba" in result.stderr and "install bitfusion with its extra 'server'" in result.stderr
    assert "Traceback" not in result.stderr
