"""numba.cuda's ``compile`` family: the appliance compiles a function, and the code comes back as text or bytes.

Nothing is loaded: this is for those who take the code elsewhere. ``cc`` None means the leased device's compute capability.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitfusion.cuda import current
from bitfusion.cuda.declared import signature as as_signature
from bitfusion.cuda.numba_errors import also_numbas
from bitfusion.cuda.options import compile_options
from bitfusion.errors import KernelTypeError
from bitfusion.kernels.signatures import decode, encode
from bitfusion.kernels.source import capture
from bitfusion.kernels.types import Signature, Type

Code = str | bytes
"""PTX is text, LTO-IR bytes."""


def compile(
    pyfunc: Any,
    sig: Any,
    debug: bool | None = None,
    lineinfo: bool = False,
    device: bool = True,
    fastmath: bool = False,
    cc: tuple[int, int] | None = None,
    opt: bool | int | None = None,
    abi: str = "c",
    abi_info: Mapping[str, Any] | None = None,
    output: str = "ptx",
    forceinline: bool = False,
    launch_bounds: Any = None,
) -> tuple[Code, Type]:
    """A function as PTX or LTO-IR, and the type it returns.

    KernelError; NotImplementedError for an ABI or output that there is not, ValueError for options that exclude each other, as in Numba.
    """
    _check(device, abi, output, forceinline)
    options = compile_options(
        debug=debug, lineinfo=lineinfo, fastmath=fastmath, opt=opt, launch_bounds=launch_bounds, forceinline=forceinline
    )
    name = str((abi_info or {}).get("abi_name", "")) if abi == "c" else ""
    if abi == "c" and not name:
        name = getattr(getattr(pyfunc, "py_func", pyfunc), "__name__", "")
    capability = None if cc is None else tuple(cc[:2])
    code, result = compiled(pyfunc, as_signature(sig), options, (output, bool(device), abi, name, capability))
    return code if output == "ltoir" else code.decode(), result


def compiled(
    pyfunc: Any, signature: Signature, options: Mapping[str, Any], wanted: tuple[Any, ...]
) -> tuple[bytes, Type]:
    """The answer of the current session's worker (kernels/wanted.py). KernelError."""
    client = current.current()
    with also_numbas():
        code, tree = client.compile_kernel(capture(pyfunc).data, encode(signature), dict(options), wanted)
    return code, decode(tree)


def _check(device: bool, abi: str, output: str, forceinline: bool) -> None:
    if output not in ("ptx", "ltoir"):
        raise NotImplementedError(f"Unsupported output type: {output}")
    if abi not in ("numba", "c"):
        raise NotImplementedError(f"Unsupported ABI: {abi}")
    if abi == "c" and not device:
        raise NotImplementedError("The C ABI is not supported for kernels")
    if forceinline and output != "ltoir":
        raise ValueError("Can only designate forced inlining in LTO-IR")
    if forceinline and not device:
        raise ValueError("Cannot force-inline kernels")


def compile_for_current_device(pyfunc: Any, sig: Any, **options: Any) -> tuple[Code, Type]:
    """As ``compile`` for the leased device; KernelTypeError if a ``cc`` is given."""
    return compile(pyfunc, sig, **_without_cc(options))


def compile_ptx(pyfunc: Any, sig: Any, device: bool = False, abi: str = "numba", **options: Any) -> tuple[Code, Type]:
    """A kernel (or with ``device`` a device function) as PTX with Numba's calling convention."""
    if "output" in options:
        raise TypeError("compile_ptx() got an unexpected keyword argument 'output'")
    return compile(pyfunc, sig, device=device, abi=abi, **options)


def compile_ptx_for_current_device(
    pyfunc: Any, sig: Any, device: bool = False, abi: str = "numba", **options: Any
) -> tuple[Code, Type]:
    """As ``compile_ptx`` for the leased device."""
    return compile_ptx(pyfunc, sig, device, abi, **_without_cc(options))


def compile_all(pyfunc: Any, sig: Any, output: str = "ltoir", **options: Any) -> tuple[list[Code], Type]:
    """As ``compile``, in a list; code that the function is linked with is not in it."""
    code, result = compile(pyfunc, sig, output=output, **options)
    return [code], result


def _without_cc(options: dict[str, Any]) -> dict[str, Any]:
    if "cc" in options:
        raise KernelTypeError("the compute capability is the leased device's; use compile(..., cc=...) for another one")
    return options
