"""Signatures as text and as messages."""

from __future__ import annotations

import numpy as np
import pytest

from bitfusion.errors import KernelError, KernelTypeError, RemoteProtocolError
from bitfusion.kernels import types
from bitfusion.kernels.signatures import COUNT_MAX, decode_signature, encode, parse_signature, parse_type
from bitfusion.kernels.types import boolean, float32, from_dtype, int32, int64, void
from bitfusion.wire import codec
from tests.kernels.canary import canary

POINT = from_dtype(np.dtype([("x", np.float32), ("m", np.int16, (2, 3))], align=True))


@pytest.mark.parametrize(
    ("text", "signature"),
    [
        ("void(float32[:, ::1], int32)", void(float32[:, ::1], int32)),
        ("void ( )", void()),
        ("(float32[:], int32)", void(float32[:], int32)),
        ("int32(f4, b1)", int32(float32, boolean)),
        ("nb.void(types.float32[::1, :], np.int64)", void(float32[::1, :], int64)),
        (
            "void(UniTuple(int32, 3), Tuple((float32, int64)))",
            void(types.UniTuple(int32, 3), types.Tuple((float32, int64))),
        ),
        ("None(i4)", void(int32)),
    ],
)
def test_text_is_read(text, signature):
    with canary():
        assert parse_signature(text) is signature


@pytest.mark.parametrize(
    "text",
    [
        "",
        "float32",
        "void(",
        "void(float33)",
        "void(float32[1])",
        "void(float32[::2])",
        "__import__('os')",
        "void(x=int32)",
        "void(*int32)",
        "open('/etc/passwd')",
        "void(lambda: 0)",
        "void(float32.__class__)",
        "os.float32(int32)",
        "1",
        "void(1)",
        "void(UniTuple(int32, 99999999))",
        "void(" + "int32," * 9000 + ")",
        "(" * 500,
        "void(" + "float32[:]" * 50 + ")",
        "a\x00b",
    ],
)
def test_text_that_is_no_signature(text):
    with canary(), pytest.raises(KernelTypeError):
        parse_signature(text)


@pytest.mark.parametrize(
    "signature",
    [
        void(),
        void(int32),
        int32(float32[:], boolean),
        void(POINT, POINT[:]),
        void(types.Array(float32, 2, "A", readonly=True), types.Array(POINT, 1, "C", readonly=True)),
        void(types.Tuple((int32, types.UniTuple(float32, 2)))),
    ],
)
def test_messages_come_back_as_the_same_object(signature):
    assert decode_signature(codec.unpack(codec.pack(encode(signature)))) is signature


def nested(depth):
    tree = "int32"
    for _ in range(depth):
        tree = ["tuple", [tree]]
    return tree


@pytest.mark.parametrize(
    "tree",
    [
        None,
        1,
        "int32",
        [],
        ["signature"],
        ["signature", "none"],
        ["signature", "none", "int32"],
        ["signature", "void", []],
    ]
    + [
        ["signature", "none", [tree]]
        for tree in (None, 1, "float33", [], ["array"], ["array", "int32", 1], ["array", "int32", True, "C"])
    ]
    + [
        ["signature", "none", [tree]]
        for tree in (["array", "int32", 99, "C"], ["array", "none", 1, "C"], ["array", "int32", 1, "X"])
    ]
    + [
        ["signature", "none", [tree]]
        for tree in (["readonly", "int32", 1], ["readonly", "none", 1, "C"], ["readonly", ["array", "int32", 1, "C"]])
    ]
    + [
        ["signature", "none", [tree]]
        for tree in (["record", [], 0, True], ["record", [["x", "int32", 9]], 4, False], nested(40))
    ]
    + [
        ["signature", "none", [tree]]
        for tree in (["record", [["a b", "int32", 0]], 4, False], ["signature", "none", []], {})
    ]
    + [
        ["signature", "none", [tree]]
        for tree in (["record", [["x", "none", 0]], 4, False], ["nested", "int32", [0]], ["tuple", 1])
    ]
    + [["signature", "none", ["int32"] * (COUNT_MAX + 1)]],
)
def test_messages_that_are_no_signature(tree):
    with pytest.raises((RemoteProtocolError, KernelError)):
        decode_signature(codec.unpack(codec.pack(tree)))


def test_a_type_alone_is_no_signature():
    assert parse_type("float32[:]") is float32[:]
    with pytest.raises(KernelTypeError, match="is a type, not a signature"):
        parse_signature("float32")
