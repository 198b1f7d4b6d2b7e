"""What Numba's own ``vectorize`` and ``guvectorize`` ask for with ``target="cuda"``: the module numba.cuda.vectorizers."""

from __future__ import annotations

from bitfusion.cuda.gufunc import CUDAGUFuncVectorize
from bitfusion.cuda.ufunc import CUDAVectorize

__all__ = ["CUDAGUFuncVectorize", "CUDAVectorize"]
