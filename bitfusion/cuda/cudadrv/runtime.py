"""numba.cuda.cudadrv.runtime: CUDA's runtime library, which is the appliance's."""

from __future__ import annotations

from typing import NoReturn

from bitfusion.cuda.cudadrv.error import CudaRuntimeError
from bitfusion.cuda.devices import is_supported_version
from bitfusion.cuda.refused import refuse

__all__ = ["CudaRuntimeError", "Runtime", "runtime"]


class Runtime:
    """What programs ask about it."""

    def get_version(self) -> NoReturn:
        """UnsupportedError: there is none here, and the appliance's is not said."""
        refuse(
            "there is no CUDA runtime on this machine, and which one the appliance uses it does not say",
            "runtime version",
        )

    def is_supported_version(self) -> bool:
        """Yes."""
        return is_supported_version()


runtime = Runtime()
