"""The pool's commands as processes of their own against an appliance with two GPUs: leases, queue, listings, order."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time

import pyte
import pytest

from bitfusion.cli.exit_codes import ExitCode
from bitfusion.cli.main import main
from bitfusion.client.control import open_control
from tests.appliance import Appliance

SCRIPT = os.path.join(os.path.dirname(sys.executable), "bitfusion")
TIMEOUT_S = 60
MIB = 1 << 20
GPU_SIZE = 256 * MIB


@pytest.fixture(scope="module")
def appliance(tmp_path_factory):
    with Appliance("virtual:2x256MiB", tmp_path_factory.mktemp("pool")) as running:
        yield running


@pytest.fixture
def place(appliance, tmp_path, monkeypatch):
    """The environment of every command of a test; what it leaves of the pool is taken back."""
    for name in ("BITFUSION_GPUS", "BITFUSION_MEMORY", "BITFUSION_FRACTION", "BITFUSION_LEASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BITFUSION_SERVER", appliance.address)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    yield tmp_path
    with open_control(appliance.address) as control:
        control.dealloc(everything=True)


def command(*words, **options):
    return subprocess.run([SCRIPT, *words], capture_output=True, text=True, timeout=TIMEOUT_S, **options)


def start(*words, **options):
    return subprocess.Popen([SCRIPT, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def told(capsys, *words):
    """A command in this process: its exit code and what it wrote."""
    try:
        code = main(list(words))
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def listed(capsys):
    code, out, _ = told(capsys, "list_gpus", "--json")
    assert code == 0
    return json.loads(out)["gpus"]


def requested(capsys, *words):
    """A lease of ``request_gpus``, as its --json says it."""
    code, out, err = told(capsys, "request_gpus", "-q", "--json", *words)
    assert code == 0, err
    return json.loads(out)


def python(code):
    return [sys.executable, "-c", code]


USE = python(
    "import bitfusion; gpu = bitfusion.connect(); print(gpu.memory_info().total); gpu.to_device([1.0]); gpu.close()"
)


# leases in files


def test_a_lease_for_several_commands(place, capsys, appliance):
    code, out, err = told(capsys, "request_gpus", "-m", "64")
    assert code == 0
    lease_id = re.match(rf"lease ([0-9a-f]+) on {appliance.address}\nGPU [01]: 64 MiB of ", out)[1]
    (path,) = place.glob("bitfusion*")
    assert out.endswith(f"kept in {path}\n") and path.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(
        rf"bitfusion: leased GPU [01] \(Virtual GPU\) with 64 MiB of memory from {appliance.address}\n", err
    )
    for _ in range(2):
        done = command("client", "--", *USE)
        assert (done.returncode, done.stdout) == (0, f"{64 * MIB}\n"), done.stderr
        assert done.stderr == f"bitfusion: running {_shown(USE)} on 1 GPU\n"
    held = [lease for gpu in listed(capsys) for lease in gpu["leases"]]
    assert [(lease["id"], lease["memory_size"]) for lease in held] == [(lease_id, 64 * MIB)]
    assert told(capsys, "release_gpus")[::2] == (
        0,
        f"bitfusion: released lease {lease_id} on {appliance.address}; removed {path}\n",
    )
    assert not path.exists() and not any(gpu["leased_size"] for gpu in listed(capsys))


def _shown(words):
    from bitfusion.cli.voice import shortened

    return shortened(words)


def test_the_key_is_in_the_file_alone(place, capsys):
    lease = requested(capsys, "-p", "0.25", "--file", str(place / "mine"))
    key = json.loads((place / "mine").read_text())["key"]
    assert lease == {"file": str(place / "mine"), "id": lease["id"], "server": lease["server"], "gpus": lease["gpus"]}
    assert key not in json.dumps(lease) + command("smi", "--json").stdout + command("list_gpus", "--json").stdout


def test_a_lease_that_has_ended(place, capsys):
    lease = requested(capsys, "-m", "64")
    code, out, _ = told(capsys, "dealloc", "--yes", "--json", lease["id"][:8])
    assert (code, json.loads(out)) == (0, {"ended": [lease["id"]]})
    code, _, err = told(capsys, "client", "true")
    assert code == ExitCode.LEASE and "has ended" in err and f"release_gpus -f {lease['file']}" in err
    code, _, err = told(capsys, "release_gpus", "-f", lease["file"])
    assert code == 0 and "had ended already" in err and not os.path.exists(lease["file"])
    code, _, err = told(capsys, "release_gpus")
    assert code == ExitCode.LEASE and "no lease file of yours" in err


def test_a_wrong_key(place, capsys):
    lease = requested(capsys, "-m", "64")
    text = json.loads((saved := place / lease["file"]).read_text())
    saved.write_text(json.dumps({**text, "key": "another"}))
    assert told(capsys, "client", "true")[0] == ExitCode.LEASE


@pytest.mark.parametrize("verb", ["client", "release_gpus"])
def test_a_server_that_is_gone_leaves_the_file(verb, place, capsys):
    lease = requested(capsys, "-m", "64")
    text = json.loads((saved := place / lease["file"]).read_text())
    saved.write_text(json.dumps({**text, "server": "127.0.0.1:1"}))
    assert told(capsys, verb, *(["true"] if verb == "client" else []))[0] == ExitCode.TCP
    assert saved.exists()


def test_a_lease_for_a_month(place, capsys):
    requested(capsys, "-m", "64", "--lifetime", "30d")
    (lease,) = [lease for gpu in json.loads(told(capsys, "smi", "--json")[1])["gpus"] for lease in gpu["leases"]]
    assert 0 < 30 * 86400 - lease["left_s"] < TIMEOUT_S


def test_nothing_is_leased_that_could_not_be_kept(place, capsys):
    code, _, err = told(capsys, "request_gpus", "-f", "/proc/lease")
    assert code == ExitCode.LEASE and "cannot be kept" in err
    code, _, err = told(capsys, "request_gpus", "-m", "90TiB")
    assert code == ExitCode.CAPACITY and not list(place.glob("bitfusion*"))
    assert not any(gpu["leased_size"] for gpu in listed(capsys))


# run


def test_what_run_says_and_tells(place, appliance):
    show = python("import os; print({k: v for k, v in os.environ.items() if k.startswith('BITFUSION')})")
    done = command("run", "-n", "2", "-m", "64", "--", *show)
    environment = eval(done.stdout)
    assert re.fullmatch(r"[0-9a-f]+:\S{20,}", environment["BITFUSION_LEASE"])
    assert set(environment) == {"BITFUSION_SERVER", "BITFUSION_LEASE", "BITFUSION_HOOK"}
    assert done.stderr.splitlines() == [
        f"bitfusion: leased GPUs 0 and 1 (Virtual GPU) with 64 MiB of memory each from {appliance.address}",
        f"bitfusion: running {_shown(show)} on 2 GPUs",
        f"bitfusion: released GPUs 0 and 1 on {appliance.address}",
    ]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["sh", "script", "--password", "x"], "sh script"),
        (["sh", "-c", "exit", "secret"], "sh"),
        (["/bin/true"], "true"),
    ],
)
def test_others_see_the_program_and_not_its_arguments(words, name, place, capsys):
    (place / "script").write_text("exit 0\n")
    assert command("run", "-q", "-m", "64", "--", *words, cwd=place).returncode == 0
    assert json.loads(told(capsys, "history", "--json", "--count", "1")[1])["leases"][0]["program"] == name


def test_every_command_of_a_shell_is_on_the_lease(place):
    line = f"""{" ".join(map(_quoted, USE))}; {SCRIPT} list_gpus --json; {" ".join(map(_quoted, USE))}"""
    done = command("run", "-q", "-m", "64", "--", "sh", "-c", line)
    first, *middle, last = done.stdout.splitlines()
    assert (first, last, done.stderr) == (str(64 * MIB), str(64 * MIB), "")
    assert sum(len(gpu["leases"]) for gpu in json.loads("".join(middle))["gpus"]) == 1


def _quoted(word):
    import shlex

    return shlex.quote(word)


def test_run_ends_its_lease_however_the_program_ends(place, capsys):
    for words in (["sh", "-c", "kill -KILL $$"], ["false"], ["/no/such/program"]):
        command("run", "-q", "-p", "0.5", "--", *words)
        assert not any(gpu["leased_size"] for gpu in listed(capsys))


def test_a_lease_that_is_taken_back_while_the_program_runs(place, capsys):
    code = (
        "import sys, bitfusion; gpu = bitfusion.connect(); print('on', flush=True); sys.stdin.readline(); gpu.echo(b'')"
    )
    with start("run", "-m", "64", "--", *python(code), stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == "on\n"
        assert told(capsys, "dealloc", "--all", "--yes")[0] == 0
        _, err = process.communicate("\n", TIMEOUT_S)
    assert process.returncode == 1
    assert "ended before the program" in err and "released" not in err


# the queue


@contextlib.contextmanager
def holding(*words):
    """Somebody else has it, until the block ends."""
    with start("run", "-q", *words, "--", "sh", "-c", "echo has it; read x", stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == "has it\n", process.stderr.read()
        yield process
        process.stdin.close()
        process.wait(TIMEOUT_S)


def test_no_wait_and_timeout(place, capsys):
    with holding("-n", "2"):
        code, _, err = told(capsys, "run", "--no-wait", "-m", "64", "true")
        assert code == ExitCode.CAPACITY and err.count("an exclusive lease is on it") == 2
        code, _, err = told(capsys, "run", "--timeout", "0.2", "-m", "64", "true")
        assert code == ExitCode.TIMEOUT and "waiting, 1 of 1 in the queue" in err


def test_who_waits_is_served_and_seen(place, capsys):
    with holding("-n", "2"), start("run", "-m", "64", "--", "echo", "served") as process:
        assert process.stderr.readline().startswith("bitfusion: waiting, 1 of 1 in the queue: ")
        code, out, _ = told(capsys, "smi")
        assert code == 0 and "1 waiting" in out and "Waiting" in out
        (waiter,) = json.loads(command("smi", "--json").stdout)["waiters"]
        assert waiter["position"] == 1 and "64 MiB" in waiter["asked"]
        told(capsys, "dealloc", "--all", "--yes")
        assert process.communicate(timeout=TIMEOUT_S)[0] == "served\n"


def test_ctrl_c_leaves_the_queue(place, capsys):
    with holding("-n", "2"):
        with start("run", "-m", "64", "--", "echo", "served") as process:
            assert "waiting" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=TIMEOUT_S)
        assert (process.returncode, out, err) == (ExitCode.INTERRUPTED, "", "")
        assert json.loads(command("smi", "--json").stdout)["waiters"] == []


# several servers


def test_the_first_server_that_has_room(place, appliance, null_appliance, capsys):
    both = f"127.0.0.1:1,{appliance.address},{null_appliance.address}"
    with holding("-n", "2"):
        lease = requested(capsys, "--server_list", both, "-m", "64")
        assert lease["server"] == null_appliance.address
        assert told(capsys, "release_gpus")[0] == 0
        code, _, err = told(
            capsys, "run", "--server_list", f"127.0.0.1:1,{appliance.address}", "--no-wait", "-m", "64", "true"
        )
        assert code == ExitCode.CAPACITY and "none of 2 servers gave a lease" in err and "refused the connection" in err
    gpus = json.loads(
        command("list_gpus", "--json", "--server_list", f"{appliance.address},{null_appliance.address}").stdout
    )["gpus"]
    assert [gpu["server"] for gpu in gpus] == [appliance.address, appliance.address, null_appliance.address]


# listings


def test_list_gpus_json_has_its_form(place, capsys, appliance):
    requested(capsys, "-m", "64")
    for index, gpu in enumerate(listed(capsys)):
        assert set(gpu) == {"server", "index", "uuid", "name", "memory_size", "leased_size", "leases"}
        assert (gpu["server"], gpu["index"], gpu["memory_size"]) == (appliance.address, index, GPU_SIZE)
        assert gpu["leased_size"] == sum(lease["memory_size"] for lease in gpu["leases"])
        assert all(set(lease) == {"id", "user", "memory_size"} for lease in gpu["leases"])


def test_smi_shows_a_session(place, capsys):
    code = """
import sys, bitfusion, numpy
gpu = bitfusion.connect()
array = gpu.to_device(numpy.zeros(10 << 20, 'u1'))
gpu.synchronize()
print('on', flush=True)
sys.stdin.read()
"""
    with start("run", "-m", "64", "--", *python(code), stdin=subprocess.PIPE) as process:
        assert process.stdout.readline() == "on\n"
        code, out, _ = told(capsys, "smi")
        process.communicate(timeout=TIMEOUT_S)
    assert code == 0 and "\x1b" not in out
    assert "2 GPUs, 1 lease" in out and "Virtual" in out and "10 MiB" in out and "64 MiB" in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize("verb", ["list_gpus", "smi", "health", "history", "quota", "netperf", "dealloc"])
def test_no_server(verb, monkeypatch, capsys):
    monkeypatch.setenv("BITFUSION_SERVER", "127.0.0.1:1")
    assert told(capsys, verb, *(["--all"] if verb == "dealloc" else []))[0] == ExitCode.TCP


def test_output_that_nobody_reads(place):
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {SCRIPT} smi | true; echo ${{PIPESTATUS[0]}}"], capture_output=True, text=True
    )
    assert done.stdout.strip() in ("0", "141") and done.stderr == ""


def test_version(place, appliance, capsys):
    code, out, _ = told(capsys, "version", "--json")
    (server,) = json.loads(out)["servers"]
    assert code == 0 and server["server"] == appliance.address and server["version"] == json.loads(out)["version"]


def test_health(place, capsys):
    code, out, _ = told(capsys, "health")
    assert "daemon: up for " in out
    assert code == 0 and "failed" not in out and "2 GPUs, 0 leases, 0 waiting, up to 256 MiB free on one" in out
    code, out, _ = told(capsys, "health", "--server", "127.0.0.1:1")
    assert code == ExitCode.TCP and len(out.splitlines()) == 2  # for `grep`: no line is broken in two
    code, out, _ = told(capsys, "health", "--json", "--server", "127.0.0.1:1")
    assert code == ExitCode.TCP and json.loads(out)["ok"] is False


def test_netperf(place, capsys, monkeypatch):
    monkeypatch.setattr("bitfusion.cli.netperf.TIME_S", 0.1)
    code, out, err = told(capsys, "netperf", "--json", "--size", "4")
    assert code == 0, err
    (figures,) = json.loads(out)
    assert 0 < figures["call_us_p50"] <= figures["call_us_p99"] and figures["floor_h2d_gbps"] > 0
    assert figures["results_per_s_max"] == pytest.approx(1e6 / figures["call_us_p50"])
    code, out, _ = told(capsys, "netperf", "--size", "4")
    assert code == 0 and "launches a second whose result is waited for" in out and "1 GiB takes" in out


# order


def test_dealloc_by_conditions(place, capsys):
    first, second = requested(capsys, "-m", "64"), requested(capsys, "-m", "64")
    code, _, err = told(capsys, "dealloc")
    assert code == ExitCode.USAGE and "--idle" in err
    code, _, err = told(capsys, "dealloc", "--all")
    assert code == ExitCode.USAGE and "give --yes" in err
    code, _, err = told(capsys, "dealloc", "0" * 16)
    assert code == ExitCode.LEASE and "there is no lease" in err
    assert told(capsys, "dealloc", "-y", "--user", "nobody of that name")[2].endswith("nothing to take back\n")
    assert told(capsys, "dealloc", "-y", "--idle", "8h")[2].endswith("nothing to take back\n")
    assert told(capsys, "dealloc", "-y", first["id"])[2].endswith("took back 1 lease\n")
    (gpu,) = [gpu for gpu in listed(capsys) if gpu["leases"]]
    assert [lease["id"] for lease in gpu["leases"]] == [second["id"]]
    assert told(capsys, "dealloc", "-y", "--user", gpu["leases"][0]["user"])[2].endswith("took back 1 lease\n")


def test_quotas(place, capsys):
    user = _user(capsys)
    subject = f"user:{user}"
    try:
        assert told(capsys, "quota", "set", subject, "--gpus", "0.5", "--lifetime", "8h")[0] == 0
        assert told(capsys, "quota", "set", subject, "--memory", "64")[0] == 0
        (quota,) = json.loads(told(capsys, "quota", "--json")[1])["quotas"]
        assert (quota["subject"], quota["gpus"], quota["memory"], quota["lifetime_s"]) == (
            subject,
            0.5,
            64 * MIB,
            8 * 3600,
        )
        out = told(capsys, "quota")[1]
        assert subject in out and "64 MiB" in out and "8h" in out
        code, _, err = told(capsys, "request_gpus", "-p", "0.75")
        assert code == ExitCode.QUOTA and subject.partition(":")[2] in err
        assert told(capsys, "quota", "set", subject, "--memory", "none")[0] == 0
        assert json.loads(told(capsys, "quota", "--json")[1])["quotas"][0]["memory"] is None
    finally:
        assert told(capsys, "quota", "remove", subject)[0] == 0
        code, _, err = told(capsys, "quota", "remove", subject)
        assert code == 0 and f"there is no quota of {subject}: nothing to remove" in err
    assert json.loads(told(capsys, "quota", "--json")[1])["quotas"] == []


def _user(capsys):
    requested(capsys, "-m", "64")
    (user,) = {lease["user"] for gpu in listed(capsys) for lease in gpu["leases"]}
    assert told(capsys, "release_gpus")[0] == 0
    return user


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["set"], "whose quota?"),
        (["set", "user:x"], "which limit?"),
        (["set", "ana", "--gpus", "1"], "write user:NAME or group:NAME"),
        (["set", "user:x", "--gpus", "-1"], "write one from 0 on, or none"),
        (["set", "user:x", "--gpus", "nan"], "write one from 0 on, or none"),
        (["remove", "user:x", "--gpus", "1"], "to lift one"),
        (["--gpus", "1"], "to change a quota"),
        (["lend"], "invalid choice"),
    ],
)
def test_quotas_that_cannot_be(words, said, place, capsys):
    code, _, err = told(capsys, "quota", *words)
    assert code == ExitCode.USAGE and said in err


def test_history(place, capsys):
    before = time.time()
    lease = requested(capsys, "-n", "2", "-p", "0.5")
    assert told(capsys, "release_gpus", "-q")[0] == 0
    (entry,) = [
        entry for entry in json.loads(told(capsys, "history", "--json")[1])["leases"] if entry["id"] == lease["id"]
    ]
    assert before - 1 <= entry["granted_at"] <= entry["ended_at"] <= time.time() + 1
    assert 0 < entry["gpu_seconds"] <= entry["ended_at"] - entry["granted_at"] + 0.001
    out = told(capsys, "history")[1]
    assert lease["id"][:8] in out and "GPU-hours" in out
    assert json.loads(told(capsys, "history", "--json", "--user", "nobody of that name")[1])["leases"] == []
    assert told(capsys, "history", "--since", "yesterday")[0] == ExitCode.USAGE


# terminals


class Terminal:
    """A command on a terminal of its own, and what that shows."""

    def __init__(self, *words, columns=100, lines=30):
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", LINES=str(lines), COLUMNS=str(columns))
            os.execv(SCRIPT, [SCRIPT, *words])
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)

    def shows(self, *words):
        """Read on until the screen has all the words; fails with the test's own time-out."""
        while not all(word in self.text for word in words):
            self._stream.feed(os.read(self.descriptor, 65536))

    @property
    def text(self):
        return "\n".join(self.screen.display)

    def press(self, keys):
        os.write(self.descriptor, keys)

    def end(self):
        """Its exit code, once it has ended."""
        with contextlib.suppress(OSError):  # EIO: the other side is closed
            while data := os.read(self.descriptor, 65536):
                self._stream.feed(data)
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_top(place, capsys):
    terminal = Terminal("top", "--interval", "30")
    terminal.shows("2 GPUs, 0 leases", "q quit", "sort: gpu")
    lease = requested(capsys, "-m", "64")
    terminal.press(b" ")
    terminal.shows("2 GPUs, 1 lease", lease["id"][:8])
    terminal.press(b"s")
    terminal.shows("sort: memory")
    terminal.press(b"q")
    assert terminal.end() == 0


def test_top_without_a_terminal(place, capsys):
    code, _, err = told(capsys, "top")
    assert code == ExitCode.USAGE and "bitfusion smi" in err


def test_dealloc_asks_on_a_terminal(place, capsys):
    lease = requested(capsys, "-m", "64")
    for answer, code, count in ((b"n\n", ExitCode.USAGE, 1), (b"y\n", 0, 0)):
        terminal = Terminal("dealloc", "--all")
        terminal.shows(lease["id"], "take back 1 lease? [y/N]")
        terminal.press(answer)
        assert terminal.end() == code
        assert sum(len(gpu["leases"]) for gpu in listed(capsys)) == count


def test_the_line_of_the_queue_gives_way_to_the_program(place):
    with holding("-n", "2") as holder:
        terminal = Terminal("run", "-m", "64", "--", "echo", "served")
        terminal.shows("waiting, 1 of 1 in the queue")
        holder.stdin.write("\n")
        holder.stdin.flush()
        terminal.shows("served", "released")
        assert terminal.end() == 0 and "waiting" not in terminal.text
