"""What would extend the compiler: it cannot travel, and says what does."""

from __future__ import annotations

import numba.cuda.extending
import pytest
from numba.cuda.extending import intrinsic, overload

from bitfusion.cuda import extending
from bitfusion.errors import KernelSourceError, UnsupportedError
from bitfusion.kernels.source import capture


@pytest.mark.parametrize("name", extending.__all__)
def test_each_says_what_to_write_instead(name):
    with pytest.raises(UnsupportedError, match=rf"extending\.{name} .*: (write|declare|pass)") as caught:
        getattr(extending, name)(int)
    assert caught.value.details["feature"] == f"extending.{name}"
    assert hasattr(numba.cuda.extending, name)


def test_types_are_registered_by_an_attribute():
    with pytest.raises(UnsupportedError, match="typeof_impl"):
        extending.typeof_impl.register(int)


@intrinsic
def first(context, value):
    return value(value), lambda *lowering: lowering[-1][0]


def plain(value):
    return value


@overload(plain)
def _overloaded(value):
    return lambda value: value


def with_intrinsic(x):
    x[0] = first(x[1])


def with_overload(x):
    x[0] = plain(x[1])


@pytest.mark.parametrize(
    ("kernel", "match"),
    [
        (with_intrinsic, r"intrinsic first.*device=True.*declare_device"),
        (with_overload, r"device=True.*not by an @overload"),
    ],
)
def test_numbas_own_are_refused_when_a_kernel_names_them(kernel, match):
    with pytest.raises(KernelSourceError, match=match):
        capture(kernel)
