"""What is measured: for each kernel its data, its grid, and the same maths for Numba on the CPU and in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.virtual import compiled, kernels, plain
from benchmarks.virtual.kernels import BINS, THREADS, TILE
from bitfusion.cuda.random import init_xoroshiro128p_states_cpu, xoroshiro128p_dtype

Array = NDArray[Any]
Answer = Callable[[], Array]

REDUCTION_BLOCKS = 512
"""Of kernels whose threads stride over the data."""


@dataclass(frozen=True, slots=True)
class Case:
    """``kernel`` on ``arguments``; the one at ``output`` is its result, and ``finish`` makes the answer of it.

    ``renewed``: arguments that a launch changes, so that they are written again before each. ``njit`` and ``numpy`` give the same answer.
    """

    name: str
    what: str
    kernel: Callable[..., None]
    grid: Sequence[int]
    block: Sequence[int]
    arguments: Sequence[Any]
    njit: Answer
    numpy: Answer
    output: int = -1
    finish: Callable[[Array], Array] = lambda result: result
    renewed: Sequence[int] = ()
    tolerance: float = 0.0

    def check(self, answer: Array, who: str) -> None:
        """AssertionError if the answer is not NumPy's."""
        wanted = self.numpy()
        np.testing.assert_allclose(
            answer,
            wanted,
            rtol=self.tolerance,
            atol=self.tolerance * float(np.abs(wanted).max()),
            err_msg=f"{self.name}, {who}",
        )


def make_case(name: str, quick: bool) -> Case:
    """The case of that name with its data; a small one if ``quick``."""
    return MAKERS[name](quick, np.random.default_rng(7))


def _saxpy(quick: bool, random: np.random.Generator) -> Case:
    size = (1 << 14 if quick else 1 << 24) - 3  # the last row of threads is not full
    a, (x, y), out = np.float32(1.5), random.standard_normal((2, size), np.float32), np.zeros(size, np.float32)
    mine, other = out.copy(), out.copy()
    return Case(
        "saxpy",
        f"{size:,} elements",
        kernels.saxpy,
        (-(-size // THREADS),),
        (THREADS,),
        (a, x, y, out),
        njit=lambda: _filled(compiled.saxpy, a, x, y, mine),
        numpy=lambda: plain.saxpy(a, x, y, other),
        tolerance=1e-6,
    )


def _stencil(quick: bool, random: np.random.Generator) -> Case:
    side = 100 if quick else 4000
    source = random.standard_normal((side, side), np.float32)
    target = np.zeros_like(source)
    mine, other = target.copy(), target.copy()
    return Case(
        "stencil",
        f"{side} x {side}, 5 points",
        kernels.stencil,
        (-(-side // 32), -(-side // 8)),
        (32, 8),
        (source, target),
        njit=lambda: _filled(compiled.stencil, source, mine),
        numpy=lambda: plain.stencil(source, other),
        tolerance=1e-6,
    )


def _matmul(quick: bool, random: np.random.Generator) -> Case:
    side = 40 if quick else 1024
    a, b = random.standard_normal((2, side, side), np.float32)
    c = np.zeros_like(a)
    mine, other = c.copy(), c.copy()
    blocks = -(-side // TILE)
    return Case(
        "matmul",
        f"{side} x {side}, tiles of {TILE}",
        kernels.matmul,
        (blocks, blocks),
        (TILE, TILE),
        (a, b, c),
        njit=lambda: _filled(compiled.matmul, a, b, mine),
        numpy=lambda: np.matmul(a, b, out=other),
        tolerance=1e-4,
    )


def _reduction(kernel: Callable[..., None]) -> Callable[[bool, np.random.Generator], Case]:
    def make(quick: bool, random: np.random.Generator) -> Case:
        size = 1 << (15 if quick else 24)
        x = random.random(size, np.float32)
        blocks = 4 if quick else REDUCTION_BLOCKS
        return Case(
            kernel.__name__,
            f"{size:,} elements",
            kernel,
            (blocks,),
            (THREADS,),
            (x, np.zeros(blocks, np.float32)),
            njit=lambda: np.asarray(compiled.total(x)),
            numpy=lambda: np.asarray(x.sum()),
            finish=lambda partial: np.asarray(partial.sum()),
            tolerance=1e-4,
        )

    return make


def _histogram(kernel: Callable[..., None]) -> Callable[[bool, np.random.Generator], Case]:
    def make(quick: bool, random: np.random.Generator) -> Case:
        size = 1 << (14 if quick else 24)
        values = random.integers(0, BINS, size).astype(np.uint8)
        return Case(
            kernel.__name__,
            f"{size:,} bytes",
            kernel,
            (4 if quick else REDUCTION_BLOCKS,),
            (THREADS,),
            (values, np.zeros(BINS, np.int32)),
            njit=lambda: np.asarray(compiled.histogram(values)),
            numpy=lambda: np.bincount(values, minlength=BINS),
            renewed=(1,),
        )

    return make


def _monte_carlo(quick: bool, random: np.random.Generator) -> Case:
    threads = 512 if quick else 1 << 14
    states = np.empty(threads, xoroshiro128p_dtype)
    init_xoroshiro128p_states_cpu(states, 11)
    first, second = states["s0"].copy(), states["s1"].copy()
    mine = np.zeros(threads, np.int32)
    return Case(
        "monte_carlo",
        f"{threads:,} threads of {kernels.DRAWS} points",
        kernels.monte_carlo,
        (threads // THREADS,),
        (THREADS,),
        (states, np.zeros(threads, np.int32)),
        njit=lambda: _filled(compiled.monte_carlo, first, second, mine).sum(keepdims=True),
        numpy=lambda: plain.monte_carlo(first, second).sum(keepdims=True),
        finish=lambda hits: hits.sum(keepdims=True),
        renewed=(0,),
        tolerance=1e-6,  # fma or not decides about points on the circle
    )


def _n_body(quick: bool, random: np.random.Generator) -> Case:
    count = 512 if quick else 8192
    x, y, z = random.standard_normal((3, count), np.float32)
    mass = random.random(count, np.float32)
    results = np.zeros((3, count), np.float32)
    mine = results.copy()
    return Case(
        "n_body",
        f"{count:,} bodies",
        kernels.n_body,
        (count // THREADS,),
        (THREADS,),
        (x, y, z, mass, *results),
        njit=lambda: _filled(compiled.n_body, x, y, z, mass, mine)[0],
        numpy=lambda: plain.n_body(x, y, z, mass),
        output=4,
        tolerance=1e-4,
    )


def _filled(function: Callable[..., None], *arguments: Any) -> Array:
    """The last argument, after the function has filled it."""
    function(*arguments)
    result: Array = arguments[-1]
    return result


MAKERS: dict[str, Callable[[bool, np.random.Generator], Case]] = {
    "saxpy": _saxpy,
    "stencil": _stencil,
    "matmul": _matmul,
    "reduce_tree": _reduction(kernels.reduce_tree),
    "reduce_shuffles": _reduction(kernels.reduce_shuffles),
    "histogram_global": _histogram(kernels.histogram_global),
    "histogram_shared": _histogram(kernels.histogram_shared),
    "monte_carlo": _monte_carlo,
    "n_body": _n_body,
}
"""By the names that ``--only`` takes."""
