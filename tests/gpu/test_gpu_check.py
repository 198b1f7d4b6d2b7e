"""scripts/gpu_check.py: what it says without a GPU, and that one part's failure is recorded and nothing more."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitfusion.device.discovery import find_gpus
from tests.processes import ends

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_check.py"
REHEARSAL = argparse.Namespace(devices="virtual:1x256MiB", quick=True, skip_tests=True, json=None)


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = sys.modules["gpu_check"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_gpu_it_says_so_and_ends_with_its_own_code():
    gpus, reason = find_gpus()
    if gpus:
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3 and not done.stdout
    assert "no NVIDIA GPU" in done.stderr and reason in done.stderr


def test_a_part_is_measured(check):
    part = next(part for part in check.PARTS if part.name == "sessions")
    figures = check._run(part, REHEARSAL)
    assert figures["status"] == "ok", figures
    assert figures["first_kernel_ms"]["p50"] > 0 and figures["allocate_ms"] > 0
    assert json.loads(json.dumps(figures)) == figures
    assert all(isinstance(line, str) for line in check._session_lines(figures))


def test_failures_are_recorded(check):
    def part(code, limit_s=60, needs=()):
        return check.Part("broken", limit_s, needs, lambda options, out: [sys.executable, "-c", code])

    figures = check._run(part("import sys; print('the reason'); sys.exit(7)"), REHEARSAL)
    assert figures["status"] == "failed" and "7" in figures["reason"] and "the reason" in figures["said"]
    figures = check._run(part("pass"), REHEARSAL)
    assert figures["status"] == "failed", "it wrote no figures"
    figures = check._run(part("pass", needs=("no_such_module", "no.such.module")), REHEARSAL)
    assert figures == {"status": "left out", "reason": "no_such_module, no.such.module not installed"}


def test_beyond_its_limit_a_part_ends_with_all_it_started(check, tmp_path):
    note = tmp_path / "pid"
    child = "import signal; signal.pause()"
    code = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {child!r}])
open({str(note)!r}, "w").write(str(child.pid))
child.wait()
"""
    hung = check.Part("hung", 2, (), lambda options, out: [sys.executable, "-c", code])
    figures = check._run(hung, REHEARSAL)
    assert figures["status"] == "failed" and "2 s" in figures["reason"]
    assert ends(int(note.read_text())), "what the part started runs on"


JUNIT = """<testsuites><testsuite name="pytest" errors="1" failures="1" skipped="2" tests="6">
<testcase classname="tests.gpu.a" name="one"/><testcase classname="tests.gpu.a" name="two"/>
<testcase classname="tests.gpu.a" name="three"><failure message="AssertionError: no&#10;more">text</failure></testcase>
<testcase classname="tests.gpu.a" name="four"><error message="it did not start">text</error></testcase>
<testcase classname="tests.gpu.a" name="five"><skipped message="why"/></testcase>
<testcase classname="tests.gpu.a" name="six"><skipped message="why"/></testcase>
</testsuite></testsuites>"""


def test_pytests_results_are_read(check, tmp_path):
    path = tmp_path / "tests.out"
    path.write_text(JUNIT)
    figures = check._junit(path)
    assert (figures["passed"], figures["failed"], figures["skipped"]) == (2, 2, 2)
    assert figures["failures"] == {
        "tests.gpu.a.three": "AssertionError: no\nmore",
        "tests.gpu.a.four": "it did not start",
    }
    assert len(list(check._test_lines(figures))) == 3


def test_the_limits_leave_it_well_inside_ten_minutes(check):
    assert sum(part.limit_s for part in check.PARTS) <= 480


def test_pythonpath_reaches_the_parts(check):
    code, said = check._limited(
        [sys.executable, "-c", "import bitfusion, benchmarks.gpu; print(bitfusion.__file__)"], 60
    )
    assert code == 0 and str(SCRIPT.parents[1]) in said, os.environ.get("PYTHONPATH")


def test_the_stand_in_for_scikit_learn_looks_like_the_digits():
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    spec = importlib.util.spec_from_file_location(
        "stand_in", SCRIPT.parents[1] / "benchmarks" / "gpu" / "stand_in" / "sklearn" / "datasets.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = module.load_digits()
    assert made.data.shape == digits.data.shape and made.target.shape == digits.target.shape
    assert (made.data.min(), made.data.max()) == (digits.data.min(), digits.data.max())
    assert set(made.target) == set(digits.target)
