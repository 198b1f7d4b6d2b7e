"""The benchmark of the virtual GPU: its kernels are right, and its command writes what it says."""

from __future__ import annotations

import json

import pytest

from benchmarks import virtual_gpu
from benchmarks.virtual.cases import MAKERS, make_case
from benchmarks.virtual.gpu import Gpu, to_ptx


@pytest.fixture(scope="module")
def gpu():
    gpu = Gpu()
    yield gpu
    gpu.device.close()


@pytest.mark.parametrize("name", MAKERS)
def test_a_kernel_gives_the_answer_of_numpy(gpu, name):
    case = make_case(name, quick=True)
    launch, answer = gpu.prepare(case, to_ptx(case))
    launch()
    case.check(answer(), "the virtual GPU")
    launch()
    case.check(answer(), "the virtual GPU, launched again")


def test_the_command_writes_its_figures(tmp_path, capsys):
    virtual_gpu.main(
        ["--quick", "--only", "saxpy", "--json", str(tmp_path / "out/a.json"), "--plot", str(tmp_path / "a.png")]
    )
    assert "saxpy" in capsys.readouterr().out
    (case,) = json.loads((tmp_path / "out/a.json").read_text())["cases"]
    assert set(case["ms"]) == {*virtual_gpu.CHECKS, "njit", "numpy"}
    assert all(spread["best"] <= spread["p50"] <= spread["p99"] for spread in case["ms"].values())
    assert case["compile_ms"]["disk"] < case["compile_ms"]["code"]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_kernel_is_refused_by_name(capsys):
    with pytest.raises(SystemExit):
        virtual_gpu.main(["--only", "sapxy"])
    assert "there is no sapxy" in capsys.readouterr().err
