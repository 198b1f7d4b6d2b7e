"""The allow-list against what Numba has: nothing on it is missing, and nothing on it acts on the host."""

from __future__ import annotations

import builtins
import importlib

import pytest
from numba.cuda import types as numba_types

from bitfusion.kernels import compiler, names


@pytest.fixture(scope="module")
def typing_context():
    from numba.cuda.descriptor import cuda_target

    compiler.warm()
    cuda_target.typing_context.refresh()
    return cuda_target.typing_context


PATHS = [f"{namespace}.{word}" for namespace, words in names.NAMESPACES.items() for word in sorted(words)]


def test_every_name_is_one_that_numba_can_type(typing_context):
    missing = []
    for path in PATHS:
        if names.type_name(path) is not None:
            if not hasattr(numba_types, names.TYPE_NAMES[names.type_name(path)].name.replace("bool", "boolean")):
                missing.append(path)
            continue
        module = names.module_of(path)
        kind = numba_types.Module(importlib.import_module(module))
        for attribute in path.removeprefix(f"{module}.").split("."):
            if path == "numba.cuda.warpsize":  # typed where it is lowered
                break
            kind = typing_context.resolve_getattr(kind, attribute) if kind is not None else None
        if kind is None:
            missing.append(path)
    assert not missing


@pytest.mark.parametrize("path", [f"numba.cuda.{name}.{axis}" for name in ("threadIdx", "gridDim") for axis in "xyz"])
def test_dimensions_have_members(path):
    assert names.is_allowed(path)
    assert names.module_of(path) == "numba.cuda"


OUTSIDE = (
    "os numba math cuda open numba.cuda numba.cuda.jit numba.cuda.to_device numba.cuda.shared numba.cuda.current_context numpy.load"
    " numpy.ctypeslib math.__doc__ operator.attrgetter operator.methodcaller operator.call numba.cuda.libdevice.__name__"
    " numba.cuda.libdevice._x numba.cuda.libdevice numba.cuda.libdevice.a.b numba.cuda.threadIdx.w numba.cuda.threadIdx.x.y"
    " numba.cuda.random.create_xoroshiro128p_states numba.core numba.extending.intrinsic"
)


@pytest.mark.parametrize("path", ["", ".", "math.", ".sin", *OUTSIDE.split()])
def test_what_acts_on_the_host_is_not_allowed(path):
    assert not names.is_allowed(path)


def test_libdevice_has_nothing_but_device_functions():
    from numba.cuda import libdevice

    public = [value for name, value in vars(libdevice).items() if not name.startswith("_")]
    assert len(public) > 300
    assert {value.__module__ for value in public} == {"numba.cuda.libdevice"}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("bitfusion.cuda", "numba.cuda"),
        ("bitfusion.cuda.random", "numba.cuda.random"),
        ("numba.literal_unroll", "numba.cuda.misc.special.literal_unroll"),
        ("bitfusion.kernels.types", "numba.types"),
        ("bitfusion.cudas", "bitfusion.cudas"),
        ("math", "math"),
    ],
)
def test_modules_have_one_name(path, name):
    assert names.canonical(path) == name


HOST = "open exec eval compile input getattr setattr delattr vars globals locals type object __import__ memoryview breakpoint"


def test_builtins_are_pythons_own():
    assert all(hasattr(builtins, name) for name in names.BUILTINS)
    assert not names.BUILTINS & set(HOST.split())
