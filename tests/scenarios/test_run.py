"""Unmodified Numba programs under ``bitfusion run``: with Numba and without it, with children, in process, and however they end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import venv
from pathlib import Path

import msgpack
import numpy as np
import pytest

from bitfusion.device.discovery import discover
from tests.appliance import Appliance

SCRIPT = os.path.join(os.path.dirname(sys.executable), "bitfusion")
TIMEOUT_S = 90

ADD = """
import numpy as np
from numba import cuda, float32

@cuda.jit
def add(x, y, out):
    part = cuda.shared.array(32, dtype=float32)
    i = cuda.grid(1)
    part[cuda.threadIdx.x] = x[i]
    cuda.syncthreads()
    out[i] = part[cuda.threadIdx.x] + y[i]

x = np.arange(64, dtype=np.float32)
out = np.zeros_like(x)
add[2, 32](x, cuda.to_device(x), out)
assert (out == 2 * x).all()
print(cuda.__name__)
"""

UFUNCS = """
import numpy as np
import numba
from numba import cuda, vectorize, guvectorize, float32

@vectorize([float32(float32, float32)], target="cuda")
def add(a, b):
    return a + b

@numba.guvectorize(["void(float32[:], float32[:])"], "(n)->()", target="cuda")
def total(values, result):
    result[0] = 0
    for i in range(values.size):
        result[0] += values[i]

x = np.ones((3, 4), np.float32)
assert (add(x, x) == 2).all() and isinstance(add(cuda.to_device(x), x), cuda.DeviceArray)
assert total(x).tolist() == [4, 4, 4]
"""
"""``numba``'s own decorators, with the GPU as their target."""

ON_THE_CPU = """
@vectorize(["float32(float32)"])
def half(a):
    return a / 2

@guvectorize([(float32[:], float32[:])], "(n)->(n)", target="cpu")
def twice(a, b):
    b[:] = 2 * a

assert (half(twice(x)) == x).all()
"""


class Programs:
    """Writes programs into a directory and runs them with a lease of one appliance."""

    def __init__(self, place, address):
        self.place = place
        self.options = ["-q", "--server", address, "-m", "32"]

    def start(self, text, *options, python=sys.executable, **keywords):
        script = self.place / "program.py"
        script.write_text(text)
        command = [SCRIPT, "run", *self.options, *options, "--", str(python), str(script)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keywords)

    def run(self, text, *options, **keywords):
        """The program's output, once it has ended well."""
        with self.start(text, *options, **keywords) as process:
            out, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, err
        assert not err
        return out


@pytest.fixture
def programs(tmp_path, virtual_appliance):
    return Programs(tmp_path, virtual_appliance.address)


# with Numba


def test_a_numba_program(programs):
    assert programs.run(ADD) == "bitfusion.cuda\n"


def test_the_rest_of_numba_is_the_real_one(programs):
    text = """
import importlib.util, sys
import numpy as np
import numba
import numba as nb
import numba.cuda
import numba.cuda.random
from numba import cuda, njit, prange, void, int32, types
from numba.cuda import grid, libdevice
from numba.cuda.random import create_xoroshiro128p_states, xoroshiro128p_uniform_float64
from numba.cuda.types import float64

@njit
def triple(x):
    return 3 * x

@cuda.jit(void(int32[:], types.float64))
def fill(out, value):
    i = grid(1)
    out[i] = triple(nb.int32(value)) + np.int32(libdevice.floor(value))

@nb.cuda.jit
def draw(states, out):
    out[nb.cuda.grid(1)] = xoroshiro128p_uniform_float64(states, numba.cuda.grid(1))

out = np.zeros(4, np.int32)
fill[1, 4](out, 2.5)
assert out.tolist() == [8] * 4, out
numbers = np.zeros(4)
draw[1, 4](create_xoroshiro128p_states(4, 1), numbers)
assert 0 < numbers.min() and numbers.max() < 1
assert triple(2) == 6 and numba.__file__ and numba.cuda is cuda is sys.modules['numba.cuda']
assert importlib.util.find_spec('numba.cuda') is not None
print(cuda.__name__, float64 is cuda.float64)
"""
    assert programs.run(text) == "bitfusion.cuda True\n"


def test_ufuncs(programs):
    assert programs.run(UFUNCS + ON_THE_CPU) == ""


def test_what_is_not_offered_says_so(programs):
    text = """
for statement in ("import numba.cuda.cudadrv.nvrtc", "from numba.cuda import colours", "from numba.cuda.random import nothing"):
    try:
        exec(statement)
    except ImportError as error:
        print(type(error).__name__, error)
"""
    first, second, third = programs.run(text).splitlines()
    assert (
        first
        == "ModuleNotFoundError numba.cuda.cudadrv.nvrtc is not offered on a leased GPU; docs/guide/cuda.md lists what is"
    )
    assert second.startswith("ImportError cannot import name 'colours'")
    assert third.startswith("ImportError cannot import name 'nothing'")


def test_a_kernel_on_the_command_line(programs):
    text = ADD.replace("part = cuda.shared.array(32, dtype=float32)", "part = cuda.shared.array((32,), float32)")
    done = subprocess.run(
        [SCRIPT, "run", *programs.options, "--", sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert (done.stdout, done.stderr) == ("bitfusion.cuda\n", "")


# without Numba


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """A Python that has NumPy and msgpack, and neither Numba nor bitfusion."""
    place = tmp_path_factory.mktemp("bare")
    venv.create(place / "venv", with_pip=False, symlinks=True)
    (packages,) = (place / "venv" / "lib").glob("python*/site-packages")
    for module in (np, msgpack):
        source = Path(module.__file__).parent
        (packages / source.name).symlink_to(source)
    libraries = Path(np.__file__).parents[1] / "numpy.libs"
    if libraries.exists():
        (packages / libraries.name).symlink_to(libraries)
    return place / "venv" / "bin" / "python"


def test_a_python_without_numba(programs, bare_python):
    missing = subprocess.run([bare_python, "-c", "import numba"], capture_output=True, text=True)
    assert "No module named 'numba'" in missing.stderr
    assert programs.run(ADD, python=bare_python) == "bitfusion.cuda\n"


def test_ufuncs_without_numba(programs, bare_python):
    text = (
        UFUNCS
        + """
for make in (lambda: vectorize(["float32(float32)"]), lambda: guvectorize([], "(n)->(n)", target="parallel")):
    try:
        make()
    except ImportError as error:
        print(error)
"""
    )
    first, second = programs.run(text, python=bare_python).splitlines()
    assert first.startswith("numba.vectorize with target='cpu' needs Numba")
    assert second.startswith("numba.guvectorize with target='parallel' needs Numba")


def test_what_the_stand_in_offers(programs, bare_python):
    text = """
import numpy as np
import numba
import numba.cuda
from numba import cuda, types, float32
from numba.core import types as core_types
from numba.types import int64
assert types is core_types is numba.types and int64 is types.int64

@numba.cuda.jit("void(float32[:], int64)")
def fill(out, value):
    i = numba.cuda.grid(1)
    out[i] = numba.float32(value)

out = np.zeros(4, np.float32)
fill[1, 4](out, 3)
assert out.tolist() == [3] * 4
print(numba.__version__)
for statement in ("from numba import njit", "numba.jit", "import numba.typed", "import numba.cuda.simulator"):
    try:
        exec(statement)
    except ImportError as error:
        print(error)
print(getattr(numba, "__wrapped__", None))
"""
    version, *errors, last = programs.run(text, python=bare_python).splitlines()
    assert version.startswith("0+bitfusion")
    assert "numba.njit needs Numba" in errors[0] and "pip install numba" in errors[0]
    assert "numba.jit needs Numba" in errors[1]
    assert "numba.typed needs Numba" in errors[2]
    assert "numba.cuda.simulator is not offered" in errors[3]
    assert last == "None"


def test_a_python_without_our_own_needs(programs, tmp_path):
    venv.create(tmp_path / "empty", with_pip=False, symlinks=True)
    python = tmp_path / "empty" / "bin" / "python"
    with programs.start("from numba import cuda", python=python) as process:
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert "needs the package" in err and f"{python} -m pip install numpy msgpack" in err


# around the program


def test_the_programs_own_sitecustomize_runs(programs, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text("import sys\nsys.mark = __file__\n")
    text = (
        ADD
        + "import os, sys, sitecustomize\nprint(sys.mark == sitecustomize.__file__, any('hook' in path for path in sys.path))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "own")}
    assert programs.run(text, env=environment) == "bitfusion.cuda\nTrue False\n"


def test_an_error_in_it_is_reported_as_always(programs, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "sitecustomize.py").write_text("1 / 0\n")
    with programs.start(ADD, env={**os.environ, "PYTHONPATH": str(tmp_path / "own")}) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (0, "bitfusion.cuda\n")
    assert "Error in sitecustomize" in err and "ZeroDivisionError" in err


def test_child_processes_have_it_too(programs, tmp_path):
    (tmp_path / "child.py").write_text(ADD)
    text = """
import multiprocessing, subprocess, sys

def work():
    from numba import cuda
    return cuda.__name__

if __name__ == "__main__":
    subprocess.run([sys.executable, sys.argv[0].replace("program", "child")], check=True)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(work))
"""
    assert programs.run(text) == "bitfusion.cuda\nbitfusion.cuda\n"


def test_a_child_shares_the_whole_gpu_that_its_parent_leased(programs, tmp_path):
    (tmp_path / "child.py").write_text(ADD)
    text = ADD + "import subprocess, sys\nsubprocess.run([sys.executable, sys.argv[0].replace('program', 'child')])\n"
    with Appliance("virtual:1x64MiB", tmp_path / "state") as appliance:
        programs.options = ["-q", "--server", appliance.address]
        assert programs.run(text) == "bitfusion.cuda\nbitfusion.cuda\n"


def test_a_program_that_never_uses_it_loads_nothing(programs):
    text = "import sys\nprint([name for name in sys.modules if name.startswith(('bitfusion', 'numba.', 'numpy', 'msgpack'))])"
    assert programs.run(text) == "[]\n"


def test_the_report(programs, tmp_path):
    report = tmp_path / "report.json"
    programs.run(ADD + "cuda.close()\nadd[2, 32](x, x, out)\n", "--report", str(report))
    figures = json.loads(report.read_text())
    assert len(figures["sessions"]) == 2
    assert figures["launches"] == 2
    for key in ("wall_s", "compute_s", "transfer_s", "wait_s", "bytes_sent", "bytes_rcvd"):
        assert figures[key] == pytest.approx(sum(session[key] for session in figures["sessions"]))
        assert figures[key] > 0
    assert figures["program_s"] > figures["wall_s"]


def test_a_report_without_a_session(programs, tmp_path):
    report = tmp_path / "report.json"
    programs.run("pass", "--report", str(report))
    assert json.loads(report.read_text())["sessions"] == []


# where it runs


def test_a_private_appliance_lives_as_long_as_the_program(programs, tmp_path):
    programs.options = ["-n", "1", "-p", "0.1", "--state-dir", str(tmp_path / "state")]
    text = ADD + "import os\nprint(os.environ['BITFUSION_SERVER'], cuda.gpus[0].name)"
    with programs.start(text) as process:
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    name, told = out.splitlines()
    address, _, device = told.partition(" ")
    assert name == "bitfusion.cuda"
    assert f"({device}) with" in err
    assert list((tmp_path / "state").rglob("*.ptx"))
    host, _, port = address.rpartition(":")
    with pytest.raises(ConnectionRefusedError), socket.create_connection((host, int(port))):
        pass


def test_ufuncs_in_process(programs, tmp_path):
    programs.options = ["-q", "--in-process", "-p", "0.25", "--state-dir", str(tmp_path / "state")]
    assert programs.run(UFUNCS + ON_THE_CPU) == ""


def test_in_process(programs, tmp_path):
    programs.options = ["-q", "--in-process", "-p", "0.25", "--state-dir", str(tmp_path / "state")]
    text = (
        ADD
        + """
import numba, numba.cuda, math
import numba.cuda.random as random
from numba.cuda import grid
from numba import njit, types
assert numba.cuda is cuda and random.__name__ == "bitfusion.cuda.random"

@njit
def half(x):
    return x / 2

@numba.cuda.jit("void(float64[:])")
def halve(values):
    i = grid(1)
    values[i] = half(values[i]) + math.floor(0.5) + numba.float64(0)

values = np.arange(4.0)
halve[1, 4](values)
assert values.tolist() == [0, 0.5, 1, 1.5] and half(3) == 1.5
import sys
print("numba_cuda" in sys.modules["numba.cuda"].__path__[0])
print(cuda.current_context().get_memory_info().total >> 20)
"""
    )
    report, memory = tmp_path / "report.json", discover("auto")[0].memory_size
    assert programs.run(text, "--report", str(report)).splitlines() == [
        "bitfusion.cuda",
        "True",
        str(memory // 4 >> 20),
    ]
    figures = json.loads(report.read_text())
    assert figures["launches"] == 2 and figures["bytes_sent"] == figures["bytes_rcvd"] == 0
    assert list((tmp_path / "state").rglob("*.ptx"))


def test_in_process_for_a_program_of_ours(programs, tmp_path):
    programs.options = ["-q", "--in-process", "-p", "0.25", "--state-dir", str(tmp_path / "state")]
    text = """
from bitfusion import cuda
from bitfusion.cuda import current
print(current.current().session_id)
"""
    assert programs.run(text) == "in-process\n"


def test_in_process_in_a_python_without_numba(programs, bare_python):
    programs.options = ["-q", "--in-process"]
    with programs.start(ADD, python=bare_python) as process:
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert "ConfigError: an appliance needs llvmlite, numba, numba_cuda, which this Python does not have" in err


# however it ends

WORKS = ADD + "import time\ncuda.synchronize()\nprint('working', flush=True)\ntime.sleep(60)\n"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=lambda value: getattr(value, "name", "")
)
def test_a_signal_ends_program_and_lease(programs, virtual_appliance, number, code):
    before = len(virtual_appliance.lines)
    with programs.start(WORKS) as process:
        assert process.stdout.readline() == "bitfusion.cuda\n"
        assert process.stdout.readline() == "working\n"
        process.send_signal(number)
        assert process.wait(TIMEOUT_S) == code
    virtual_appliance.wait_log(r"session \w+ .*end", after=before)


def test_killing_us_leaves_no_appliance(programs, tmp_path):
    programs.options = ["-q", "--state-dir", str(tmp_path / "state")]
    with programs.start(WORKS + "", start_new_session=True) as process:
        assert process.stdout.readline() == "bitfusion.cuda\n"
        assert process.stdout.readline() == "working\n"
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(TIMEOUT_S) == -signal.SIGKILL
        assert process.stderr.read() == ""  # the end of it: nobody holds the other end any longer
