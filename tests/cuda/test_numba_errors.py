"""Errors of kernels as Numba's own classes, where a program has imported those."""

from __future__ import annotations

import sys

import pytest

from bitfusion import cuda
from bitfusion.cuda import numba_errors
from bitfusion.errors import KernelCompileError, KernelSourceError

errors = pytest.importorskip("numba.core.errors")


def attribute(values):
    values[0] = values.nothing


def undefined(values):
    values[0] = floor(values[0])  # noqa: F821 (that is what is tested)


@pytest.mark.parametrize(("kernel", "ours"), [(attribute, KernelCompileError), (undefined, KernelSourceError)])
def test_a_program_catches_numba_s_class(client, kernel, ours):
    with pytest.raises(errors.TypingError) as caught:
        cuda.jit("void(float32[:])")(kernel)
    assert isinstance(caught.value, ours) and caught.value.msg == caught.value.message == str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("LoweringError", "LoweringError"),
        ("NameError", "TypingError"),
        ("sys", "TypingError"),
        ("__builtins__", "TypingError"),
        ("NumbaWarning", "TypingError"),
        (3, "TypingError"),
        (None, "TypingError"),
    ],
)
def test_a_worker_names_classes_of_numba_s_tree_only(name, expected):
    joined = numba_errors.as_numbas(KernelCompileError("text", exception=name))
    assert isinstance(joined, KernelCompileError) and str(joined) == "text"
    assert isinstance(joined, getattr(errors, expected))


def test_without_numba_it_is_what_it_was(monkeypatch):
    for module in numba_errors.MODULES:
        monkeypatch.delitem(sys.modules, module, raising=False)
    error = KernelCompileError("text", exception="TypingError")
    assert numba_errors.as_numbas(error) is error
    assert isinstance(error, numba_errors.TypingError)


def test_one_class_under_two_names(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba.cuda.core.errors", errors)
    assert isinstance(numba_errors.as_numbas(KernelCompileError("text", exception="TypingError")), errors.TypingError)


@pytest.mark.parametrize("options", [{"debug": True, "opt": True}, {"debug": True, "lineinfo": True}])
def test_options_that_exclude_each_other(options):
    with pytest.warns(errors.NumbaInvalidConfigWarning, match="debug"):
        cuda.jit(**options)(attribute)
