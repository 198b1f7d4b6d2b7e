"""Images and kernels on a real GPU: loading PTX, cubin or fatbin, and what CUDA knows about a kernel.

Owns modules and functions and their end. Launches are the device's.
"""

from __future__ import annotations

import importlib
from typing import Any

from bitfusion.device.cooperative import cooperative_kernels, defined
from bitfusion.device.cuda_driver import SUCCESS, Context, check, driver, error_name, failure
from bitfusion.errors import InvalidValueError, LaunchError, UnsupportedError
from bitfusion.limits import KIB
from bitfusion.types import FunctionInfo

LOG_SIZE = 8192
"""Bytes of the JIT's error log: it names the first few lines that do not assemble, and the message travels."""

BINARY_MAGICS = (b"\x7fELF", b"\x50\xed\x55\xba")
"""How a cubin (ELF) and a fatbin (fatbinary_section.h, 0xBA55ED50) begin; everything else is PTX text."""


SHARED_SIZE_DEFAULT = 48 * KIB
"""Shared memory a block may have without opting in (CUDA C++ Programming Guide, Shared Memory of 7.x and later)."""


class CudaFunction:
    """A kernel. Keeps its module loaded."""

    def __init__(self, module: CudaModule, handle: Any, name: str, cooperative: bool) -> None:
        self.handle = handle
        self.info = _function_info(handle, name)
        self.cooperative = cooperative
        self._module = module
        self._dynamic_size_max = SHARED_SIZE_DEFAULT - self.info.shared_size

    def blocks_per_multiprocessor(self, threads: int, shared_size: int) -> int:
        """How many blocks of this size a multiprocessor runs at once; 0 if not one fits."""
        if not 0 < threads <= self.info.threads_max:
            return 0
        try:
            self.allow_shared(shared_size)
        except LaunchError:
            return 0
        result = driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(self.handle, threads, shared_size)
        return int(check(result, f"the occupancy of {self.info.name}"))

    def allow_shared(self, size: int) -> None:
        """Opt in to ``size`` bytes of dynamic shared memory where that is needed. LaunchError if the device has less."""
        if size <= self._dynamic_size_max:
            return
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        (code,) = driver.cuFuncSetAttribute(self.handle, attribute, min(size, 2**31 - 1))
        if error_name(code) == "CUDA_ERROR_INVALID_VALUE":
            raise LaunchError(
                f"{self.info.name}: {size} bytes of dynamic shared memory beside {self.info.shared_size} static ones "
                f"are more than the device has for a block",
                cuda_name="CUDA_ERROR_INVALID_VALUE",
            )
        check((code,), f"giving {self.info.name} {size} bytes of shared memory")
        self._dynamic_size_max = size


class CudaModule:
    """A loaded image, unloaded when neither it nor one of its functions is referred to any more."""

    def __init__(self, context: Context, image: bytes, compute_capability: tuple[int, int]) -> None:
        self._context = context
        self._handle = _load(image, compute_capability)
        self._cooperative = cooperative_kernels(image)

    def function(self, name: str, label: str | None = None) -> CudaFunction:
        """The kernel ``name``, ``label`` to people; InvalidValueError if the image has none."""
        code, handle = driver.cuModuleGetFunction(self._handle, name.encode())
        if error_name(code) == "CUDA_ERROR_NOT_FOUND":
            raise InvalidValueError(f"the image has no kernel {name!r}", cuda_name="CUDA_ERROR_NOT_FOUND")
        if code != SUCCESS:
            raise failure(code, f"loading the kernel {label or name}")
        return CudaFunction(self, handle, label or name, name.encode() in self._cooperative)

    def variable(self, name: str) -> int | None:
        """The address of a variable, as long as the module or a function of it lives."""
        code, address, _ = driver.cuModuleGetGlobal(self._handle, name.encode())
        if error_name(code) == "CUDA_ERROR_NOT_FOUND":
            return None
        if code != SUCCESS:
            raise failure(code, f"finding the variable {name}")
        return int(address)

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None and self._context.open:
            driver.cuCtxSynchronize()  # its kernels may still run
            driver.cuModuleUnload(self._handle)


def _load(image: bytes, compute_capability: tuple[int, int]) -> Any:
    """The ``CUmodule`` of an image, PTX of a newer CUDA than the driver's by way of nvJitLink."""
    text = not image.startswith(BINARY_MAGICS)
    if text:
        image = defined(image)
    code, handle, log = _load_data(image + b"\0" if text else image)
    if text and error_name(code) == "CUDA_ERROR_UNSUPPORTED_PTX_VERSION":
        code, handle, log = _load_data(_assemble(image, compute_capability))
    if code != SUCCESS:
        error = failure(code, "loading the image")
        raise type(error)(f"{error.message}\n{log}".rstrip(), **error.details)
    return handle


def _load_data(image: bytes) -> tuple[Any, Any, str]:
    """Result, module and the JIT's error log."""
    log = bytearray(LOG_SIZE)
    option = driver.CUjit_option
    options = [option.CU_JIT_ERROR_LOG_BUFFER, option.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES]
    code, handle = driver.cuModuleLoadDataEx(image, len(options), options, [log, LOG_SIZE])
    return code, handle, _log_text(log)


def _assemble(ptx: bytes, compute_capability: tuple[int, int]) -> bytes:
    """PTX as a cubin. A driver runs cubins of newer minor releases but not their PTX (CUDA Compatibility, section 3)."""
    major, minor = compute_capability
    try:
        nvjitlink = importlib.import_module("cuda.bindings.nvjitlink")
        handle = nvjitlink.create(1, [f"-arch=sm_{major}{minor}"])
    except (
        Exception
    ) as error:  # the package, the library or this GPU's architecture is missing, each with a class of its own
        raise UnsupportedError(
            f"the PTX is of a newer CUDA than the NVIDIA driver, and nvJitLink cannot assemble it: {error}; "
            "update the driver, or install the appliance's CUDA packages for its version",
            cuda_name="CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
        ) from None
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, ptx, len(ptx), "kernel.ptx")
        nvjitlink.complete(handle)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
    except nvjitlink.nvJitLinkError as error:
        log = bytearray(nvjitlink.get_error_log_size(handle))
        nvjitlink.get_error_log(handle, log)
        raise InvalidValueError(
            f"assembling the PTX: {error}\n{_log_text(log[:LOG_SIZE])}".rstrip(), cuda_name="CUDA_ERROR_INVALID_PTX"
        ) from None
    finally:
        nvjitlink.destroy(handle)
    return bytes(cubin)


def _log_text(log: bytearray) -> str:
    return log.partition(b"\0")[0].decode(errors="replace").strip()


def _function_info(handle: Any, name: str) -> FunctionInfo:
    parameters = _parameters(handle, name)
    return FunctionInfo(
        name=name,
        arguments_size=sum(parameters[-1]) if parameters else 0,
        parameters=parameters,
        registers=_attribute(handle, "NUM_REGS"),
        shared_size=_attribute(handle, "SHARED_SIZE_BYTES"),
        local_size=_attribute(handle, "LOCAL_SIZE_BYTES"),
        constant_size=_attribute(handle, "CONST_SIZE_BYTES"),
        threads_max=_attribute(handle, "MAX_THREADS_PER_BLOCK"),
    )


def _parameters(handle: Any, name: str) -> tuple[tuple[int, int], ...]:
    """(offset, size) of each parameter. CUDA does not tell how many there are: the first index too high is an invalid value."""
    found: list[tuple[int, int]] = []
    while True:
        code, offset, size = driver.cuFuncGetParamInfo(handle, len(found))
        if error_name(code) == "CUDA_ERROR_INVALID_VALUE":
            return tuple(found)
        if code != SUCCESS:
            raise failure(code, f"reading the parameters of {name}")
        found.append((int(offset), int(size)))


def _attribute(handle: Any, name: str) -> int:
    attribute = driver.CUfunction_attribute.__members__[f"CU_FUNC_ATTRIBUTE_{name}"]
    return int(check(driver.cuFuncGetAttribute(attribute, handle), f"reading {name} of a kernel"))
