"""What is captured of a kernel, from where, and what is said when it cannot be."""

from __future__ import annotations

import itertools
import linecache
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from numba import cuda

from bitfusion.errors import KernelSourceError
from bitfusion.kernels import gate, program
from bitfusion.kernels.source import capture
from tests.kernels import sample, settings

TYPE = "type"


def captured(function):
    return program.decode(capture(function).data)


def bindings(function, number=0):
    return {item.key: (item.kind, item.value) for item in captured(function).functions[number].bindings}


def name(path):
    return (program.NAME, path)


def constant(value):
    return (program.CONSTANT, value)


def test_text_and_place_are_the_users():
    kernel = captured(sample.axpy).functions[0]
    lines = Path(sample.__file__).read_text().splitlines(keepends=True)
    assert kernel.file == sample.__file__
    assert kernel.text == "".join(lines[kernel.line - 1 : kernel.line - 1 + kernel.text.count("\n")])
    assert kernel.text.startswith("@cuda.jit(") and kernel.text.endswith("y[i] += a * x[i]\n")


def test_every_alias_is_the_same_name():
    assert bindings(sample.tiled) == {
        "scratch.array": name("numba.cuda.shared.array"),
        "TILE": constant(16),
        "float32": constant((TYPE, "float32")),
        "nb.cuda.grid": name("numba.cuda.grid"),
        "threadIdx": name("numba.cuda.threadIdx"),
        "numba.cuda.syncthreads": name("numba.cuda.syncthreads"),
        "nc.blockDim": name("numba.cuda.blockDim"),
        "cuda.threadIdx": name("numba.cuda.threadIdx"),
        "nc.blockIdx": name("numba.cuda.blockIdx"),
        "atomic.add": name("numba.cuda.atomic.add"),
        "np.float32": name("numpy.float32"),
    }


def test_constants_travel_by_value():
    found = bindings(sample.constants)
    assert found["TABLE"] == constant(("array", "float32", (5,), "C", sample.TABLE.tobytes()))
    assert found["SHAPE"] == constant(("tuple", (4, 16)))
    assert found["SCALE"] == constant(("scalar", "float32", sample.SCALE.tobytes()))
    assert found["POINT"][1][0] == "dtype"
    assert found["pi"] == constant(math.pi)
    assert found["math.pi"] == name("math.pi")
    assert found["settings.RATE"] == constant(0.25)
    assert found["Mode"] == ("constant", ("enum", "Mode", True, (("FAST", 3),)))
    assert found["ROTATION"] == constant(("complex", 1.0, 2.0))
    assert "abs" not in found


def test_device_functions_are_captured_once_in_the_order_of_use():
    functions = captured(sample.calls).functions
    assert [item.name for item in functions] == ["calls", "twice", "halve", "weigh"]
    assert functions[3].defaults == (2,)
    assert bindings(sample.calls)["settings.halve"] == (program.FUNCTION, 2)
    assert bindings(sample.calls, 1) == {"weigh": (program.FUNCTION, 3)}


def test_closures_and_what_inner_functions_use():
    found = bindings(sample.closing(7, sample.twice))
    assert found == {"limit": constant(7), "helper": (program.FUNCTION, 1)}


def test_a_function_that_calls_itself_is_one_function():
    @cuda.jit(device=True)
    def down(value):
        return down(value - 1) if value > 0 else value

    assert bindings(down) == {"down": (program.FUNCTION, 0)}


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (sample.lambdas[0], "def kernel(x): return (x + 1)\n"),
        (sample.lambdas[1], "def kernel(x): return (x * TILE)\n"),
        (sample.lambdas[2], "def kernel(y): return (weigh(y))\n"),
    ],
)
def test_lambdas_become_definitions(function, text):
    kernel = captured(function).functions[0]
    assert kernel.text == text
    assert "x" in linecache.getline(kernel.file, kernel.line) or "y" in linecache.getline(kernel.file, kernel.line)
    gate.accept(capture(function).data)


def test_a_function_of_a_class_keeps_its_columns():
    kernel = captured(sample.Holder.method).functions[0]
    assert kernel.text.startswith("    @staticmethod\n    @cuda.jit\n    def method(x):\n")
    assert '"""\nnot indented""")' in kernel.text
    gate.accept(capture(sample.Holder.method).data)


def test_a_kernel_may_be_named():
    assert capture(sample.axpy, name="scale").name == "scale"
    with pytest.raises(KernelSourceError, match="plain identifier"):
        capture(sample.axpy, name="import")


PROGRAM = """
from tests.kernels import sample
from bitfusion.kernels.source import capture
for kernel in (sample.axpy, sample.tiled, sample.constants, sample.calls, sample.closing(3, sample.weigh)):
    print(capture(kernel).digest.hex())
"""


def test_the_digest_is_the_same_in_every_process():
    runs = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    (digests,) = runs
    assert len(set(digests.split())) == 5


WITHOUT_NUMBA = '''
import linecache, sys, types
sys.modules["numba"] = None
from bitfusion.kernels import types as t
from bitfusion.kernels.source import capture

class Thing:
    def __init__(self, path): self.__bitfusion_path__ = path
    def __getattr__(self, name): raise AssertionError(name)

cuda = types.ModuleType("bitfusion.cuda")
cuda.shared = Thing("numba.cuda.shared")
float32, grid, shared = t.float32, Thing("numba.cuda.grid"), cuda.shared
TEXT = """
def kernel(x):
    tile = shared.array(8, float32)
    more = cuda.shared.array(8, t.int32)
    cuda.atomic.add(x, grid(1), cuda.threadIdx.x)
"""
linecache.cache["<cell 1>"] = (len(TEXT), None, TEXT.splitlines(True), "<cell 1>")
exec(compile(TEXT, "<cell 1>", "exec"), globals())
from bitfusion.kernels import program
print({b.key: b.value for b in program.decode(capture(kernel).data).functions[0].bindings})
assert not any(name.startswith(("numba.", "llvmlite")) for name in sys.modules)
'''


def test_a_client_without_numba_captures_the_same():
    done = subprocess.run([sys.executable, "-c", WITHOUT_NUMBA], check=True, capture_output=True, text=True)
    assert eval(done.stdout) == {
        "shared.array": "numba.cuda.shared.array",
        "float32": ("type", "float32"),
        "cuda.shared.array": "numba.cuda.shared.array",
        "t.int32": ("type", "int32"),
        "cuda.atomic.add": "numba.cuda.atomic.add",
        "grid": "numba.cuda.grid",
        "cuda.threadIdx": "numba.cuda.threadIdx",
    }


# what cannot be captured


def unknown(text):
    """The function that ``text`` defines, as if it came from nowhere."""
    function = define(text)
    function.__code__ = function.__code__.replace(co_filename="<nowhere>")
    return function


def define(text, **values):
    """The last function that ``text`` defines, as a notebook cell would."""
    file = f"<cell {next(CELLS)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    scope = dict(values)
    exec(compile(text, file, "exec"), scope)
    return [value for value in scope.values() if hasattr(value, "__code__")][-1]


CELLS = itertools.count(1)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x[0] = missing", "the name 'missing' is not defined"),
        ("open('/etc/passwd')", "cannot use the builtin 'open'"),
        ("os.system('true')", "'os.system' cannot be used in a kernel"),
        ("x[0] = math", "'math' is a module"),
        ("x[0] = math.sine(1.0)", r"cannot use math.sine; did you mean math.sin\?"),
        ("x[0] = np.sqrt(x[1])", r"cannot use numpy.sqrt: Numba's CUDA target does not have it; write math.sqrt\(x\)$"),
        ("x[0] = power(x[1], 2)", r"cannot use numpy.power: .*; write x \*\* y$"),
        ("x[0] = cuda.threadidx.x", r"did you mean numba.cuda.threadIdx\?"),
        ("cuda.to_device(x)", "cannot use numba.cuda.to_device"),
        (
            "x[0] = settings.NAMES[0]",
            "'settings.NAMES' cannot be used in a kernel: an object of type list.*use a tuple",
        ),
        ("x[0] = settings.MISSING", "settings has no attribute 'MISSING'"),
        ("x[0] = negate(x[1])", r"'negate' is a plain Python function.*device=True"),
        ("x[0] = device_array[0]", "has no whole __cuda_array_interface__"),
        ("x[0] = table[0]", r"an array of 80000 bytes is too large"),
        ("x[0] = sample.Holder", "cannot be used in a kernel"),
        ("import os", "an import"),
        ("global y", "'global'"),
        ("x[0] = x.__class__", "__class__"),
        ("x[0] = (y := 1)", "':='"),
        ("x[0] = [i for i in x]", "comprehension"),
        (f"x[0] = {2**64}", "an integer in a kernel must fit 64 bits"),
        ("settings.RATE = 1", "cannot change 'settings.RATE'"),
        ("print(f'{x[0]}')", "f-string"),
        ("print('%d' % x[0])", "format text with '%': print takes values separated by commas"),
        ("print('{}'.format(x[0]))", "cannot use 'format' of a text: print takes values"),
        ("y = np.zeros(3)", r"numpy.zeros: .*cuda.local.array\(shape, dtype\).* cuda.shared.array"),
        ("y = np.arange(3)", r"numpy.arange: .*cuda.local.array\(shape, dtype\).* and with whatever is there$"),
        ("y = empty(3)", r"numpy.empty: .*cuda.local.array"),
        ("y = np.timedelta64(1, 'D')", "numpy.timedelta64: .*give it a name outside"),
        ("with x: pass", "'with'"),
        ("async def f(): pass", "async"),
    ],
)
def test_what_cannot_travel_is_named_with_file_and_line(body, message):
    values = {
        "os": os,
        "math": math,
        "np": np,
        "power": np.power,
        "empty": np.empty,
        "cuda": cuda,
        "settings": settings,
        "sample": sample,
        "negate": sample.negate,
        "device_array": types.SimpleNamespace(__cuda_array_interface__={}),
        "table": np.zeros(10_000),
    }
    kernel = define(f"def kernel(x):\n    x[1] = 2\n    {body}\n", **values)
    with pytest.raises(KernelSourceError, match=message) as failure:
        capture(kernel)
    file = kernel.__code__.co_filename
    assert failure.value.message.startswith(f"{file}:3: in kernel: ")
    assert failure.value.details == {"file": file, "line": 3}


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (sample.generator, "generator or async"),
        (sample.coroutine, "generator or async"),
        (next(sample.unfinished()), "'later' has no value yet"),
        (sample.Holder().__init__, "must be a Python function, not an object of type"),
        (print, "must be a Python function, not an object of type builtin"),
        (sample.Holder, "must be a Python function, not an object of type type"),
        (5, "must be a Python function, not an object of type int"),
        (unknown("def kernel(x): x[0] = 1"), "source of 'kernel' is not available"),
        (define("def kernel(*, x): x[0] = 1"), "keyword-only"),
        (define("def kernel(x, y=[1]): x[0] = 1"), "default value cannot travel: an object of type list"),
    ],
)
def test_what_is_no_kernel(function, message):
    with pytest.raises(KernelSourceError, match=message):
        capture(function)


def test_a_file_that_has_changed_since_it_was_imported(tmp_path, monkeypatch):
    path = tmp_path / "changing_module.py"
    path.write_text("def kernel(x):\n    x[0] = abs(x[1])\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__("changing_module")
    capture(module.kernel)
    path.write_text("# a line more\ndef other(y):\n    y[0] = max(y[1], 1)\n")
    with pytest.raises(KernelSourceError, match="no longer holds the function that runs; start the program again"):
        capture(module.kernel)


@pytest.mark.parametrize(
    ("file", "shown"),
    [("a\nb.py", "a?b.py"), ("\udcff.py", "?.py"), ("d" * 2000 + ".py", "d" * 1021 + ".py"), ("Z\u00fcrich 1.py",) * 2],
)
def test_any_file_name_can_be_shown(file, shown):
    text = "def kernel(x): x[0] = 1\n"
    linecache.cache[file] = (len(text), None, [text], file)
    scope = {}
    exec(compile(text, file, "exec"), scope)
    assert captured(scope["kernel"]).functions[0].file == shown
    del linecache.cache[file]


def test_too_many_device_functions():
    functions = [f"@cuda.jit(device=True)\ndef f{n}(x): return f{n + 1}(x)\n" for n in range(300)]
    kernel = define("".join(functions) + "def kernel(x): f0(x)\n", cuda=cuda)
    with pytest.raises(KernelSourceError, match="256 device functions at most"):
        capture(kernel)
