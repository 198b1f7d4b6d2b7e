"""numba.cuda.cudadrv.runtime: which CUDA it is, which is the appliance's."""

from __future__ import annotations

from bitfusion.cuda.cudadrv.error import CudaRuntimeError
from bitfusion.cuda.current import current
from bitfusion.cuda.devices import is_supported_version
from bitfusion.cuda.refused import refuse

__all__ = ["CudaRuntimeError", "Runtime", "get_version", "runtime"]


class Runtime:
    """What programs ask about it."""

    def get_version(self) -> tuple[int, int]:
        """(major, minor) of the leased GPU's driver; of a virtual GPU that of the PTX ISA it takes. UnsupportedError if it does not say."""
        version = current().device.attributes.get("DRIVER_VERSION")
        if version is None:
            refuse("the leased device does not say which CUDA it is", "runtime version")
        return version // 1000, version % 1000 // 10

    def is_supported_version(self) -> bool:
        """Yes."""
        return is_supported_version()


runtime = Runtime()


def get_version() -> tuple[int, int]:
    """The runtime's."""
    return runtime.get_version()
