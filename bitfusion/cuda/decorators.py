"""``jit``: how a Python function becomes a kernel or a device function, and which options mean what here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from bitfusion.cuda.declared import is_signature
from bitfusion.cuda.declared import signature as as_signature
from bitfusion.cuda.dispatcher import Dispatcher
from bitfusion.errors import KernelTypeError, UnsupportedError
from bitfusion.kernels.types import Signature, none

ACCEPTED = frozenset({"cache", "forceinline", "inline", "launch_bounds", "lto", "nopython", "shared_memory_carveout"})
"""Options of numba.cuda without a meaning of their own here: every kernel is cached on the appliance, the rest are hints."""

REFUSED: Mapping[str, str] = {
    "link": "a kernel cannot be linked with other code yet",
    "extensions": "argument extensions would have to run on the appliance",
    "boundscheck": "bounds are not checked by the kernel; the virtual GPU checks every access by itself",
    "argtypes": "give the signature as the first argument",
    "restype": "give the signature as the first argument",
    "bind": "kernels are always bound when they are first used",
}
"""Options that would change what a program means, and what to do instead."""


def jit(
    func_or_sig: Any = None,
    device: bool = False,
    *,
    debug: bool | None = None,
    opt: bool | int | None = None,
    lineinfo: bool = False,
    fastmath: Any = False,
    max_registers: int | None = None,
    **options: Any,
) -> Any:
    """Make a kernel of a Python function, or with ``device`` a function that kernels call.

    As ``@jit``, ``@jit(...)``, ``@jit("void(float32[:])")``, ``@jit([signature, ...])``; signatures are text, ``void(float32[:])`` or
    tuples of types. Nothing is compiled before the first launch. KernelTypeError for a wrong signature, UnsupportedError for an option that
    cannot be.
    """
    _check(options)
    chosen = {"debug": debug, "opt": opt, "lineinfo": lineinfo or None, "max_registers": max_registers}
    compiled = {name: value for name, value in chosen.items() if value is not None}
    if fastmath:
        compiled["fastmath"] = True
    if is_signature(func_or_sig):
        declared = [as_signature(func_or_sig)]
    elif isinstance(func_or_sig, list):
        declared = [as_signature(item) for item in func_or_sig]
    else:
        make = functools.partial(_make, options=compiled, declared=(), device=device)
        return make if func_or_sig is None else make(func_or_sig)
    return functools.partial(_make, options=compiled, declared=declared, device=device)


def _make(function: Callable[..., Any], *, options: dict[str, Any], declared: Any, device: bool) -> Dispatcher:
    if isinstance(function, Dispatcher):
        function = function.py_func
    if not hasattr(function, "__code__"):
        raise KernelTypeError(f"a kernel is made of a Python function, not of {function!r}")
    if not device:
        for signature in declared:
            if signature.return_type is not none:
                raise KernelTypeError(f"a kernel returns nothing, but its signature is {signature}")
        declared = [Signature(none, *signature.args) for signature in declared]
    return Dispatcher(function, options, declared, device=device)


def _check(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if name in REFUSED and value:
            raise UnsupportedError(f"jit(..., {name}=...): {REFUSED[name]}", feature=name)
        if name not in REFUSED and name not in ACCEPTED:
            raise UnsupportedError(f"jit has no option {name!r}", feature=name)
