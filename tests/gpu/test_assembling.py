"""The kernels of these tests and of the example, compiled for real GPUs and assembled by NVIDIA's own ptxas; needs no GPU."""

from __future__ import annotations

import importlib.util
from hashlib import sha256
from pathlib import Path

import pytest

pytest.importorskip("cuda.bindings.nvjitlink")

from bitfusion.device.cooperative import defined
from bitfusion.device.cuda_module import _assemble
from bitfusion.kernels.packing import Packer
from bitfusion.kernels.signatures import encode
from bitfusion.kernels.source import capture
from bitfusion.kernels.types import float32, float64, int32, int64, void
from bitfusion.worker.kernels import Kernels
from tests.gpu import test_kernels as here

KERNELS = [
    (here.saxpy, void(float32, float32[::1], float32[::1], float32[::1])),
    (here.matmul, void(float32[:, ::1], float32[:, ::1], float32[:, ::1])),
    (here.block_sums, void(float64[::1], float64[::1])),
    (here.histogram, void(int32[::1], int64[::1], int32[::1])),
    (here.lengths, void(float64[:, :], float64[::1])),
    (here.reverse, void(int32[::1])),
    (here.neighbours, void(int32[::1], int32[::1])),
    (here.far, void(float64[::1], int64)),
]


def compiled(kernel, signature, capability):
    source = capture(kernel.py_func).data
    digest, kernels = sha256(source).digest(), Kernels(None)
    kernels.add_source(digest, source)
    made, _ = kernels.compile(digest, encode(signature), {}, capability)
    return made.ptx, made.entry


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (10, 0)])
@pytest.mark.parametrize(("kernel", "signature"), KERNELS, ids=[kernel.__name__ for kernel, _ in KERNELS])
def test_kernels_assemble(kernel, signature, capability):
    ptx, entry = compiled(kernel, signature, capability)
    assert _assemble(defined(ptx), capability).startswith(b"\x7fELF")
    assert f".entry {entry}(".encode() in ptx
    assert ptx[ptx.index(b".entry") :].partition(b"{")[0].count(b".param") == len(Packer(signature).parameters)


def test_the_examples_kernels_assemble():
    place = Path(__file__).resolve().parents[2] / "examples" / "train_digits.py"
    if importlib.util.find_spec("sklearn") is None:
        pytest.skip("the example needs scikit-learn")
    spec = importlib.util.spec_from_file_location("train_digits", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    matrix = float32[:, ::1]
    signatures = {
        "matmul_bias": void(matrix, matrix, float32[::1], matrix, int32),
        "matmul_back": void(matrix, matrix, matrix, matrix),
        "matmul_into_weights": void(matrix, matrix, matrix, float32),
        "softmax_error": void(matrix, int32[::1], matrix, float32[::1]),
        "bias_step": void(matrix, float32[::1], float32),
    }
    for name, signature in signatures.items():
        ptx, _ = compiled(getattr(module, name), signature, (9, 0))
        assert _assemble(ptx, (9, 0)).startswith(b"\x7fELF")
