"""``jit``: how a Python function becomes a kernel or a device function, and which options mean what here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bitfusion.cuda.declared import is_signature
from bitfusion.cuda.declared import signature as as_signature
from bitfusion.cuda.dispatcher import Dispatcher
from bitfusion.cuda.linkable import links
from bitfusion.cuda.options import check_carveout, compile_options
from bitfusion.errors import KernelTypeError, UnsupportedError
from bitfusion.kernels.program import Link
from bitfusion.kernels.types import Signature, none

ACCEPTED = frozenset({"cache", "lto", "nopython"})
"""Options of numba.cuda without a meaning of their own here: the appliance caches every kernel, and links as it must."""

REFUSED: Mapping[str, str] = {
    "boundscheck": "bounds are not checked by the kernel; the virtual GPU checks every access by itself",
    "argtypes": "give the signature as the first argument",
    "restype": "give the signature as the first argument",
    "bind": "kernels are always bound when they are first used",
}
"""Options that would change what a program means, and what to do instead."""


def jit(
    func_or_sig: Any = None,
    device: bool = False,
    inline: Any = "never",
    forceinline: bool = False,
    link: Any = (),
    debug: bool | None = None,
    opt: bool | int | None = None,
    lineinfo: bool = False,
    cache: bool = False,
    launch_bounds: Any = None,
    *,
    fastmath: Any = False,
    max_registers: int | None = None,
    shared_memory_carveout: Any = None,
    extensions: Sequence[Any] = (),
    **options: Any,
) -> Any:
    """Make a kernel of a Python function, or with ``device`` a function that kernels call.

    As ``@jit``, ``@jit(...)``, ``@jit("void(float32[:])")``, ``@jit([signature, ...])``; signatures are text, ``void(float32[:])`` or
    tuples of types. A kernel with signatures is compiled for them here, which opens the session; others at their first launch.
    The ``prepare_args`` of ``extensions`` may change arguments before a launch (arguments.py).
    KernelError; KernelTypeError for a wrong signature, UnsupportedError for an option that cannot be.
    """
    _check(options)
    check_carveout(shared_memory_carveout)
    if device and link:
        raise ValueError("link keyword invalid for device function")
    chosen = compile_options(
        debug=debug,
        opt=opt,
        lineinfo=lineinfo,
        fastmath=fastmath,
        max_registers=max_registers,
        launch_bounds=launch_bounds,
        inline=inline,
        forceinline=forceinline,
    )
    declared = _signatures(func_or_sig)
    make = functools.partial(
        _make, options=chosen, declared=declared or (), device=device, code=links(link), extensions=list(extensions)
    )
    return make if declared is not None or func_or_sig is None else make(func_or_sig)


def _signatures(given: Any) -> list[Signature] | None:
    """What is declared, None where the first argument is no signature."""
    if is_signature(given):
        return [as_signature(given)]
    return [as_signature(item) for item in given] if isinstance(given, list) else None


def _make(
    function: Callable[..., Any],
    *,
    options: dict[str, Any],
    declared: Any,
    device: bool,
    code: tuple[Link, ...],
    extensions: Sequence[Any],
) -> Dispatcher:
    if isinstance(function, Dispatcher):
        function = function.py_func
    if not hasattr(function, "__code__"):
        raise KernelTypeError(f"a kernel is made of a Python function, not of {function!r}")
    if device:
        return Dispatcher(function, options, declared, device=True)
    for signature in declared:
        if signature.return_type is not none:
            raise KernelTypeError(f"CUDA kernel must have void return type, but its signature is {signature}")
    made = Dispatcher(function, options, declared, device=False, links=code, extensions=extensions)
    for signature in declared:
        made.compile(signature)
    return made


def _check(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if name in REFUSED and value:
            raise UnsupportedError(f"jit(..., {name}=...): {REFUSED[name]}", feature=name)
        if name not in REFUSED and name not in ACCEPTED:
            raise UnsupportedError(f"jit has no option {name!r}", feature=name)
