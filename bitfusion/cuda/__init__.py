"""numba.cuda's host API and kernel language on a leased GPU: ``from bitfusion import cuda``.

Kernels are captured as source and compiled where the GPU is; neither CUDA nor Numba is needed here. The session is opened on first use
(docs/guide/cuda.md). Owns the public names and nothing else; names of numba.cuda that are not offered say so.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from bitfusion.client.array import DeviceArray
from bitfusion.client.client import Event, Stream
from bitfusion.client.operations import MemoryInfo
from bitfusion.cuda import command_line as _command_line
from bitfusion.cuda import device_names as _device_names
from bitfusion.cuda.arguments import In, InOut, Out
from bitfusion.cuda.compiler import (
    compile,
    compile_all,
    compile_for_current_device,
    compile_ptx,
    compile_ptx_for_current_device,
)
from bitfusion.cuda.cudadrv import MODULES as _CUDADRV
from bitfusion.cuda.cudadrv.error import CudaSupportError
from bitfusion.cuda.cudadrv.runtime import runtime
from bitfusion.cuda.current import close, use
from bitfusion.cuda.decorators import jit
from bitfusion.cuda.devices import (
    cuda_error,
    current_context,
    defer_cleanup,
    detect,
    get_current_device,
    gpus,
    is_available,
    is_bfloat16_supported,
    is_float16_supported,
    is_fp8_supported,
    is_supported_version,
    list_devices,
    require_context,
    select_device,
)
from bitfusion.cuda.errors import KernelRuntimeError
from bitfusion.cuda.gufunc import guvectorize
from bitfusion.cuda.linkable import (
    LTOIR,
    Archive,
    Cubin,
    CUSource,
    Fatbin,
    LinkableCode,
    Object,
    PTXSource,
    declare_device,
)
from bitfusion.cuda.mapped import managed_array, mapped, mapped_array, mapped_array_like
from bitfusion.cuda.memory import (
    as_cuda_array,
    device_array,
    device_array_like,
    from_cuda_array_interface,
    is_cuda_array,
    pinned,
    pinned_array,
    pinned_array_like,
    to_device,
)
from bitfusion.cuda.not_offered import INSTEAD as _INSTEAD
from bitfusion.cuda.not_offered import told as _told
from bitfusion.cuda.pointers import MemoryPointer
from bitfusion.cuda.profiling import profile_start, profile_stop, profiling
from bitfusion.cuda.reduction import Reduce
from bitfusion.cuda.refused import (
    BaseCUDAMemoryManager,
    GetIpcHandleMixin,
    HostOnlyCUDAMemoryManager,
    IpcHandle,
    MappedMemory,
    PinnedMemory,
    open_ipc_array,
    set_memory_manager,
)
from bitfusion.cuda.streams import (
    default_stream,
    event,
    event_elapsed_time,
    external_stream,
    legacy_default_stream,
    per_thread_default_stream,
    stream,
    synchronize,
)
from bitfusion.cuda.ufunc import vectorize
from bitfusion.kernels import executed as _executed
from bitfusion.kernels import types
from bitfusion.kernels.types import NAMES as _TYPES

__all__ = [
    "HAS_NUMBA",
    "LTOIR",
    "Archive",
    "BaseCUDAMemoryManager",
    "CUSource",
    "Cubin",
    "CudaSupportError",
    "DeviceArray",
    "Event",
    "Fatbin",
    "GetIpcHandleMixin",
    "HostOnlyCUDAMemoryManager",
    "In",
    "InOut",
    "IpcHandle",
    "KernelRuntimeError",
    "LinkableCode",
    "MappedMemory",
    "MemoryInfo",
    "MemoryPointer",
    "Object",
    "Out",
    "PTXSource",
    "PinnedMemory",
    "Reduce",
    "Stream",
    "as_cuda_array",
    "close",
    "compile",
    "compile_all",
    "compile_for_current_device",
    "compile_ptx",
    "compile_ptx_for_current_device",
    "cuda_error",
    "current_context",
    "declare_device",
    "default_stream",
    "defer_cleanup",
    "detect",
    "device_array",
    "device_array_like",
    "event",
    "event_elapsed_time",
    "external_stream",
    "from_cuda_array_interface",
    "get_current_device",
    "gpus",
    "guvectorize",
    "is_available",
    "is_bfloat16_supported",
    "is_cuda_array",
    "is_float16_supported",
    "is_fp8_supported",
    "is_supported_version",
    "jit",
    "legacy_default_stream",
    "list_devices",
    "managed_array",
    "mapped",
    "mapped_array",
    "mapped_array_like",
    "open_ipc_array",
    "per_thread_default_stream",
    "pinned",
    "pinned_array",
    "pinned_array_like",
    "profile_start",
    "profile_stop",
    "profiling",
    "reduce",
    "require_context",
    "runtime",
    "select_device",
    "set_memory_manager",
    "stream",
    "synchronize",
    "to_device",
    "types",
    "use",
    "vectorize",
]

reduce = Reduce

HAS_NUMBA = not hasattr(sys.modules.get("numba"), "__bitfusion__") and find_spec("numba") is not None
"""Whether Numba is installed here; nothing of this package needs it."""

implementation = "bitfusion"
"""What numba.cuda says of itself: NVIDIA's package says "NVIDIA"."""

SUBMODULES = frozenset(
    [
        *("args", "cg", "compiler", "config", "cudadrv", "errors", "extending", "fp16"),
        *("libdevice", "random", "types", "vectorizers"),
        *(f"cudadrv.{name}" for name in _CUDADRV),
    ]
)
"""Modules of numba.cuda that are offered; the import hook of ``bitfusion run`` finds them here."""

SHORT_NAMES = {"devicearray": "cudadrv.devicearray", "driver": "cudadrv.driver"}
"""Modules that numba.cuda has under a second name."""

UNSUPPORTED = frozenset(
    [
        *("nvvm", "simulator"),
        *("alias", "bfloat16", "deferred_type", "ffi", "ffi_forced_object", "optional", "prepare_shape_strides_dtype"),
        *("Dim3", "GridGroup", "dim3", "grid_group", "config_default_cc", "numba_cuda_default_ptx_cc"),
    ]
)
"""Names of numba.cuda that mean something and cannot be used here."""

_NAMES: dict[str, Any] = {**_TYPES, **_device_names.functions(), **_device_names.namespaces()}
_NAMES["literal_unroll"] = _device_names.DeviceName("numba.cuda.misc.special.literal_unroll")
globals().update(_NAMES)
_command_line.keep()
_executed.watch()


def __getattr__(name: str) -> Any:
    """Modules are imported when they are first asked for; everything else is not there, and says so."""
    name = SHORT_NAMES.get(name, name)
    if name in SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name in UNSUPPORTED or name in _INSTEAD:
        raise AttributeError(_told(name))
    raise AttributeError(f"module 'bitfusion.cuda' has no attribute {name!r}; docs/guide/cuda.md lists what it has")


def __dir__() -> list[str]:
    return sorted({*__all__, *_NAMES, *SHORT_NAMES, *(name for name in SUBMODULES if "." not in name)})
