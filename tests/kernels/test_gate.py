"""The gate against sources that no honest client sends. Nothing of them may ever run: a canary watches."""

from __future__ import annotations

import ast
import re

import numpy as np
import pytest

from bitfusion.errors import KernelError, KernelSourceError
from bitfusion.kernels import gate, program
from bitfusion.kernels.constants import encode_constant
from bitfusion.kernels.source import capture
from bitfusion.wire import codec
from tests.kernels import sample
from tests.kernels.canary import canary

NAMES = {
    "cuda.grid": "numba.cuda.grid",
    "cuda.shared.array": "numba.cuda.shared.array",
    "cuda.threadIdx": "numba.cuda.threadIdx",
    "math.sin": "math.sin",
    "np.float32": "numpy.float32",
    "fast.sinf": "numba.cuda.libdevice.sinf",
}


def one(text, *, line=7, defaults=(), functions=(), **constants):
    """A captured kernel: this text, with the usual names and these constants."""
    bindings = [program.Binding(key, program.NAME, path) for key, path in NAMES.items()]
    bindings += [program.Binding(key, program.CONSTANT, value) for key, value in constants.items()]
    bindings += [program.Binding(item.name, program.FUNCTION, number) for number, item in enumerate(functions, 1)]
    kernel = program.Function("kernel", "/home/user/train.py", line, text, tuple(bindings), tuple(defaults))
    return program.Program((kernel, *functions))


def accept(captured):
    with canary():
        return gate.accept(program.encode(captured))


def body(*lines, **constants):
    return one("def kernel(x, y):\n" + "".join(f"    {line}\n" for line in lines), **constants)


@pytest.mark.parametrize(
    "kernel", [sample.axpy, sample.tiled, sample.constants, sample.calls, sample.closing(3, sample.weigh)]
)
def test_honest_kernels_pass(kernel):
    data = capture(kernel).data
    with canary():
        accepted = gate.accept(data)
    assert accepted[0].source.name in ("axpy", "tiled", "constants", "calls", "inner")


def test_names_are_rewritten_to_what_they_stand_for():
    (kernel,) = accept(body("x[0] = cuda.threadIdx.x + math.sin(x[1]) + TILE", TILE=16))
    assert ast.unparse(kernel.tree.body[0]) == "x[0] = module numba.cuda.threadIdx.x + module math.sin(x[1]) + TILE"
    assert kernel.bound == {"TILE": gate.Constant(16)}


def test_decorators_annotations_and_docstrings_are_dropped():
    text = """@boom()
@boom.boom
def kernel(x: boom(), y: "boom()" = 1) -> boom():
    "boom"
    a: boom() = 1
    b: boom()
    "boom"
    def inner(z: boom()) -> boom():
        return z
    x[0] = a
"""
    (kernel,) = accept(one(text, defaults=(3,)))
    assert "boom" not in ast.unparse(kernel.tree)
    assert kernel.defaults == (3,)


def test_lines_are_the_users():
    (kernel,) = accept(one("    @decorator\n    def kernel(x):\n        x[0] = 1\n", line=70))
    assert kernel.tree.lineno == 71
    assert kernel.tree.body[0].lineno == 72
    assert kernel.tree.body[0].col_offset == 8


HOSTILE = {
    # imports in every disguise
    "import": "import os",
    "from import": "from os import system",
    "__import__": "__import__('os').system('touch /tmp/pwned')",
    "builtins": "__builtins__['__import__']('os')",
    "import by getattr": "getattr(x, 'y')",
    "importlib": "importlib.import_module('os')",
    # ways into the host
    "exec": "exec('import os')",
    "eval": "eval('1')",
    "compile": "compile('1', '', 'eval')",
    "open": "open('/etc/passwd')",
    "input": "input()",
    "breakpoint": "breakpoint()",
    "globals": "globals()",
    "vars": "vars()",
    "type": "type(x)",
    "object": "object()",
    "super": "super()",
    "setattr": "setattr(x, 'y', 1)",
    "memoryview": "memoryview(x)",
    "print to a file": "print(1, file=stdout)",
    "a name that is not bound": "x[0] = secret",
    "os": "os.system('true')",
    # attributes that lead out
    "its class": "x.__class__.__mro__",
    "globals of a function": "cuda.grid.__globals__",
    "globals of an allowed function": "math.sin.__self__",
    "subclasses": "().__class__.__base__.__subclasses__()",
    "private": "x._private",
    "attribute of a number": "(1).__class__",
    "attribute of a string": "'{0.__class__}'.__class__",
    "a namespace": "y = cuda",
    "a namespace in a namespace": "y = cuda.shared",
    "a name that is not listed": "cuda.to_device(x)",
    "a module of a module": "math.os",
    "attribute of an allowed value": "y = cuda.grid.py_func",
    "attributes of dimensions": "y = cuda.threadIdx.x.real",
    "attribute of a type": "y = np.float32.fromhex",
    "dunder of a listed module": "y = fast.__loader__",
    "assigning to a module": "math.sin = 1",
    "assigning to a constant's member": "TABLE.shape = (1,)",
    "attribute of a constant": "y = TABLE.tofile",
    "attribute of a builtin": "y = abs.__self__",
    "deleting": "del x",
    # things that run while a function is defined
    "inner default": "def f(a=open('/etc/passwd')): return a",
    "lambda default": "f = lambda a=open('/etc/passwd'): a",
    "inner decorator": "@open\n    def f(a): return a",
    "keyword default": "f = lambda *, a=open('/x'): a",
    "class": "class C: pass",
    "metaclass": "class C(metaclass=open): pass",
    "generator": "yield x",
    "generator expression": "y = (i for i in open('/x'))",
    "comprehension": "y = [open(i) for i in x]",
    "set comprehension": "y = {i for i in x}",
    "dict comprehension": "y = {i: i for i in x}",
    "await": "async def f(): await x",
    "f-string": "y = f'{x.__class__}'",
    "f-string call": "y = f\"{open('/etc/passwd')}\"",
    "walrus": "if (open := x): pass",
    "with": "with open('/etc/passwd') as f: pass",
    "try": "try:\n        pass\n    except open('/x'): pass",
    "match class": "match x:\n        case open(): pass",
    "match value": "match x:\n        case cuda.os: pass",
    "global": "global __builtins__",
    "nonlocal": "def f():\n        nonlocal x",
    "star import": "from os import *",
    "keyword dunder": "cuda.grid(__class__=1)",
    "parameter dunder": "f = lambda __class__: 1",
    "local dunder": "__builtins__ = 1",
    "inner dunder": "def __init__(a): return a",
    "for dunder": "for __name__ in x: pass",
    # text that Numba would put into source it executes
    "string in an outer function": "s = \"__import__('os').system('touch /tmp/pwned')\"\n    def f(a): return s\n    x[0] = apply(f)",
    "captured string": "def f(a): return TEXT",
    "captured text in a tuple": "f = lambda a: TEXTS[0]",
    # size
    "large integer": f"x[0] = {10**40}",
    "bytes in a function in it": "y = lambda: b'abc'",
    "long bytes": "y = b'" + "x" * 2000 + "'",
    "long string": f"print('{'a' * 2000}')",
    "deep expression": "x[0] = " + "-" * 500 + "1",
    "deep sum": "x[0] = " + "1 + " * 500 + "1",
    "deep parentheses": "x[0] = " + "(" * 5000 + "1" + ")" * 5000,
    "deep attributes": "x" + ".a" * 500,
    "deep calls": "x" + "()" * 500,
    "deep subscripts": "x" + "[0]" * 500,
    "many statements": "\n    ".join(["x[0] = x[1] + x[2]"] * 6000),
}


@pytest.mark.parametrize("lines", HOSTILE.values(), ids=HOSTILE)
def test_hostile_sources_are_refused_with_file_and_line(lines):
    constants = {
        "TABLE": encode_constant(np.arange(4)),
        "TEXT": "text",
        "TEXTS": encode_constant(("__import__('os')",)),
    }
    with pytest.raises(KernelSourceError) as failure:
        accept(body(lines, **constants))
    place, line = re.match(r"(/home/user/train\.py):(\d+): in kernel: ", failure.value.message).groups()
    assert failure.value.details == {"file": place, "line": int(line)}
    assert 7 <= int(line) <= 7 + lines.count("\n") + 2


WHOLE = {
    "two functions": "def kernel(x): pass\ndef other(): pass\n",
    "code after": "def kernel(x): pass\nimport os\n",
    "code before": "import os\ndef kernel(x): pass\n",
    "an expression": "open('/etc/passwd')\n",
    "a lambda": "lambda x: x\n",
    "a class": "class kernel:\n    def kernel(x): pass\n",
    "async": "async def kernel(x): pass\n",
    "indented code after": "    def kernel(x): pass\n    import os\n",
    "code after the indented": "    def kernel(x): pass\nimport os\n",
    "else": "    def kernel(x): pass\nelse:\n    import os\n",
    "nothing": "\n",
    "a comment": "# kernel\n",
    "not Python": "def kernel(x) x\n",
    "null": "def kernel(x):\x00 pass\n",
    "keyword-only": "def kernel(*, x): pass\n",
    "double star": "def kernel(**x): pass\n",
    "dunder parameter": "def kernel(__x__): pass\n",
    "defaults not sent": "def kernel(x=open('/etc/passwd')): pass\n",
    "too deep": "def kernel(x):\n" + "".join(" " * n + "if x:\n" for n in range(1, 120)) + " " * 120 + "pass\n",
    "unterminated": "def kernel(x):\n    '''",
    "bad indentation": "def kernel(x):\n    pass\n  pass\n",
}


@pytest.mark.parametrize("text", WHOLE.values(), ids=WHOLE)
def test_a_source_is_one_function_definition(text):
    with pytest.raises(KernelSourceError):
        accept(one(text))


def test_defaults_are_values_and_as_many_as_the_text_has():
    (kernel,) = accept(one("def kernel(x, y=open('/etc/passwd')): pass\n", defaults=(2,)))
    assert kernel.defaults == (2,)
    assert kernel.tree.args.defaults == []
    for defaults in [(), (1, 2), ({"a": 1},), (["code"],)]:
        with pytest.raises(KernelError):
            accept(one("def kernel(x, y=1): pass\n", defaults=defaults))


OFF_THE_LIST = (
    "os.system builtins.open numba.cuda.to_device math numba.cuda numba.cuda.shared math.__loader__ numba.cuda.libdevice._x"
    " numba.cuda.libdevice.a.b numba.float32 . math. numpy.load numba.jit numba.cuda.current_context numpy.float32.fromhex"
    " math.sin.__self__ operator.attrgetter operator.call"
)


@pytest.mark.parametrize("path", ["", *OFF_THE_LIST.split()])
def test_paths_off_the_allow_list_cannot_be_bound(path):
    binding = program.Binding("f", program.NAME, path)
    kernel = program.Function("kernel", "/home/user/train.py", 7, "def kernel(x): f(x)\n", (binding,))
    with pytest.raises(KernelSourceError, match="cannot use"):
        accept(program.Program((kernel,)))


GOOD = ["kernel", "train.py", 1, "def kernel(x): pass\n", [], [], []]


def changed(position, value):
    return ["kernel", program.FORMAT, [[*GOOD[:position], value, *GOOD[position + 1 :]]]]


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        [],
        {},
        "kernel",
        ["kernel"],
        ["kernel", program.FORMAT, []],
        ["kernel", program.FORMAT, None],
        ["kernel", program.FORMAT, [None]],
        ["kernel", 1, [GOOD]],
        ["kernel", True, [GOOD] * 300],
        ["other", program.FORMAT, [GOOD]],
        ["kernel", program.FORMAT, [GOOD], 1],
        ["kernel", program.FORMAT, [GOOD] * 257],
        ["kernel", program.FORMAT, [GOOD[:6]]],
        ["kernel", program.FORMAT, [[*GOOD, 1]]],
        changed(0, ""),
        changed(0, "not a name"),
        changed(0, "__import__"),
        changed(0, "class"),
        changed(0, "k" * 200),
        changed(0, b"kernel"),
        changed(1, ""),
        changed(1, "a\nb"),
        changed(1, "a\0b"),
        changed(1, "f" * 2000),
        changed(1, 5),
        changed(2, 0),
        changed(2, -1),
        changed(2, 2**40),
        changed(2, True),
        changed(2, 1.0),
        changed(3, ""),
        changed(3, "x" * 300_000),
        changed(3, b"def kernel(x): pass\n"),
        changed(4, {}),
        changed(4, [None]),
        changed(4, [["k", "name"]]),
        changed(4, [["k", "name", 1]]),
        changed(4, [["k", "code", "x"]]),
        changed(4, [["k k", "name", "math.sin"]]),
        changed(4, [["module math", "constant", 1]]),
        changed(4, [["__builtins__", "constant", 1]]),
        changed(4, [["a.__b__", "constant", 1]]),
        changed(4, [["", "constant", 1]]),
        changed(4, [["k", "function", 1]]),
        changed(4, [["k", "constant", 1], ["k", "name", "math.sin"]]),
        changed(4, [["k", "function", -1]]),
        changed(4, [["k", "function", True]]),
        changed(4, [["k", "constant", ["array", "float32", [2**40], "C", b""]]]),
        changed(4, [["k", "constant", ["array", "float32", [2, 2], "C", b"1234"]]]),
        changed(4, [["k", "constant", ["array", "none", [1], "C", b""]]]),
        changed(4, [["k", "constant", ["pickle", b"cos\nsystem\n."]]]),
        changed(4, [["k", "constant", b"code"]]),
        changed(4, [["k", "constant", {}]]),
        changed(4, [["k", "constant", "t" * 5000]]),
        changed(4, [["k", "constant", ["type", "os"]]]),
        changed(4, [["k", "constant", 1]] * 2000),
        changed(5, None),
        changed(5, [1]),
        changed(6, None),
        changed(6, ["int32"]),
        changed(6, [["signature", "int32", []]]),
        changed(6, [["signature", "int32", ["int32", "int32"]]]),
        changed(6, [["signature", "os", ["int32"]]]),
        changed(6, [["signature", "int32", [["array", "none", 1, "C"]]]]),
        changed(6, [["signature", "int32", ["int32"]]] * 65),
    ],
)
def test_malformed_programs_are_refused(value):
    with canary(), pytest.raises(KernelError):
        gate.accept(codec.pack(value))


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x91", b"\xdd\xff\xff\xff\xff", b"\x80" * 9, b"\x91" * 5000, b"\xd4\x01\x00"]
)
def test_what_is_not_msgpack_is_refused(data):
    with pytest.raises(KernelSourceError, match="not a captured kernel"):
        gate.accept(data)
