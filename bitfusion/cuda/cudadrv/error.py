"""The exceptions of numba.cuda's drivers: classes of bitfusion's tree, so that ``except CudaAPIError`` catches what it is meant for.

Their attributes are bitfusion's: ``message``, ``name`` (CUDA's name of the error), ``details``; ``code`` is the code on the wire.
"""

from __future__ import annotations

from bitfusion.errors import ConnectError, DeviceError, KernelCompileError

CudaDriverError = CudaRuntimeError = CudaAPIError = DeviceError
CudaSupportError = NvvmSupportError = NvrtcSupportError = ConnectError
NvvmError = NvrtcError = NvrtcCompilationError = LinkerError = KernelCompileError


class NvvmWarning(Warning):
    """Never given here: the compiler is the appliance's."""


class CCSupportError(RuntimeError):
    """Never raised here: the appliance offers the GPUs it compiles for."""


class DeadMemoryError(RuntimeError):
    """Never raised here: freed memory is an InvalidAddressError."""
