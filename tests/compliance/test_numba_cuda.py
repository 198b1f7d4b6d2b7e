"""numba-cuda's own tests pass on ``bitfusion.cuda``, but for those on the list (numba_cuda/skipped.toml), which can only shrink.

Here each of its modules is a test, for the documentation's examples and a part of the rest. ``python -m tests.compliance.numba_cuda`` runs
all, or any selection, and says more.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.appliance import Appliance
from tests.compliance.numba_cuda import modules, processes, skipped
from tests.compliance.numba_cuda.__main__ import DEVICES
from tests.compliance.numba_cuda.outcome import Outcome, Verdict, counted

LISTED_MAX = 375
"""How many entries the list may have. When one goes, this goes down with it; nothing makes it go up."""

PART = """
    array_args array_methods boolean complex_kernel const_string constmem cooperative_groups cuda_jit_no_types device_array_capture
    device_func dispatcher enums errors exception fastmath flow_control forall freevar globals gufunc_scalar inspect intrinsics iterators
    lang laplace localmem montecarlo multithreads print py2_div_issue random recursion reduction serialize slicing sm sm_creation
    stream_api sync transpose userexc vectorize_decor warning warp_ops
"""
"""Of cudapy: some of everything, and what takes long left out. ``make compliance`` runs all."""

MODULES = [
    name
    for name in modules.shipped()
    if name.startswith("doc_examples.") or name.removeprefix("cudapy.test_") in PART.split()
]


@pytest.fixture(scope="module")
def outcomes(request, tmp_path_factory):
    """A function that waits for a module's outcomes. All modules that are asked for run side by side, one for each core."""
    wanted = [
        item.callspec.params["module"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec") and "module" in item.callspec.params
    ]
    with (
        Appliance(DEVICES, tmp_path_factory.mktemp("compliance")) as appliance,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        place = processes.Place(appliance.address)
        running = {name: pool.submit(processes.run, name, place) for name in wanted}
        yield lambda name: running[name].result()
        for left in running.values():
            left.cancel()
    done = [outcome for module in running.values() if not module.cancelled() for outcome in module.result()]
    request.config.pluginmanager.get_plugin("terminalreporter").write_line(
        f"\n{counted(done)} of numba-cuda's own tests"
    )


@pytest.mark.parametrize("module", MODULES)
def test_module(module, outcomes):
    found = list(skipped.complaints(module, outcomes(module), skipped.read()))
    assert not found, "\n".join(found)


def test_the_list_only_shrinks():
    entries = skipped.read()
    assert len(entries) == LISTED_MAX, f"{len(entries)} entries: LISTED_MAX must say the same, and may only go down"
    names = Counter(entry.name for entry in entries)
    assert not [name for name, count in names.items() if count > 1]
    every = modules.shipped()
    assert not [entry.name for entry in entries if not any(entry.is_of(module) for module in every)]


ENTRIES = [skipped.Entry("m.test_a.C.test_bad", "private-api", "x"), skipped.Entry("m.test_b", "private-api", "x")]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"C.test_bad": "failed", "C.test_good": "passed", "C.test_not": "skipped"}, ""),
        ({"C.test_bad": "passed"}, "m.test_a.C.test_bad is on the list, and it is passed: remove it"),
        ({"C.test_bad": "skipped"}, "m.test_a.C.test_bad is on the list, and it is skipped: remove it"),
        ({"C.test_bad": "error", "C.test_new": "failed"}, "m.test_a.C.test_new: failed: why"),
        ({"C.test_good": "passed"}, "there is no such test"),
    ],
)
def test_outcomes_are_held_against_the_list(found, said):
    outcomes = [Outcome(f"m.test_a.{name}", Verdict(verdict), reason="why") for name, verdict in found.items()]
    complaints = list(skipped.complaints("m.test_a", outcomes, ENTRIES))
    assert len(complaints) == bool(said) and said in "".join(complaints)


def test_a_module_that_can_be_loaded_leaves_the_list():
    outcomes = [Outcome("m.test_b.C.test_x", Verdict.PASSED)]
    assert list(skipped.untrue("m.test_b", outcomes, ENTRIES)) == ["m.test_b"]
    for verdict in (Verdict.NOT_RUN, Verdict.LEFT_OUT):
        assert not skipped.untrue("m.test_b", [Outcome("m.test_b", verdict)], ENTRIES)


def test_the_list_is_shrunk(tmp_path):
    path = tmp_path / "skipped.toml"
    path.write_text('# head\n[toolkit]\n"a.b" = "x"\n"a.b.c" = "y"\n')
    skipped.shrink(["a.b"], path)
    assert path.read_text() == '# head\n[toolkit]\n"a.b.c" = "y"\n'
    skipped.shrink([], path)
    assert skipped.read(path) == [skipped.Entry("a.b.c", "toolkit", "y")]
