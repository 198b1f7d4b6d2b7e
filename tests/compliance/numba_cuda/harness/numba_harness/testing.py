"""What numba-cuda's tests take from ``numba.cuda.testing``: a test case, and the conditions under which tests skip themselves.

Written anew for a leased GPU: conditions about the driver's files on this machine hold if a client could meet them, and it cannot.
"""

from __future__ import annotations

import io
import unittest
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import config
from numba.cuda.tests.support import TestCase

from bitfusion import cuda
from numba_harness.finder import wheel

__all__ = ["CUDATestCase", "ForeignArray", "test_data_dir", "unittest"]

test_data_dir = wheel() / "tests" / "data"

Decorator = Callable[[Any], Any]
QUIET = ("CUDA_LOW_OCCUPANCY_WARNINGS", "CUDA_WARN_ON_IMPLICIT_COPY")
"""Warnings about how kernels are launched, which tests want only where they test them."""


class CUDATestCase(TestCase):
    """A test with a GPU; what the compiler made can be held against a FileCheck text."""

    FLOAT16_RTOL = np.finfo(np.float16).eps

    def setUp(self) -> None:
        self._were = {name: getattr(config, name) for name in QUIET}
        for name in QUIET:
            setattr(config, name, 0)

    def tearDown(self) -> None:
        for name, value in self._were.items():
            setattr(config, name, value)

    def assertFileCheckAsm(
        self, kernel: Any, signature: Any = None, check_prefixes: Any = ("ASM",), **options: Any
    ) -> None:
        self._check_all(kernel.inspect_asm(), signature, kernel.__doc__, check_prefixes, options)

    def assertFileCheckLLVM(
        self, kernel: Any, signature: Any = None, check_prefixes: Any = ("LLVM",), **options: Any
    ) -> None:
        self._check_all(kernel.inspect_llvm(), signature, kernel.__doc__, check_prefixes, options)

    def _check_all(self, made: Any, signature: Any, patterns: str, prefixes: Any, options: dict[str, Any]) -> None:
        texts = [made] if isinstance(made, str) else [made[signature]] if signature else list(made.values())
        assert texts and all(texts), "the compiler gave no text to look at"
        for text in texts:
            self.assertFileCheckMatches(text, patterns, prefixes, **options)

    def assertFileCheckMatches(
        self, ir_content: str, check_patterns: str, check_prefixes: Any = ("CHECK",), **options: Any
    ) -> None:
        try:
            from filecheck.finput import FInput
            from filecheck.matcher import Matcher
            from filecheck.options import Options
            from filecheck.parser import Parser, pattern_for_opts
        except ImportError:
            self.skipTest("the package filecheck is not installed")
        chosen = Options(match_filename="-", check_prefixes=list(check_prefixes), **options)
        parser = Parser(chosen, io.StringIO(check_patterns), *pattern_for_opts(chosen))
        matcher = Matcher(chosen, FInput(fname="-", content=ir_content), parser)
        matcher.stderr = io.StringIO()
        if matcher.run():
            self.fail(f"FileCheck: {matcher.stderr.getvalue()}\nin\n{ir_content}")


class ForeignArray:
    """An array as another library's: only its ``__cuda_array_interface__`` can be seen."""

    def __init__(self, array: Any) -> None:
        self._arr = array
        self.__cuda_array_interface__ = array.__cuda_array_interface__


def cc_X_or_above(major: int, minor: int) -> bool:
    return cuda.get_current_device().compute_capability >= (major, minor)


def _unless_capability(major: int, minor: int) -> Decorator:
    def decorate(test: Any) -> Any:
        """Asked when the decorator is applied, as the module is loaded: that opens the session."""
        return unittest.skipUnless(cc_X_or_above(major, minor), f"requires cc >= {major}.{minor}")(test)

    return decorate


def _never(reason: str) -> Decorator:
    """For conditions that never hold here: not the simulator, not ARM, no other memory manager; what links is the appliance's business."""
    assert isinstance(reason, str)
    return lambda test: test


def _here(test: Any) -> Any:
    """For what tests do without if it is missing from the client's machine, and a client of an appliance never needs there; and what
    numba-cuda cannot do and we can.
    """
    return test


skip_on_cudasim = skip_if_external_memmgr = skip_under_cuda_memcheck = skip_on_arm = skip_on_wsl2 = _never
skip_on_nvjitlink_13_1_sm_120 = skip_with_nvdisasm = skip_if_nvjitlink_missing = _never
skip_unless_cudasim = skip_unless_conda_cudatoolkit = skip_without_nvdisasm = unittest.skip
skip_on_standalone_numba_cuda = skip_if_cuda_includes_missing = skip_if_cudadevrt_missing = _here
xfail_unless_cudasim = _here
skip_if_curand_kernel_missing = unittest.skip("curand_kernel.h is not among the packages that are installed")

skip_unless_cc_50 = _unless_capability(5, 0)
skip_unless_cc_53 = _unless_capability(5, 3)
skip_unless_cc_60 = _unless_capability(6, 0)
skip_unless_cc_75 = _unless_capability(7, 5)
skip_unless_cc_90 = _unless_capability(9, 0)
