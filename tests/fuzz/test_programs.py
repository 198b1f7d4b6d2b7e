"""Captured kernels and signatures on their way: real ones with some bytes or parts changed are accepted whole, or refused by an error."""

from __future__ import annotations

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from bitfusion.errors import KernelError, KernelTypeError, RemoteProtocolError
from bitfusion.kernels import options, signatures, source, types, wanted
from bitfusion.wire import codec
from tests.fuzz.mutation import mutated
from tests.fuzz.test_gate import judge
from tests.kernels.canary import canary

REFUSED = (KernelError, RemoteProtocolError)


@cache
def captured() -> list[bytes]:
    """Kernels of the many ways people write them, as they travel."""
    from tests.kernels import sample

    kernels = [value for value in vars(sample).values() if getattr(value, "py_func", value) is not value]
    return [source.capture(kernel.py_func).data for kernel in kernels]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A captured kernel with up to four bytes changed, taken out or put in."""
    data = bytearray(draw(st.sampled_from(captured())))
    for _ in range(draw(st.integers(1, 4))):
        index = draw(st.integers(0, len(data) - 1))
        data[index : index + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


@settings(max_examples=300, deadline=None)
@given(damaged())
def test_a_damaged_kernel_executes_nothing(data):
    judge(data)


TREES = [
    signatures.encode(signatures.parse_signature(text))
    for text in ("void(float32[:, ::1], int32)", "(Tuple((int8, UniTuple(float64, 3))), boolean, complex64[::1])")
] + [
    signatures.encode(
        types.Signature(types.void, types.Record((("x", types.float32, 0), ("n", types.int32, 4)), 8, True), types.none)
    )
]
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.sampled_from(["array", "nested", "record", "tuple", "signature", "float32", "void", "none", "C", "A", "X", ""]),
    st.binary(max_size=4),
    st.just(()),
    st.recursive(st.just("int8"), lambda inner: st.tuples(st.just("tuple"), st.tuples(inner)), max_leaves=30),
)


@st.composite
def near(draw: st.DrawFn, tree: object) -> object:
    """A tree in which one part is another."""
    if not isinstance(tree, tuple) or not tree or draw(st.integers(0, 3)) == 0:
        return draw(leaves)
    index = draw(st.integers(0, len(tree) - 1))
    return (*tree[:index], draw(near(tree[index])), *tree[index + draw(st.integers(0, 1)) :])


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(TREES).flatmap(near))
def test_a_signature_is_what_it_says_or_refused(tree):
    tree = codec.unpack(codec.pack(tree))
    with canary():
        try:
            signature = signatures.decode_signature(tree)
        except REFUSED:
            return
    assert signatures.decode_signature(signatures.encode(signature)) == signature


@settings(max_examples=400, deadline=None)
@given(
    mutated(
        ["void(float32[:, ::1], int32)", "(nb.types.Array(int64, 2, 'A'), Tuple((int8, complex64)), UniTuple(f8, 3))"],
        ["__import__", "()", "[]", "lambda", "os", "**", "*", "1j", "'x'", "{", "("],
    )
)
def test_the_text_of_a_signature_is_never_evaluated(text):
    with canary():
        try:
            signature = signatures.parse_signature(text)
        except KernelTypeError:
            return
    assert signatures.decode_signature(signatures.encode(signature)) == signature


@settings(max_examples=200, deadline=None)
@given(
    leaves | st.dictionaries(st.sampled_from(["opt", "debug", "launch_bounds", "inline", "max_registers", "x"]), leaves)
)
def test_options_are_read_strictly(tree):
    for decode in (options.decode, wanted.decode):
        try:
            decode(tree)
        except KernelTypeError:
            pass
