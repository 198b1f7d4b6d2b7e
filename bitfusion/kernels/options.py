"""How a kernel or a device function is to be compiled: the options a client may give, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TypeAlias

from bitfusion.errors import KernelTypeError

REGISTERS_MAX = 255
"""Registers of one thread on every NVIDIA GPU since compute capability 3.5 (CUDA C++ Programming Guide, technical specifications)."""

BOUNDS_COUNT_MAX = 3
"""Launch bounds: threads of a block, blocks of a multiprocessor, blocks of a cluster."""

BOUND_MAX = 2**31 - 1

INLINE = ("never", "always")
"""When Numba puts a device function's own instructions in the place of a call; it also takes a function, which cannot travel."""

Value: TypeAlias = bool | int | str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Options:
    """Numba's compile options that travel. ``opt`` False: no optimisation; ``max_registers`` 0: as many as the compiler likes.

    ``launch_bounds`` are a kernel's only, ``inline`` and ``forceinline`` a device function's.
    """

    fastmath: bool = False
    debug: bool = False
    lineinfo: bool = False
    opt: bool = True
    max_registers: int = 0
    launch_bounds: tuple[int, ...] = ()
    inline: str = "never"
    forceinline: bool = False

    @property
    def places(self) -> bool:
        """Whether file names and line numbers become part of the compiled code."""
        return self.debug or self.lineinfo

    def as_dict(self) -> dict[str, Value]:
        """The options as plain values."""
        return asdict(self)


def decode(tree: object) -> Options:
    """The options a client sent: a map, or nil for none. KernelTypeError names the one that is not understood.

    Not given or nil is the default; ``opt`` is off by default when ``debug`` is on, as the two exclude each other in CUDA.
    """
    if tree is None:
        return Options()
    if not isinstance(tree, Mapping):
        raise KernelTypeError("compile options must be a map of names to values")
    given = {name: _value(name, value) for name, value in tree.items() if value is not None}
    given.setdefault("opt", not given.get("debug", False))
    return Options(**given)  # type: ignore[arg-type]  # each has been checked by its name


def _value(name: object, value: object) -> Value:
    match name, value:
        case (("fastmath" | "debug" | "lineinfo" | "opt" | "forceinline"), bool(flag)):
            return flag
        case "opt", int(level) if 0 <= level <= 3:
            return level > 0
        case "max_registers", int(count) if type(count) is int and 0 <= count <= REGISTERS_MAX:
            return count
        case "launch_bounds", [*bounds] if len(bounds) <= BOUNDS_COUNT_MAX and all(map(_is_bound, bounds)):
            return tuple(bound for bound in bounds if isinstance(bound, int))
        case "inline", str(when) if when in INLINE:
            return when
    raise KernelTypeError(
        f"compile option {name!r:.40} = {value!r:.40} is not understood; there are fastmath, debug, lineinfo, forceinline (booleans),"
        f" opt (a boolean or 0 to 3), max_registers (0 to {REGISTERS_MAX}), launch_bounds (up to {BOUNDS_COUNT_MAX} positive integers)"
        f" and inline ({' or '.join(INLINE)})"
    )


def _is_bound(value: object) -> bool:
    return type(value) is int and 1 <= value <= BOUND_MAX
