"""``bitfusion run`` as a command: its options, the exit codes, and a program that does not notice that it is a child."""

from __future__ import annotations

import ast
import os
import pty
import queue
import select
import signal
import subprocess
import sys
import threading

import pytest

from bitfusion.cli.exit_codes import ExitCode
from bitfusion.cli.main import main

SCRIPT = os.path.join(os.path.dirname(sys.executable), "bitfusion")
TIMEOUT_S = 30

ATTEND = "import os, sys; from bitfusion.cli import program; sys.exit(program.run(sys.argv[1:], os.environ))"
"""``cli/program.py`` alone: what ``bitfusion run`` does with its program, without a lease."""


def attend(*command, **options):
    return subprocess.Popen([sys.executable, "-c", ATTEND, *command], text=True, **options)


def run(*arguments, **options):
    """The whole command as a process of its own, to its end."""
    return subprocess.run([SCRIPT, "run", *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, **options)


def python(code):
    return [sys.executable, "-c", code]


# options


@pytest.mark.parametrize(
    "options",
    [
        ["-n", "0"],
        ["-n", "one"],
        ["-p", "0"],
        ["-p", "1.01"],
        ["-p", "half"],
        ["-p", "nan"],
        ["-m", "0"],
        ["-m", "12 parsecs"],
        ["-m", "900TiB"],
        ["-n", "2", "--in-process"],
        ["-p", "0.5", "-m", "100"],
        ["--timeout", "5", "--no-wait"],
        ["--filter", "device.memry>=1GiB"],
        ["--filter", "python"],
        ["--server", "a b:c"],
        ["--server", "host:99999999"],
        ["--server", "http://127.0.0.1:56001"],
        ["--colour"],
        ["--in-process", "--server", "127.0.0.1:1"],
        ["--state-dir", "x", "--server", "127.0.0.1:1"],
        ["--report", "/proc"],
        ["--report", "/proc/report.json"],
        ["--report", "/no/such/directory/report.json"],
    ],
    ids=" ".join,
)
def test_wrong_options_are_refused_before_anything_starts(options, tmp_path, capsys):
    mark = tmp_path / "ran"
    arguments = ["run", *options, "--", "touch", str(mark)]
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == ExitCode.USAGE
    assert "bitfusion" in capsys.readouterr().err
    assert not mark.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-m", "abc"], "write a number of MiB, or one with a unit"),
        (["-n", "2", "--in-process"], "has one device: ask for 1 GPU"),
        (["--filter", "device.memry>=1GiB"], "device.memory"),
        (["--timeout", "soon"], "90, 30m, 8h"),
        (["--in-process", "--no-wait"], "leave out --no-wait"),
        (["--in-process", "--filter", "device.name=x"], "leave out --filter"),
        (["--report", "."], "cannot be written to .: Is a directory"),
        (["--report", "/no/such/directory/report.json"], "No such file or directory"),
        (["--server", "http://127.0.0.1:56001"], "write host:port"),
        (["--colour"], "usage: bitfusion run"),
        (["--state-dir", "/proc/here"], "did not start: --state-dir /proc/here cannot be written"),
    ],
)
def test_the_message_says_what_to_do(options, words, monkeypatch, capsys):
    monkeypatch.delenv("BITFUSION_SERVER", raising=False)
    try:
        code = main(["run", *options, "--", "true"])
    except SystemExit as stop:
        code = stop.code
    assert code == ExitCode.USAGE
    assert words in capsys.readouterr().err


def test_a_report_that_was_only_tried_leaves_nothing(tmp_path):
    assert main(["run", "--report", str(tmp_path / "report.json"), "--in-process", "-n", "2", "true"]) == ExitCode.USAGE
    assert not list(tmp_path.iterdir())


def test_in_process_without_a_compiler_is_refused_before_the_program_starts(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['numba'] = sys.modules['llvmlite'] = None\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = run("--in-process", *python("print('ran')"), env=environment)
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert "needs llvmlite, numba, which" in done.stderr
    done = run("--in-process", "sh", "-c", "echo ran", env=environment)  # what another Python has, only that one knows
    assert (done.returncode, done.stdout) == (0, "ran\n")


EARLY = """
import os, signal, sys
from bitfusion.cli.main import main
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "bitfusion.cli.run":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.exit(main(["run", "true"]))
"""


def test_ctrl_c_while_the_command_is_still_being_read():
    done = subprocess.run(python(EARLY), capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode, done.stderr) == (ExitCode.INTERRUPTED, "")


def test_an_unknown_option_before_the_verb(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--colour", "run", "true"])
    assert stop.value.code == ExitCode.USAGE
    assert "usage: bitfusion [-h]" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--"], ["-n", "1"]], ids=" ".join)
def test_a_program_is_needed(arguments, capsys):
    assert main(["run", *arguments]) == ExitCode.USAGE
    assert "needs a program" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("BITFUSION_FRACTION", "half", "write a share"),
        ("BITFUSION_FRACTION", "2", "above 0 and up to 1"),
        ("BITFUSION_FRACTION", "nan", "write a share"),
        ("BITFUSION_GPUS", "foo", "write a number of GPUs"),
        ("BITFUSION_GPUS", "0", "write a number of GPUs"),
        ("BITFUSION_GPUS", "2", "has one device"),
        ("BITFUSION_MEMORY", "lots", "write bytes"),
        ("BITFUSION_MEMORY", "0", "needs some memory"),
    ],
)
def test_a_variable_that_cannot_be(name, text, words, monkeypatch, capsys):
    monkeypatch.setenv(name, text)
    assert main(["run", "--in-process", "true"]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert name in said and words in said and "literal" not in said


def test_two_variables_that_cannot_be_together(monkeypatch, capsys):
    monkeypatch.setenv("BITFUSION_MEMORY", "1GiB")
    monkeypatch.setenv("BITFUSION_FRACTION", "0.5")
    assert main(["run", "--in-process", "true"]) == ExitCode.USAGE
    assert "BITFUSION_MEMORY and BITFUSION_FRACTION are both set" in capsys.readouterr().err


def test_a_private_appliance_offers_what_the_variable_says(tmp_path):
    environment = {**os.environ, "BITFUSION_DEVICES": "null"}
    done = run("--state-dir", str(tmp_path / "state"), "-m", "2", "true", env=environment)
    assert done.returncode == 0 and done.stderr.startswith(
        "bitfusion: leased GPU 0 (Null device) with 2 MiB of memory from 127.0.0.1:"
    )


def test_help_needs_no_server_parts():
    help_ = subprocess.run([SCRIPT, "run", "--help"], capture_output=True, text=True, check=True, timeout=TIMEOUT_S)
    for option in ("-n", "-p", "-m", "--server", "--report", "--in-process", "--state-dir", "--quiet"):
        assert option in help_.stdout


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (["--server", "127.0.0.1:1"], ExitCode.TCP, "127.0.0.1:1"),
        (["--server", "no-such-host.invalid"], ExitCode.DNS, "no-such-host.invalid"),
    ],
)
def test_a_server_that_is_not_there(options, code, word, tmp_path, capsys):
    mark = tmp_path / "ran"
    assert main(["run", *options, "--", "touch", str(mark)]) == code
    assert word in capsys.readouterr().err
    assert not mark.exists()


def test_a_lease_that_does_not_fit(null_appliance, tmp_path, capsys):
    mark = tmp_path / "ran"
    code = main(["run", "--server", null_appliance.address, "-m", "90TiB", "--", "touch", str(mark)])
    assert code == ExitCode.CAPACITY, capsys.readouterr().err
    assert not mark.exists()


def test_what_the_program_is_told(null_appliance):
    show = python(
        "import os; print({k: v for k, v in os.environ.items() if k.startswith(('BITFUSION', 'PYTHONPATH'))})"
    )
    environment = {**os.environ, "BITFUSION_MEMORY": "1GiB", "PYTHONPATH": "/mine"}
    done = run("--server", null_appliance.address, "-n", "1", "-p", "0.25", "--", *show, env=environment)
    told = ast.literal_eval(done.stdout)
    assert told["BITFUSION_SERVER"] == null_appliance.address
    assert len(told["BITFUSION_LEASE"].split(":")) == 2
    assert not set(told) & {"BITFUSION_GPUS", "BITFUSION_FRACTION", "BITFUSION_MEMORY"}
    assert told["PYTHONPATH"].split(os.pathsep) == [told["BITFUSION_HOOK"], "/mine"]
    assert "with 16384 MiB of memory" in done.stderr


def test_the_rest_of_its_environment_is_as_it_was(null_appliance):
    show = python("import os, sys; print(dict(os.environ)); print(os.getcwd() in sys.path)")
    outer = {"BITFUSION_IN_PROCESS": "1", "BITFUSION_REPORT": "/of/a/run/around/this"}
    environment = {**os.environ, "EMPTY": "", "PYTHONPATH": "/mine" + os.pathsep, **outer}
    done = run("-q", "--server", null_appliance.address, "--", *show, env=environment)
    told, here = map(ast.literal_eval, done.stdout.splitlines())
    assert told["EMPTY"] == ""
    assert told["PYTHONPATH"].split(os.pathsep)[1:] == ["/mine", ""] and here
    assert told["BITFUSION_REPORT"] == "/of/a/run/around/this" and "BITFUSION_IN_PROCESS" not in told


@pytest.mark.parametrize(
    ("text", "size"), [("64", 64 << 20), ("63.5", 64 << 20), ("64MiB", 64 << 20), ("0.0625GiB", 64 << 20)]
)
def test_memory_is_mib_or_has_a_unit(text, size, null_appliance):
    show = python("import bitfusion; print(bitfusion.connect().welcome.memory_limit)")
    done = run("-q", "--server", null_appliance.address, "-m", text, *show)
    assert (int(done.stdout), done.stderr) == (size, "")


# exit codes


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["false"], 1),
        (["sh", "-c", "exit 77"], 77),
        (["sh", "-c", "kill -KILL $$"], 128 + 9),
        (["sh", "-c", "kill -TERM $$"], 128 + 15),
        (["no-such-program-anywhere"], ExitCode.NOT_FOUND),
        (["/"], ExitCode.NOT_EXECUTABLE),
        (["/etc/passwd"], ExitCode.NOT_EXECUTABLE),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_exit_codes(command, code, null_appliance):
    done = run("-q", "--server", null_appliance.address, "--", *command)
    assert done.returncode == code
    assert (command[0] in done.stderr) == (code in (ExitCode.NOT_FOUND, ExitCode.NOT_EXECUTABLE))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train.py", "train.py: not a command; did you mean `python train.py`?"),
        ("./train.py", "./train.py: not a command; did you mean `python ./train.py`?"),
        ("train", "train: not a command; did you mean `./train`?"),
        ("nothing.py", "nothing.py: No such file or directory"),
    ],
)
def test_a_file_that_is_no_command(command, words, tmp_path):
    (tmp_path / "train.py").touch()
    (tmp_path / "train").touch(0o755)
    with attend(command, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.communicate(timeout=TIMEOUT_S)[1] == f"bitfusion: {words}\n"
    assert process.returncode in (ExitCode.NOT_FOUND, ExitCode.NOT_EXECUTABLE)


def test_arguments_pass_untouched(null_appliance):
    words = ["-n", "--", "--server", "", "a b", "-q"]
    done = run("-q", "--server", null_appliance.address, "--", *python("import sys; print(sys.argv[1:])"), *words)
    assert ast.literal_eval(done.stdout) == words


# signals, input and output, terminal

TALKS = """
import signal, sys
def heard(number, frame):
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM: sys.exit(3)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1): signal.signal(number, heard)
print('ready', flush=True)
while True: signal.pause()
"""


def test_signals_to_us_reach_the_program():
    with attend(*python(TALKS), stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "ready\n"
        for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
            assert process.stdout.readline() == f"{number.name}\n"
        assert process.wait(TIMEOUT_S) == 3


def wait_state(pid, wanted):
    """Wait until the process has stopped or runs again, as its parent sees it: in a thread, as waitpid knows no time-out."""
    options = os.WUNTRACED if wanted == "stopped" else os.WCONTINUED
    seen = queue.SimpleQueue()
    threading.Thread(target=lambda: seen.put(os.waitpid(pid, options)), daemon=True).start()
    found, status = seen.get(timeout=TIMEOUT_S)
    assert found == pid
    assert os.WIFSTOPPED(status) if wanted == "stopped" else os.WIFCONTINUED(status)


def child_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return int(children.read())


def state(pid):
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0]


def test_a_stopped_program_is_a_stopped_job():
    # a group of its own with us as parent: the kernel discards SIGTSTP in an orphaned one, which ours may be (setsid, a container)
    with attend(*python(TALKS), stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout.readline() == "ready\n"
        child = child_of(process.pid)
        process.send_signal(signal.SIGTSTP)
        wait_state(process.pid, "stopped")
        assert state(child) == "T"
        process.send_signal(signal.SIGCONT)
        wait_state(process.pid, "continued")
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "SIGUSR1\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 3


def test_dispositions_and_mask_are_as_they_were():
    code = "sed -n 's/^SigBlk:.//p; s/^SigIgn:.//p' /proc/self/status"
    plain = subprocess.run(["sh", "-c", code], capture_output=True, text=True, check=True).stdout.split()
    with attend("sh", "-c", code, stdout=subprocess.PIPE) as process:
        blocked, ignored = process.stdout.read().split()
    internal = 1 << 31 | 1 << 32  # signals 32 and 33, which the C library keeps for itself
    assert [int(blocked, 16), int(ignored, 16) & ~internal] == [int(word, 16) & ~internal for word in plain]


def test_input_output_and_descriptors_pass_through():
    reader, writer = os.pipe()
    code = f"import os, sys; os.write({writer}, sys.stdin.buffer.read()); print('out'); print('err', file=sys.stderr)"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with attend(*python(code), pass_fds=[writer], **pipes) as process:
        os.close(writer)
        assert process.communicate("hello", TIMEOUT_S) == ("out\n", "err\n")
    with open(reader) as stream:
        assert stream.read() == "hello"


def test_ctrl_c_on_a_terminal_comes_once():
    code = """
import signal, sys
signal.signal(signal.SIGINT, lambda *_: print('interrupted', flush=True))
print('tty' if sys.stdin.isatty() and sys.stdout.isatty() else 'pipe', flush=True)
sys.stdin.readline()
print('end', flush=True)
"""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", ATTEND, *python(code)])
    said = read_until(terminal, b"tty\r\n")
    os.write(terminal, b"\x03")
    said += read_until(terminal, b"interrupted\r\n")
    os.write(terminal, b"\n")
    said += read_until(terminal, b"end\r\n")
    assert said.count(b"interrupted") == 1
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0


def read_until(terminal, word):
    said = b""
    while word not in said:
        assert select.select([terminal], [], [], TIMEOUT_S)[0], said
        said += os.read(terminal, 4096)
    return said
