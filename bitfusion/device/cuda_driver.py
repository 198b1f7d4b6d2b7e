"""CUDA's driver API as the ``cuda`` device calls it: results are checked, failures become our errors; and the context.

Owns the mapping of ``CUresult`` to the error tree and the life of the one context a worker has. No memory, no streams.
"""

from __future__ import annotations

import importlib
import threading
import uuid
from collections.abc import Mapping
from typing import Any

from bitfusion.errors import (
    DeviceError,
    DeviceMemoryError,
    InvalidHandleError,
    InvalidValueError,
    KernelFaultError,
    UnsupportedError,
)

try:
    driver: Any = importlib.import_module("cuda.bindings.driver")
except ImportError:
    raise DeviceError("NVIDIA GPUs need the package cuda-bindings: pip install 'bitfusion[cuda]'") from None

DRIVER_VERSION_MIN = 12040
"""CUDA 12.4, the first driver with ``cuFuncGetParamInfo``: without it nobody knows how large a kernel's arguments are."""

SUCCESS, NOT_READY = 0, int(driver.CUresult.CUDA_ERROR_NOT_READY)

FAULTS = (
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    "CUDA_ERROR_CONTAINED",
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_TENSOR_MEMORY_LEAK",
    "CUDA_ERROR_EXTERNAL_DEVICE",
    "CUDA_ERROR_UNKNOWN",
)
"""Results after which "the process must be terminated and relaunched" (cuda.h, ``CUresult``): every later call repeats them."""

CLASSES: Mapping[str, type[DeviceError]] = {
    **dict.fromkeys(FAULTS, KernelFaultError),
    "CUDA_ERROR_OUT_OF_MEMORY": DeviceMemoryError,
    "CUDA_ERROR_INVALID_VALUE": InvalidValueError,
    "CUDA_ERROR_NOT_FOUND": InvalidValueError,
    "CUDA_ERROR_INVALID_IMAGE": InvalidValueError,
    "CUDA_ERROR_INVALID_PTX": InvalidValueError,
    "CUDA_ERROR_INVALID_SOURCE": InvalidValueError,
    "CUDA_ERROR_INVALID_HANDLE": InvalidHandleError,
    "CUDA_ERROR_NOT_SUPPORTED": UnsupportedError,
    "CUDA_ERROR_NO_BINARY_FOR_GPU": UnsupportedError,
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": UnsupportedError,
    "CUDA_ERROR_JIT_COMPILER_NOT_FOUND": UnsupportedError,
}
"""CUDA's name -> our class; a DeviceError for all others."""


def check(result: tuple[Any, ...], what: str) -> Any:
    """The value of a driver call, None if it has none; a DeviceError that says ``what`` failed."""
    if result[0] != SUCCESS:
        raise failure(result[0], what)
    return result[1] if len(result) > 1 else None


def failure(code: Any, what: str) -> DeviceError:
    """The error for a ``CUresult`` that is not success."""
    name, text = error_name(code), _text(driver.cuGetErrorString(code))
    cls = CLASSES.get(name, DeviceError)
    message = f"{what}: {name}: {text}"
    if cls is KernelFaultError:
        message = f"a kernel failed while it ran, noticed by {message}; the session's work is lost, connect again"
    return cls(message, cuda_name=name)


def error_name(code: Any) -> str:
    """CUDA's name of a result, ``CUDA_ERROR_...``."""
    return _text(driver.cuGetErrorName(code)) or f"CUDA error {int(code)}"


def _text(result: tuple[Any, bytes | None]) -> str:
    return (result[1] or b"").decode(errors="replace")


class Context:
    """The primary context of the GPU with one UUID, current in the thread that made it.

    By UUID because CUDA and NVML number GPUs differently, and CUDA_VISIBLE_DEVICES moves CUDA's numbers.
    """

    def __init__(self, gpu_uuid: str) -> None:
        try:
            check(driver.cuInit(0), "cuInit")
        except RuntimeError as error:  # cuda.pathfinder's, where there is no libcuda
            raise DeviceError(f"the NVIDIA driver cannot be used: {error}") from None
        self.version = version = int(check(driver.cuDriverGetVersion(), "cuDriverGetVersion"))
        if version < DRIVER_VERSION_MIN:
            raise UnsupportedError(
                f"the NVIDIA driver is for CUDA {version // 1000}.{version % 1000 // 10}; 12.4 or newer is needed",
                feature="cuFuncGetParamInfo",
            )
        self.ordinal, self.device = _find(gpu_uuid)
        self._handle = check(driver.cuDevicePrimaryCtxRetain(self.device), "cuDevicePrimaryCtxRetain")
        check(driver.cuCtxSetCurrent(self._handle), "cuCtxSetCurrent")
        self.open = True

    def attribute(self, name: str) -> int | None:
        """A ``CUdevice_attribute``; None where the driver is older than it."""
        code, value = driver.cuDeviceGetAttribute(driver.CUdevice_attribute.__members__[name], self.device)
        return int(value) if code == SUCCESS else None

    def settle(self, timeout_s: float) -> int | None:
        """Wait for all work; its result, or None if it goes on. CUDA has no wait with a time, so a thread of its own waits."""
        results: list[int] = []

        def wait() -> None:
            driver.cuCtxSetCurrent(self._handle)
            results.append(int(driver.cuCtxSynchronize()[0]))

        thread = threading.Thread(target=wait, name="bitfusion-settle", daemon=True)
        thread.start()
        thread.join(timeout_s)
        return results[0] if results else None

    def close(self) -> None:
        """Let go of the context and all that is still in it."""
        self.open = False
        driver.cuDevicePrimaryCtxRelease(self.device)


def _find(gpu_uuid: str) -> tuple[int, Any]:
    """Ordinal and ``CUdevice`` of the GPU with this UUID."""
    seen = []
    for ordinal in range(check(driver.cuDeviceGetCount(), "cuDeviceGetCount")):
        device = check(driver.cuDeviceGet(ordinal), "cuDeviceGet")
        name = f"GPU-{uuid.UUID(bytes=bytes(check(driver.cuDeviceGetUuid(device), 'cuDeviceGetUuid').bytes))}"
        if name == gpu_uuid:
            return ordinal, device
        seen.append(name)
    raise DeviceError(
        f"CUDA does not see the GPU {gpu_uuid}, only {', '.join(seen) or 'none'}: is CUDA_VISIBLE_DEVICES set for the appliance?"
    )
