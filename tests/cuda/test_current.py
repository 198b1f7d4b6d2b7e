"""The current session: opened on first use as the environment says, chosen by ``use``, ended by ``close``; forks, and the program's end."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import bitfusion
from bitfusion import cuda
from bitfusion.cuda import current
from bitfusion.errors import ConfigError, SessionError, UnreachableError

KEYS = {"wall_s", "compute_s", "transfer_s", "wait_s", "other_s", "bytes_sent", "bytes_rcvd", "launches", "calls"}


@pytest.fixture
def environment(monkeypatch, virtual_appliance):
    """A session of its own for the test, as the environment asks for it."""
    monkeypatch.setenv("BITFUSION_SERVER", virtual_appliance.address)
    monkeypatch.setenv("BITFUSION_MEMORY", "16MiB")
    yield monkeypatch
    cuda.close()


def run(address, code, **environment):
    """A program of its own that uses the appliance; its output."""
    variables = {**os.environ, "BITFUSION_SERVER": address, "BITFUSION_MEMORY": "16MiB", **environment}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_the_first_use_opens_it(environment):
    assert current.client is None
    array = cuda.to_device(np.arange(3))
    assert current.current() is array.client
    assert cuda.current_context().get_memory_info().total == 16 << 20


def test_close_ends_it_and_the_next_use_opens_another(environment):
    first = cuda.device_array(3)
    cuda.close()
    assert first.client.closed
    with pytest.raises(SessionError):
        first.copy_to_host()
    assert cuda.device_array(3).client is not first.client


def test_close_where_another_session_is_in_use(environment, virtual_appliance):
    first = cuda.device_array(3).client
    with bitfusion.connect(virtual_appliance.address, memory="16MiB") as client:
        with cuda.use(client):
            cuda.close()
            assert first.closed and not client.closed
        assert cuda.device_array(3).client not in (first, client)


def test_a_session_that_was_given_stays_its_owners(environment, virtual_appliance):
    own = cuda.device_array(3).client
    with bitfusion.connect(virtual_appliance.address, memory="16MiB") as client:
        with cuda.use(client):
            assert cuda.device_array(3).client is client
        assert current.current() is own
        cuda.use(client)
        assert current.current() is client
        cuda.close()
        assert not client.closed
        assert own.closed


def test_what_cannot_be_leased(environment):
    environment.setenv("BITFUSION_SERVER", "127.0.0.1:1")
    assert not cuda.is_available()
    assert "127.0.0.1:1" in str(cuda.cuda_error())
    with pytest.raises(UnreachableError):
        cuda.device_array(3)
    environment.setenv("BITFUSION_FRACTION", "half")
    with pytest.raises(ConfigError, match="BITFUSION_FRACTION"):
        cuda.device_array(3)


def test_no_device_is_detected(environment, capsys):
    environment.setenv("BITFUSION_SERVER", "127.0.0.1:1")
    assert not cuda.detect()
    assert "Found 0 CUDA devices" in capsys.readouterr().out


def test_a_forked_child_has_a_session_of_its_own(virtual_appliance):
    code = """
import multiprocessing
import numpy as np
from bitfusion import cuda

@cuda.jit
def double(values):
    values[cuda.grid(1)] *= 2

def work(queue, session):
    values = np.arange(3)
    double[1, 3](values)
    queue.put((cuda.current_context().get_memory_info().total >> 20, cuda.gpus[0] and session != name(), values.tolist()))

def name():
    from bitfusion.cuda import current
    return current.current().session_id

array = cuda.to_device(np.arange(3))
double[1, 3](array)
context = multiprocessing.get_context("fork")
queue = context.Queue()
child = context.Process(target=work, args=(queue, name()))
child.start()
print(queue.get(timeout=30))
child.join()
double[1, 3](array)
print(child.exitcode, array.copy_to_host())
"""
    assert run(virtual_appliance.address, code).splitlines() == ["(16, True, [0, 2, 4])", "0 [0 4 8]"]


def test_a_fork_while_another_thread_compiles(virtual_appliance):
    code = """
import os, signal, threading, warnings
from bitfusion import cuda

@cuda.jit
def double(values):
    values[cuda.grid(1)] *= 2

def compile():
    with double._lock:
        compiling.set()
        forked.wait()

array = cuda.to_device([1, 2, 3])
compiling, forked = threading.Event(), threading.Event()
thread = threading.Thread(target=compile)
thread.start()
compiling.wait()
warnings.simplefilter("ignore")  # Python 3.12 warns of every fork with threads
child = os.fork()
if child == 0:
    signal.alarm(20)  # where it hangs, it ends
    own = cuda.to_device([1, 2, 3])
    double[1, 3](own)
    print(own.copy_to_host(), flush=True)
    cuda.close()
    os._exit(0)
os.waitpid(child, 0)
forked.set()
thread.join()
double[1, 3](array)
print(array.copy_to_host())
"""
    assert run(virtual_appliance.address, code).splitlines() == ["[2 4 6]", "[2 4 6]"]


def test_work_that_nobody_waited_for_is_done_before_the_program_ends(virtual_appliance, tmp_path):
    place = tmp_path / "report"
    code = """
import numpy as np
from bitfusion import cuda

@cuda.jit
def fill(values):
    values[cuda.grid(1)] = 1

array = cuda.device_array(1000)
for _ in range(100):
    fill[10, 100](array)
"""
    run(virtual_appliance.address, code, BITFUSION_REPORT=str(place))
    (line,) = place.read_text().splitlines()
    report = json.loads(line)
    assert report.keys() >= KEYS
    assert report["launches"] == 100
    assert report["device"] == "Virtual GPU"
    parts = [report[key] for key in ("compute_s", "transfer_s", "wait_s", "other_s")]
    assert all(part >= 0 for part in parts) and report["compute_s"] > 0
    assert sum(parts) == pytest.approx(report["wall_s"], rel=0.2)
    assert report["bytes_sent"] > 1000


def test_a_report_for_each_session(virtual_appliance, tmp_path):
    place = tmp_path / "report"
    code = (
        "from bitfusion import cuda\nfor _ in range(2):\n    cuda.device_array(3)\n    cuda.close()\ncuda.synchronize()"
    )
    run(virtual_appliance.address, code, BITFUSION_REPORT=str(place))
    sessions = [json.loads(line)["session"] for line in place.read_text().splitlines()]
    assert len(set(sessions)) == 3


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_report_of_children_of_multiprocessing(virtual_appliance, tmp_path, method):
    place, script = tmp_path / "report", tmp_path / "program.py"
    script.write_text(f"""
import multiprocessing
from bitfusion import cuda

def work():
    cuda.device_array(3)

if __name__ == "__main__":
    cuda.device_array(3)
    child = multiprocessing.get_context("{method}").Process(target=work)
    child.start()
    child.join()
    assert child.exitcode == 0
""")
    run(
        virtual_appliance.address,
        f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')",
        BITFUSION_REPORT=str(place),
    )
    lines = [json.loads(line) for line in place.read_text().splitlines()]
    assert len({line["pid"] for line in lines}) == len(lines) == 2


def test_a_report_that_cannot_be_written_harms_nobody(virtual_appliance, tmp_path):
    code = "from bitfusion import cuda\ncuda.synchronize()\nprint('done')"
    assert run(virtual_appliance.address, code, BITFUSION_REPORT=str(tmp_path / "gone" / "report")) == "done\n"
