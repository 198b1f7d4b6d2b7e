"""Whatever a client sends as a kernel, the gate executes nothing, and answers with a program or with one of the errors listed here."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bitfusion.errors import KernelError, KernelSourceError
from bitfusion.kernels import gate, program
from bitfusion.kernels.build import build
from bitfusion.wire import codec
from tests.kernels.canary import canary

ALLOWED = (KernelError,)


def one_of(text):
    return st.sampled_from(text.split())


words = one_of(
    "x y i os sys cuda math np open exec eval getattr abs print range float32 TILE TEXT helper kernel __import__ __builtins__"
    " __class__ _private self"
)
attributes = one_of(
    "x shape size T dtype grid shared array threadIdx atomic add sin float32 os system load __class__ __globals__ __init__"
    " _private py_func tofile ctypes"
)
literals = st.sampled_from(
    ["0", "1", "-1", "2.5", "1j", "None", "True", "...", "'t'", "b'b'", "9**9**9", str(2**70), "f'{x}'"]
)


def compound(inner):
    """Expressions made of expressions."""
    return st.one_of(
        st.builds("{}.{}".format, inner, attributes),
        st.builds("({} {} {})".format, inner, one_of("+ - * ** // << and or in is < @"), inner),
        st.builds("{}({})".format, inner, inner),
        st.builds("{}({}={})".format, inner, words, inner),
        st.builds("{}[{}]".format, inner, inner),
        st.builds("{}[{}:{}]".format, inner, inner, inner),
        st.builds("({}, {})".format, inner, inner),
        st.builds("[{}]".format, inner),
        st.builds("[{} for {} in {}]".format, inner, words, inner),
        st.builds("(lambda {}: {})".format, words, inner),
        st.builds("(lambda {}={}: {})".format, words, inner, inner),
        st.builds("({} := {})".format, words, inner),
        st.builds("({} if {} else {})".format, inner, inner, inner),
        st.builds("f'{{{}}}'".format, inner),
        st.builds("-{}".format, inner),
        st.builds("*{}".format, inner),
    )


expressions = st.recursive(words | literals, compound, max_leaves=8)
simple = st.one_of(
    expressions,
    st.builds("{} = {}".format, expressions, expressions),
    st.builds("{} += {}".format, expressions, expressions),
    st.builds("{}: {} = {}".format, words, expressions, expressions),
    st.builds("return {}".format, expressions),
    st.builds("raise {}".format, expressions),
    st.builds("assert {}, {}".format, expressions, expressions),
    st.builds("del {}".format, expressions),
    st.builds("import {}".format, words),
    st.builds("from {} import {}".format, words, attributes),
    st.builds("global {}".format, words),
    st.builds("yield {}".format, expressions),
    st.just("pass"),
)


def indented(block):
    return "".join(f"    {line}\n" for line in block.splitlines())


def block(inner):
    body = st.lists(inner, min_size=1, max_size=3).map("\n".join).map(indented)
    return st.one_of(
        st.builds("if {}:\n{}".format, expressions, body),
        st.builds("for {} in {}:\n{}".format, expressions, expressions, body),
        st.builds("while {}:\n{}".format, expressions, body),
        st.builds("with {} as {}:\n{}".format, expressions, words, body),
        st.builds("def {}({}):\n{}".format, words, words, body),
        st.builds("@{}\ndef {}({}={}):\n{}".format, expressions, words, words, expressions, body),
        st.builds("class {}({}):\n{}".format, words, expressions, body),
        st.builds("try:\n{}except {}:\n{}".format, body, expressions, body),
        st.builds("match {}:\n    case {}:\n{}".format, expressions, expressions, body.map(indented)),
    )


statements = st.recursive(simple, block, max_leaves=5)
kernels = st.builds(
    "@{}\ndef kernel(x, y: {}={}):\n{}".format,
    expressions,
    expressions,
    expressions,
    st.lists(statements, min_size=1, max_size=4).map("\n".join).map(indented),
)
bindings = st.lists(
    st.one_of(
        st.builds(
            program.Binding,
            st.sampled_from(["cuda.grid", "cuda.threadIdx", "cuda.shared.array", "math.sin", "np.sin", "np.float32"]),
            st.just(program.NAME),
            st.sampled_from(
                ["numba.cuda.grid", "numba.cuda.threadIdx", "math.sin", "numpy.float32", "os.system", "math"]
            ),
        ),
        st.just(program.Binding("TILE", program.CONSTANT, 16)),
        st.just(program.Binding("TEXT", program.CONSTANT, "text")),
        st.just(program.Binding("helper", program.FUNCTION, 0)),
        st.builds(
            program.Binding,
            st.sampled_from(["helper", "open"]),
            st.just(program.EXTERNAL),
            st.tuples(
                st.sampled_from(["outside", "a b", ""]),
                st.sampled_from([("signature", "int32", ("int32",)), "int32", ("signature", "int32", ("os",))]),
                st.sampled_from(["numba", "c", "python"]),
                st.booleans(),
            ),
        ),
        st.builds(
            program.Binding,
            st.sampled_from(["TEXT", "eval"]),
            st.just(program.EXCEPTION),
            st.sampled_from(["OurError", "__class__", "a b"]),
        ),
    ),
    max_size=6,
).map(tuple)


class Maker:
    """A compiler that compiles nothing."""

    def device_function(self, function, options):
        return function

    def declare(self, device_function, signature):
        pass

    def external(self, function):
        return function


def judge(data):
    """The gate's answer; what it accepts has no names but those it has bound (``build`` reads the code object for that)."""
    with canary():
        try:
            accepted = gate.accept(data)
        except ALLOWED:
            return
    try:
        build(accepted, Maker())
    except KernelSourceError as error:  # what only Python's compiler finds, such as ``*x`` by itself; never a name
        if "the source is not Python" not in error.message:
            raise


@settings(max_examples=400, deadline=None)
@given(kernels, bindings)
def test_the_gate_executes_nothing_of_any_kernel(text, bound):
    kernel = program.Function("kernel", "train.py", 1, text, bound, (1,))
    judge(program.encode(program.Program((kernel,))))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80), bindings)
def test_the_gate_takes_any_text(text, bound):
    for source in (text, f"def kernel(x):\n    {text}\n"):
        kernel = program.Function("kernel", "train.py", 1, source, bound)
        judge(program.encode(program.Program((kernel,))))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=20)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)
constants = st.one_of(
    plain,
    st.tuples(st.sampled_from(["complex", "tuple", "scalar", "array", "dtype", "type"]), plain),
    st.tuples(st.just("scalar"), st.sampled_from(["float32", "bool", "none"]), st.binary(max_size=8)),
    st.tuples(
        st.just("array"),
        st.sampled_from(["float32", "int64", "none"]),
        st.lists(st.integers(-2, 2**20), max_size=4),
        st.sampled_from(["C", "F", "X"]),
        st.binary(max_size=16),
    ),
)
near = st.tuples(
    st.just("kernel"),
    st.sampled_from([program.FORMAT, program.FORMAT, program.FORMAT, 1]),
    st.lists(
        st.tuples(
            st.sampled_from(["kernel", "__init__"]),
            st.sampled_from(["train.py", "", "a\n"]),
            st.sampled_from([1, 0, 2**31]),
            st.sampled_from(["def kernel(x): return TILE\n", "def kernel(x=1): pass\n", "x"]),
            st.lists(
                st.tuples(
                    st.just("TILE"),
                    st.sampled_from(["name", "function", "constant", "external", "exception"]),
                    constants,
                ),
                max_size=3,
            ),
            st.lists(constants, max_size=2),
            st.lists(constants, max_size=1),
            st.lists(st.tuples(st.sampled_from(["opt", "inline", "launch_bounds", "colour"]), constants), max_size=2),
        ),
        max_size=3,
    ),
    st.lists(st.tuples(st.sampled_from(["ptx", "cu", "so"]), st.text(max_size=3), st.binary(max_size=9)), max_size=2),
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=100) | plain.map(codec.pack) | near.map(codec.pack))
def test_the_gate_takes_any_bytes(data):
    judge(data)
