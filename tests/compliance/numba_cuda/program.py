"""Runs in a process of its own: one module's tests, a line of JSON for each as it starts and as it ends.

Usage: program.py FD MODULE [TEST ...], where the tests are left out. Plain test functions and pytest's marks for single tests count too.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import sys
import time
import traceback
import unittest
from collections.abc import Iterator
from typing import Any

import pytest

PREFIX = "numba.cuda.tests."


class Result(unittest.TestResult):
    """Writes what becomes of every test. A test counts once, whatever its subtests do."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream

    def startTest(self, test: Any) -> None:
        super().startTest(test)
        self._started, self._verdict, self._error = time.perf_counter(), "passed", None
        self._say(test, "started")

    def stopTest(self, test: Any) -> None:
        super().stopTest(test)
        self._say(test, self._verdict, seconds=time.perf_counter() - self._started, **(self._error or {}))
        if self._verdict in ("failed", "error"):
            start_afresh()

    def _fixture(self, holder: Any, verdict: str, **more: Any) -> None:
        """What befell the set-up of a class or module: reported under its own name, as its tests are not run."""
        self._say(holder, verdict, **more)

    def addFailure(self, test: Any, err: Any) -> None:
        self._note("failed", err)

    def addError(self, test: Any, err: Any) -> None:
        verdict = "skipped" if issubclass(err[0], pytest.skip.Exception) else "error"
        if isinstance(test, unittest.TestCase):
            self._note(verdict, err)
        else:
            self._fixture(test, verdict, **described(*err))

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        if err is not None:
            self._note("failed" if issubclass(err[0], test.failureException) else "error", err)

    def addSkip(self, test: Any, reason: str) -> None:
        if isinstance(test, unittest.TestCase):
            self._verdict, self._error = "skipped", {"reason": reason}
        else:
            self._fixture(test, "skipped", reason=reason)

    def addUnexpectedSuccess(self, test: Any) -> None:
        self._verdict, self._error = "failed", {"reason": "it was expected to fail and passed"}

    def _note(self, verdict: str, err: Any) -> None:
        if self._error is None:
            self._verdict, self._error = verdict, described(*err)

    def _say(self, test: Any, verdict: str, **more: Any) -> None:
        self._stream.write(json.dumps({"test": identity(test), "verdict": verdict, **more}) + "\n")
        self._stream.flush()


def identity(test: Any) -> str:
    return getattr(test, "_function_id", None) or test.id().removeprefix(PREFIX)


def described(kind: Any, error: Any, trace: Any) -> dict[str, str]:
    """One line, and the traceback."""
    lines = str(error).strip().splitlines() or [""]
    detail = "".join(traceback.format_exception(kind, error, trace))
    return {"reason": f"{kind.__name__}: {lines[0]}"[:400], "detail": detail[-8000:]}


def start_afresh() -> None:
    """A test that failed may have left a broken session: the next one opens another."""
    from bitfusion import cuda

    try:
        cuda.close()
    except Exception:  # whatever it was, it has been reported with the test
        traceback.print_exc()


def tests_of(module: Any) -> Iterator[Any]:
    """Every test of a module, in unittest's order, then its plain functions."""
    yield from flattened(unittest.defaultTestLoader.loadTestsFromModule(module))
    for name, function in vars(module).items():
        if name.startswith("test_") and inspect.isfunction(function) and not inspect.signature(function).parameters:
            case = unittest.FunctionTestCase(function)
            case._function_id = f"{module.__name__.removeprefix(PREFIX)}.{name}"
            yield case


def flattened(suite: Any) -> Iterator[Any]:
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from flattened(test)
        else:
            yield marked(test)


def marked(test: Any) -> Any:
    """A test with pytest's ``xfail`` on it is one that unittest expects to fail, if its condition holds."""
    method = getattr(test, getattr(test, "_testMethodName", ""), None)
    for mark in getattr(method, "pytestmark", ()):
        if mark.name == "xfail" and all(mark.args):
            expected = functools.partial(method)
            expected.__unittest_expecting_failure__ = True  # type: ignore[attr-defined]  # unittest's own mark
            setattr(test, test._testMethodName, expected)
    return test


def main() -> None:
    number, name, *left_out = sys.argv[1:]
    with os.fdopen(int(number), "w") as stream:
        try:
            module = importlib.import_module(name)
        except (unittest.SkipTest, pytest.skip.Exception) as reason:
            stream.write(
                json.dumps({"test": name.removeprefix(PREFIX), "verdict": "skipped", "reason": str(reason)}) + "\n"
            )
            return
        except Exception as error:
            said = described(type(error), error, error.__traceback__)
            stream.write(json.dumps({"test": name.removeprefix(PREFIX), "verdict": "not run", **said}) + "\n")
            return
        suite = unittest.TestSuite(test for test in tests_of(module) if identity(test) not in left_out)
        suite.run(Result(stream))
        stream.write(json.dumps({"test": name.removeprefix(PREFIX), "verdict": "done"}) + "\n")


if __name__ == "__main__":
    main()
