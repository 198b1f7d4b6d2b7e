"""numba.cuda.errors: what numba.cuda raises of its own, as bitfusion's classes (cudadrv/error.py says more)."""

from __future__ import annotations

from bitfusion.errors import KernelCompileError, KernelRaisedError, KernelSourceError

KernelRuntimeError = KernelRaisedError
CudaLoweringError = LoweringError = KernelCompileError
UnsupportedBytecodeError = KernelSourceError
