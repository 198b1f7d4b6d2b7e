"""The cuda device's calls against the installed cuda-bindings: names, numbers of arguments, shapes of results; and nvJitLink.

Needs no GPU and no driver: it reads the code and asks the bindings. That the calls do the right thing is tests/gpu's business.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

pytest.importorskip("cuda.bindings.driver")

from bitfusion.device import cuda_driver
from bitfusion.device.cuda_driver import CLASSES, DRIVER_VERSION_MIN, FAULTS, driver
from bitfusion.device.cuda_module import _assemble
from bitfusion.errors import InvalidValueError, UnsupportedError
from tests.gpu.images import ADD, FAULT, FOREVER

FILES = sorted(Path(cuda_driver.__file__).parent.glob("cuda*.py"))
STARRED = {"grid": 3, "block": 3, "self._range": 2}
"""How many arguments the starred names of launches and of cuMemAddressFree stand for."""


def nodes(kind):
    return [
        (path.name, node) for path in FILES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kind)
    ]


def chain(node):
    """``driver.a.b`` as ["a", "b"]; None for anything else."""
    names = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return names if isinstance(node, ast.Name) and node.id == "driver" and names else None


def calls():
    return [(name, node, chain(node.func)[0]) for name, node in nodes(ast.Call) if chain(node.func)]


def outputs(function):
    """How many values a function of the driver returns, the CUresult included: its docstring lists them."""
    returns = getattr(driver, function).__doc__.split("Returns\n")[1].split("See Also")[0]
    return 1 + len(re.findall(r"^\s*\w+ : ", returns, re.MULTILINE))


def test_there_is_something_to_check():
    assert len(FILES) >= 5 and len(calls()) > 40


def test_every_name_exists():
    for file, node in nodes(ast.Attribute):
        value = driver
        for name in chain(node) or []:
            assert hasattr(value, name), f"{file}:{node.lineno}: cuda.bindings.driver has no {ast.unparse(node)}"
            value = getattr(value, name)


def test_every_call_has_as_many_arguments_as_the_function():
    for file, node, function in calls():
        if not function.startswith("cu"):
            continue  # a structure, made without arguments
        count = sum(
            STARRED[ast.unparse(argument.value)] if isinstance(argument, ast.Starred) else 1 for argument in node.args
        )
        parameters = re.match(rf"{function}\((.*)\)", getattr(driver, function).__doc__).group(1)
        expected = len(re.sub(r"\[.*?\]", "", parameters).split(",")) if parameters else 0
        assert count == expected and not node.keywords, f"{file}:{node.lineno}: {function}({parameters})"


def test_every_result_is_taken_apart_as_it_comes():
    seen = 0
    for file, node in nodes(ast.Assign):
        target, value = node.targets[0], node.value
        if isinstance(value, ast.Call) and chain(value.func) and isinstance(target, ast.Tuple):
            (function,) = chain(value.func)
            assert len(target.elts) == outputs(function), f"{file}:{node.lineno}: {function}"
            seen += 1
        if isinstance(value, ast.Call) and ast.unparse(value.func) == "check" and isinstance(value.args[0], ast.Call):
            (function,) = chain(value.args[0].func) or ("",)
            assert not function or outputs(function) == 2, f"{file}:{node.lineno}: {function} has not one value"
            seen += 1
    assert seen > 8


def test_every_result_that_is_named_exists():
    results = driver.CUresult.__members__
    named = {node.value for _, node in nodes(ast.Constant) if isinstance(node.value, str)}
    named = {name for name in named if re.fullmatch(r"CUDA_ERROR_\w+", name)}
    assert {*FAULTS, *CLASSES} <= named
    assert not named - set(results)
    assert int(driver.CUresult.CUDA_SUCCESS) == cuda_driver.SUCCESS


def test_every_attribute_asked_for_by_name_exists():
    asked = {
        node.args[1].value
        for _, node in nodes(ast.Call)
        if ast.unparse(node.func) == "_attribute" and isinstance(node.args[1], ast.Constant)
    }
    assert len(asked) == 5
    assert {f"CU_FUNC_ATTRIBUTE_{name}" for name in asked} <= set(driver.CUfunction_attribute.__members__)


def test_the_oldest_driver_has_the_newest_function_used():
    assert DRIVER_VERSION_MIN == 12040  # cuFuncGetParamInfo came with CUDA 12.4 (release notes, CUDA Driver API)


def test_the_welcome_has_room_for_all_attributes():
    from bitfusion.limits import HELLO_SIZE_MAX

    names = driver.CUdevice_attribute.__members__
    assert sum(len(name) - len("CU_DEVICE_ATTRIBUTE_") + 6 for name in names) < HELLO_SIZE_MAX // 2


@pytest.fixture
def nvjitlink():
    module = pytest.importorskip("cuda.bindings.nvjitlink")
    try:
        module.version()
    except RuntimeError as error:
        pytest.skip(f"no nvJitLink library: {error}")


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
@pytest.mark.parametrize("image", [ADD, FAULT, FOREVER])
@pytest.mark.usefixtures("nvjitlink")
def test_ptx_too_new_for_a_driver_becomes_a_cubin(image, capability):
    assert _assemble(image, capability).startswith(b"\x7fELF")


@pytest.mark.usefixtures("nvjitlink")
def test_what_does_not_assemble_says_why():
    with pytest.raises(InvalidValueError, match=r"mad.oops|oops") as caught:
        _assemble(ADD.replace(b"mad.lo.s32", b"mad.oops"), (9, 0))
    assert caught.value.cuda_name == "CUDA_ERROR_INVALID_PTX"
    with pytest.raises(UnsupportedError, match="update the driver"):
        _assemble(ADD, (1, 1))
