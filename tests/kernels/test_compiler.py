"""Real compiles: what Numba makes of captured kernels, and what is said when it cannot."""

from __future__ import annotations

import cmath
import linecache
import math
import operator
import os
import re
import sys
import threading
import warnings

import numpy as np
import pytest
from numba import cuda, float32

from bitfusion.errors import KernelCompileError, KernelSourceError, KernelTypeError
from bitfusion.kernels import compiler, gate, names, program, types
from bitfusion.kernels.folding import is_small
from bitfusion.kernels.options import Options
from bitfusion.kernels.packing import Packer
from bitfusion.kernels.source import capture
from bitfusion.kernels.types import Signature, void
from bitfusion.kernels.wanted import Wanted
from tests.kernels import sample
from tests.kernels.canary import canary

F4 = types.float32[::1]


def compiled(function, *arguments, options=None, capability=(8, 0)):
    accepted = gate.accept(capture(function).data)
    return compiler.compile_kernel(accepted, void(*(arguments or (F4,))), options or Options(), capability)


def line_of(function, mark):
    """The line of the user's file that holds ``mark``."""
    first = function.__code__.co_firstlineno
    lines = linecache.getlines(function.__code__.co_filename)
    return first + next(offset for offset, line in enumerate(lines[first - 1 :]) if mark in line)


@pytest.mark.parametrize(
    ("kernel", "arguments", "parts"),
    [
        (sample.axpy, (types.float32, F4, F4), ["fma.rn.f32"]),
        (sample.tiled, (F4, F4), [".shared .align 4 .b8", "bar.sync", "atom.global.add.f32"]),
        (sample.constants, (F4,), []),
        (sample.calls, (F4,), []),
        (sample.closing(3, sample.weigh), (F4,), []),
        (sample.lambdas[0], (F4,), None),
        (sample.Holder.method, (F4,), ["st.global"]),
    ],
)
def test_kernels_become_ptx(kernel, arguments, parts):
    if parts is None:  # it returns a value
        with pytest.raises(KernelCompileError):
            compiled(kernel, *arguments)
        return
    made = compiled(kernel, *arguments)
    ptx = made.ptx.decode()
    assert f".visible .entry {made.entry}(" in ptx
    assert ".target sm_80" in ptx
    assert all(part in ptx for part in parts)


# what issue and manuals name: one kernel each


def dynamic_shared(x):
    tile = cuda.shared.array(0, float32)
    tile[cuda.threadIdx.x] = x[0]
    x[1] = tile[0]


def three_dimensions(x):
    i, j, k = cuda.grid(3)
    w, h, d = cuda.gridsize(3)
    if i < w and j < h and k < d:
        x[i + j + k] = cuda.blockIdx.z + cuda.gridDim.y + cuda.blockDim.z


def atomics(x):
    cuda.atomic.max(x, 0, x[1])
    cuda.atomic.sub(x, 0, x[1])
    cuda.atomic.nanmin(x, 2, x[2])


def halves(x):
    x[0] = np.float32(np.float16(x[1]) * np.float16(2) + np.float16(1))


def warps(x):
    mask = cuda.ballot_sync(0xFFFFFFFF, x[0] > 0)
    x[0] = cuda.shfl_down_sync(mask, x[0], 1) + cuda.laneid + cuda.warpsize
    cuda.syncwarp()


def library(x):
    x[0] = cuda.libdevice.rsqrtf(x[1]) + cuda.fma(x[0], x[1], x[2]) + cuda.cbrt(x[0])
    x[1] = cuda.popc(cuda.brev(np.uint32(x[0])))


def vectors(x):
    v = cuda.float32x3(x[0], x[1], x[2])
    x[0] = v.x + v.z


def exceptions(x):
    assert x[0] > 0, "positive"
    if x[1] < 0:
        raise ValueError("negative")


def prints(x):
    print("value", x[0], 1)


@cuda.jit(device=True)
def first(*values):
    return values[0]


def star(x):
    x[0] = first(x[1], 2)


def complexes(x):
    z = complex(x[0], x[1]) * 1j
    x[0] = z.real + abs(z)


def names_of_mine(x):
    for word in (1, 2):
        x[word] = operator.mul(x[0], word) if word else math.hypot(x[1], x[2])


@pytest.mark.parametrize(
    ("kernel", "parts"),
    [
        (dynamic_shared, [".extern .shared"]),
        (three_dimensions, ["%ctaid.z"]),
        (atomics, ["atom.global"]),
        (halves, [".f16"]),
        (warps, ["shfl.sync.down", "vote.sync.ballot", "bar.warp.sync"]),
        (library, ["rsqrt.approx", "popc.b32", "brev.b32"]),
        (vectors, ["add"]),
        (exceptions, [".entry"]),
        (prints, ["vprintf"]),
        (star, ["st.global"]),
        (complexes, ["sqrt"]),
        (names_of_mine, ["st.global"]),
    ],
)
def test_the_kernel_language(kernel, parts):
    made = compiled(kernel)
    ptx = made.ptx.decode()
    assert all(part in ptx for part in parts)
    assert not re.search(r"\.extern \.func.*\b_Z", ptx), "an unresolved function"


def test_numbas_own_device_functions():
    from numba.cuda import random

    scope = {"cuda": cuda, "random": random}
    text = "def kernel(states, x):\n    i = cuda.grid(1)\n    x[i] = random.xoroshiro128p_uniform_float32(states, i)\n"
    linecache.cache["<random>"] = (len(text), None, text.splitlines(True), "<random>")
    exec(compile(text, "<random>", "exec"), scope)
    states = types.from_dtype(np.dtype([("s0", np.uint64), ("s1", np.uint64)], align=True))
    assert compiled(scope["kernel"], states[::1], F4).ptx


def everything(number, flag, ratio, z, record, pair, matrix, empty):
    matrix[0, 0] = number + flag + ratio + z.real + record.x + pair[0] + pair[1]


POINT = types.from_dtype(sample.POINT)


@pytest.mark.parametrize(
    "signature",
    [
        void(types.int8, types.boolean, types.float32, types.complex64, POINT, types.UniTuple(types.int32, 2)),
        void(
            types.uint64,
            types.boolean,
            types.float16,
            types.complex128,
            POINT,
            types.Tuple((types.int8, types.float64)),
        ),
    ],
)
@pytest.mark.parametrize("layout", ["C", "F", "A"])
def test_arguments_are_laid_out_as_the_packer_packs_them(signature, layout):
    """The offsets of the PTX parameters, each at its natural alignment, are those of ``kernels.packing``."""
    arguments = (*signature.args, types.Array(types.float32, 2, layout), types.none)
    made = compiled(everything, *arguments)
    entry = re.search(rf"\.entry {re.escape(made.entry)}\((.*?)\)", made.ptx.decode(), re.DOTALL)[1]
    offset, found = 0, []
    for size in re.findall(r"\.param \.[busf](\d+) ", entry):
        width = int(size) // 8
        offset += -offset % width
        found.append((offset, width))
        offset += width
    packer = Packer(Signature(types.none, *arguments))
    assert packer.parameters == tuple(found)
    assert packer.size == offset


# what the allow-list promises

FORMS = (
    "x[0] = {0}(x[1])",
    "i[0] = {0}(i[1])",
    "z[0] = {0}(z[1])",
    "x[0] = {0}(x[1], x[2])",
    "i[0] = {0}(i[1], i[2])",
    "x[0] = {0}(x[1], i[2])",
    "z[0] = {0}(x[0], x[1])",
    "z[0] = {0}",
    "x[0], i[0] = {0}(x[1])",
    "x[0], x[1] = {0}(z[1])",
    "{0}(x, 0, 1)",
    "x[0] = {0}(x, 0)",
    "y = x[{0}, :]",
    "x[0] = {0}(x)",
    "i[0] = {0}(x)[0]",
)
"""How a function of numbers, a number or an axis is used; a name is kept if one of them compiles."""

PROMISED = [
    f"{namespace}.{word}"
    for namespace in ("math", "cmath", "operator", "numpy")
    for word in sorted(names.NAMESPACES[namespace])
    if not (namespace == "numpy" and not hasattr(np, word))  # names that only a newer NumPy has
]


def text_compiles(text, **values):
    """Whether a kernel of one statement compiles; x, i and z are arrays of floats, integers and complex numbers."""
    lines = [f"def kernel({', '.join(('x', 'i', 'z', *values))}):\n", f"    {text}\n"]
    file = f"<{text}>"
    linecache.cache[file] = (1, None, lines, file)
    scope = {"math": math, "cmath": cmath, "operator": operator, "numpy": np, "cuda": cuda}
    try:
        exec(compile("".join(lines), file, "exec"), scope)
        arrays = (types.float64[::1], types.int64[::1], types.complex128[::1])
        return compiled(scope["kernel"], *arrays, *values.values()).ptx
    except (KernelCompileError, KernelSourceError):
        return None
    finally:
        del linecache.cache[file]


@pytest.mark.parametrize("namespace", ["math", "cmath", "operator", "numpy"])
def test_what_the_list_promises_compiles(namespace):
    promised = [path for path in PROMISED if path.startswith(f"{namespace}.")]
    assert len(promised) > 20
    assert [path for path in promised if not any(text_compiles(form.format(path)) for form in FORMS)] == []


@pytest.mark.parametrize("path", sorted(names.INSTEAD))
def test_what_is_to_be_written_instead_compiles(path):
    expression = re.sub(r"\b([xy])\b", r"numbers.\1", names.INSTEAD[path])
    pair = types.from_dtype(np.dtype([("x", np.float64), ("y", np.float64)]))
    assert not names.is_allowed(path)
    assert text_compiles(f"x[0] = {expression}", numbers=pair)


# options


def test_options_reach_the_compiler():
    def divide(x):
        x[0] = x[1] / x[2]

    assert b"div.approx.ftz" in compiled(divide, options=Options(fastmath=True)).ptx
    assert b"div.rn" in compiled(divide).ptx
    limited = compiled(divide, options=Options(max_registers=24))
    assert re.search(rb"\.entry [^{]*\)\s*\.maxnreg 24\s*\{", limited.ptx)
    lines = compiled(divide, options=Options(lineinfo=True)).ptx.decode()
    assert f'"{__file__}"' in lines or f'{os.path.basename(__file__)}"' in lines
    assert re.search(rf"\.loc\s+\d+ {line_of(divide, 'x[1] / x[2]')} ", lines)
    assert len(compiled(divide, options=Options(opt=False)).ptx) > len(compiled(divide).ptx)


@pytest.mark.parametrize("kernel", [exceptions, sample.calls])
def test_debug_records_exceptions(kernel):
    assert b"__errcode__" in compiled(kernel, options=Options(debug=True, opt=False)).ptx


@cuda.jit(device=True)
def refusing(value):
    if value < 0:
        raise KeyError("in a function")
    return value


def raising_twice(x):
    x[0] = refusing(x[1])
    if x[2] < 0:
        raise ValueError("in the kernel")


def test_exceptions_of_all_functions_have_numbers_of_their_own():
    made = compiled(raising_twice, options=Options(debug=True, opt=False))
    assert {raised.exception: raised.text for raised in made.raises.values()} == {
        "KeyError": "in a function",
        "ValueError": "in the kernel",
    }
    for number, raised in made.raises.items():
        assert 0 < number < 1 << 31
        assert str(number).encode() in made.ptx
        assert (raised.file, raised.exception in linecache.getline(__file__, raised.line)) == (__file__, True)
    assert made.raises == compiled(raising_twice, options=Options(debug=True, opt=False)).raises
    assert compiled(raising_twice).raises == {}


@pytest.mark.parametrize(("capability", "target"), [((7, 5), b"sm_75"), ((9, 0), b"sm_90"), ((8, 8), b"sm_88")])
def test_the_capability_decides_the_target(capability, target):
    assert b".target " + target in compiled(sample.axpy, types.float32, F4, F4, capability=capability).ptx


def test_a_capability_the_compiler_no_longer_knows():
    with pytest.raises(KernelCompileError, match=r"5\.2 is not supported"):
        compiled(sample.axpy, types.float32, F4, F4, capability=(5, 2))


# failures


@cuda.jit(device=True)
def broken(value):
    step = value + 1
    return step.missing


@cuda.jit(device=True)
def endless(value):
    return endless(value - 1) if value > 0 else value


def unknown_attribute(x):
    y = x[0]
    x[0] = y.foo  # here


def in_a_device_function(x):
    y = 1
    x[0] = broken(y)


def no_overload(x):
    y = x.size
    tile = cuda.shared.array(y, float32)  # here
    x[0] = tile[0]


def returns(x):
    return x[0]  # here


def recursive(x):
    x[0] = endless(x[1])


def bad_call(x):
    y = 1
    x[y] = cuda.grid(1, 2, 3)  # here


def power(x):
    y = 1
    if 9**9**9:  # here
        x[y] = 1


def hidden_power(x):
    base = 9
    exponent = 10_000_000_000
    if base**exponent:  # here
        x[0] = 1


def shift(x):
    if 1 << 10_000_000_000:  # here
        x[0] = 1


def long_text(x):
    form = "%1000000000d"
    if form % 5:  # here
        x[0] = 1


def repeated(x):
    if sample.SHAPE * 1_000_000_000:  # here
        x[0] = 1


@pytest.mark.parametrize(
    ("kernel", "line", "message"),
    [
        (unknown_attribute, line_of(unknown_attribute, "# here"), "Unknown attribute 'foo' of type float32"),
        (in_a_device_function, line_of(broken.py_func, "step.missing"), "Unknown attribute 'missing' of type int64"),
        (no_overload, line_of(no_overload, "# here"), "No implementation of function"),
        (returns, line_of(returns, "# here"), "CUDA kernel must have void return type, and this returns float32"),
        (recursive, line_of(endless.py_func, "endless(value - 1)"), "calls itself needs a signature"),
        (bad_call, line_of(bad_call, "# here"), "grid"),
        (power, line_of(power, "# here"), "constant expression"),
        (hidden_power, line_of(hidden_power, "# here"), "constant expression"),
        (shift, line_of(shift, "# here"), "constant expression"),
        (long_text, line_of(long_text, "# here"), "constant expression"),
        (repeated, line_of(repeated, "# here"), "constant expression"),
    ],
)
def test_errors_have_numbas_message_and_the_users_file_and_line(kernel, line, message):
    with pytest.raises(KernelCompileError, match=re.escape(message)) as failure:
        compiled(kernel)
    assert (failure.value.details["file"], failure.value.details["line"]) == (__file__, line)
    assert str(failure.value.details["exception"]).endswith("Error")
    assert failure.value.message.startswith(f"{__file__}:{line}: in {kernel.__name__}: ")
    assert f'File "{__file__}", line {line}' in failure.value.message
    assert linecache.getline(__file__, line).strip() in failure.value.message
    assert "0x" not in failure.value.message


def test_arguments_that_are_too_few():
    with pytest.raises(KernelCompileError, match="takes 3 arguments") as failure:
        compiled(sample.axpy, F4)
    assert failure.value.details["file"] == sample.__file__
    with pytest.raises(KernelTypeError, match="returns nothing"):
        compiler.compile_kernel(gate.accept(capture(sample.axpy).data), types.int32(F4), Options(), (8, 0))


def failing_program(file):
    return program.Program((program.Function("kernel", file, 3, "def kernel(x):\n    x[0] = x.foo\n"),))


def test_no_file_of_the_server_is_opened(tmp_path):
    """The client's file name is text: a file that has it here is neither read nor shown."""
    secret = tmp_path / "secret.py"
    secret.write_text("the server's own line\n" * 9)
    accepted = gate.check(failing_program(str(secret)))
    opened = []
    sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)
    with pytest.raises(KernelCompileError) as failure:
        compiler.compile_kernel(accepted, void(F4), Options(), (8, 0))
    assert "server's own" not in failure.value.message
    assert "x[0] = x.foo" in failure.value.message
    assert not [name for name in opened if "secret" in str(name)]
    assert str(secret) not in linecache.cache and os.path.relpath(secret) not in linecache.cache


def test_a_syntax_error_that_only_the_compiler_finds_opens_nothing(tmp_path):
    secret = tmp_path / "secret.py"
    secret.write_text("the server's own line\n" * 9)
    function = program.Function("kernel", str(secret), 3, "def kernel(x):\n    break\n")
    accepted = gate.check(program.Program((function,)))
    opened = []
    sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)
    with pytest.raises(
        KernelSourceError, match=r"secret\.py:4: in kernel: the source is not Python: 'break' outside loop"
    ):
        compiler.compile_kernel(accepted, void(F4), Options(), (8, 0))
    assert not [name for name in opened if "secret" in str(name)]


def test_what_linecache_knew_is_known_again():
    linecache.cache["mine.py"] = (1, None, ["mine\n"], "mine.py")
    with pytest.raises(KernelCompileError):
        compiler.compile_kernel(gate.check(failing_program("mine.py")), void(F4), Options(), (8, 0))
    assert linecache.cache.pop("mine.py")[2] == ["mine\n"]


def test_numba_is_silent(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(sample.calls, options=Options(debug=True, lineinfo=True))  # which Numba warns of
    assert capfd.readouterr() == ("", "")


# processes


def test_many_compiles_leave_nothing_behind():
    import gc

    from numba.cuda.descriptor import cuda_target

    def count():
        gc.collect()
        context = cuda_target.target_context
        return len(context._defns), sum(len(item.versions) for item in context._defns.values()), len(linecache.cache)

    compiled(sample.calls)
    before = count()
    for number in range(12):
        compiled(sample.calls, types.Array(types.float32, 1, "A"), options=Options(max_registers=16 + number))
    after = count()
    assert after == before


def test_a_warm_process_has_no_threads_and_its_children_compile():
    threads = threading.enumerate()
    compiler.warm()
    assert threading.enumerate() == threads
    data = capture(sample.calls).data
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            made = compiler.compile_kernel(gate.accept(data), void(F4), Options(), (8, 0))
            os.write(write, b"%d" % len(made.ptx))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as end:
        assert int(end.read()) > 1000
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("function", "left", "right", "small"),
    [
        (operator.pow, 2, 64, True),
        (operator.pow, 2, 5000, False),
        (operator.pow, 10, -(10**12), True),
        (operator.pow, 2.0, 10**12, True),
        (operator.lshift, 1, 64, True),
        (operator.lshift, 1, 10**9, False),
        (operator.mul, 2**63, 2**63, True),
        (operator.mul, (1, 2), 10, True),
        (operator.mul, 10**9, (1, 2), False),
        (operator.mul, "ab", 10**9, False),
        (operator.mod, "%9d", 1, False),
        (operator.mod, b"%9d", 1, False),
        (operator.mul, b"x", 9**9, False),
        (operator.mod, 9, 2, True),
        (operator.add, (1,), (2,), True),
        (operator.eq, (1,), (2,), True),
        (operator.add, np.zeros((4096, 1)), np.zeros((1, 4096)), False),
    ],
)
def test_what_numba_may_compute(function, left, right, small):
    assert is_small(function, left, right) is small


def test_text_that_numba_would_execute_is_refused_before_numba():
    """The way in: an inner function that escapes closes over a string, which Numba would paste into source."""
    text = """def kernel(x):
    s = "__import__('os').system('false')"
    def inner(a): return s
    x[0] = apply(inner, 1)
"""
    functions = (
        program.Function("kernel", "a.py", 1, text, (program.Binding("apply", program.FUNCTION, 1),)),
        program.Function("apply", "a.py", 9, "def apply(f, a):\n    return f(a)\n"),
    )
    with canary(), pytest.raises(KernelSourceError, match="cannot contain strings"):
        gate.check(program.Program(functions))


def test_threads_take_turns():
    """Two sessions in one process: each gets its own file's lines in its message."""
    messages = {}

    def compile_in(file):
        with pytest.raises(KernelCompileError) as failure:
            compiler.compile_kernel(gate.check(failing_program(file)), void(F4), Options(), (8, 0))
        messages[file] = failure.value.message

    threads = [threading.Thread(target=compile_in, args=(f"/users/{number}.py",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(f'File "{file}", line 4' in message and "x.foo" in message for file, message in messages.items())
    assert len(messages) == 4


@pytest.mark.parametrize(("body", "output"), [("y.reshape(2, 2)[0, 0]", "llvm"), ("math.sin(x, 2)", "ptx")])
def test_no_text_says_where_the_appliance_keeps_its_software(body, output):
    """Debug information names the folders of Numba's functions, and some of its errors its own files."""
    names = (program.Binding("math.sin", program.NAME, "math.sin"),) if "math" in body else ()
    text = f"def kernel(x, y):\n    x[0] = {body}\n"
    captured = program.Program((program.Function("kernel", "/of/the/user.py", 1, text, names),))
    try:
        code, _ = compiler.compile_text(
            gate.check(captured), void(F4, F4), Options(debug=True, opt=False), Wanted(output), (8, 0)
        )
    except KernelCompileError as error:
        code = str(error).encode()
    assert b"numba" in code
    assert b"site-packages" not in code and os.path.dirname(cuda.__file__).encode() not in code
