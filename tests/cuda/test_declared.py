"""Signatures and types as programs write them, Numba's own objects among them."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from bitfusion import cuda
from bitfusion.cuda.declared import as_type, is_signature, signature
from bitfusion.errors import KernelTypeError
from bitfusion.kernels.types import from_dtype

RECORD = np.dtype([("a", "f4"), ("b", "i8", (2,)), ("c", [("x", "u1"), ("y", "c8")])])


@pytest.mark.parametrize(
    "written",
    [
        "void(float32[:, ::1], int32)",
        "(f4[:, ::1], i4)",
        cuda.void(cuda.float32[:, ::1], cuda.int32),
        (cuda.float32[:, ::1], cuda.int32),
        (numba.float32[:, ::1], np.int32),
        numba.void(numba.float32[:, ::1], numba.int32),
    ],
    ids=str,
)
def test_one_signature_in_many_ways(written):
    assert is_signature(written)
    assert signature(written) is cuda.void(cuda.float32[:, ::1], cuda.int32)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (numba.boolean, cuda.boolean),
        (numba.complex128, cuda.complex128),
        (numba.intp, cuda.int64),
        (numba.types.float16, cuda.float16),
        (numba.none, cuda.none),
        (numba.uint8[::1, :], cuda.uint8[::1, :]),
        (numba.types.UniTuple(numba.int32, 3), cuda.types.UniTuple(cuda.int32, 3)),
        (numba.types.Tuple((numba.int32, numba.float32[:])), cuda.types.Tuple((cuda.int32, cuda.float32[:]))),
        (numba.from_dtype(RECORD), from_dtype(RECORD)),
        (numba.from_dtype(np.dtype([("a", "u1"), ("b", "f8")], align=True))[:], None),
    ],
    ids=str,
)
def test_numbas_types_are_understood(theirs, ours):
    assert as_type(theirs) is (ours or from_dtype(np.dtype([("a", "u1"), ("b", "f8")], align=True))[:])


@pytest.mark.parametrize("wrong", [numba.types.unicode_type, numba.types.ListType(numba.int32), 3, "int33", object()])
def test_what_is_no_type_is_refused(wrong):
    with pytest.raises(KernelTypeError):
        as_type(wrong)


@pytest.mark.parametrize("wrong", [7, "int32", None, [cuda.int32]])
def test_what_is_no_signature_is_refused(wrong):
    with pytest.raises(KernelTypeError):
        signature(wrong)
