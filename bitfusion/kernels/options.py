"""How a kernel is to be compiled: the options a client may give, read strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from bitfusion.errors import KernelTypeError

REGISTERS_MAX = 255
"""Registers of one thread on every NVIDIA GPU since compute capability 3.5 (CUDA C++ Programming Guide, technical specifications)."""


@dataclass(frozen=True, slots=True)
class Options:
    """Numba's compile options that travel. ``opt`` False: no optimisation; ``max_registers`` 0: as many as the compiler likes."""

    fastmath: bool = False
    debug: bool = False
    lineinfo: bool = False
    opt: bool = True
    max_registers: int = 0

    @property
    def places(self) -> bool:
        """Whether file names and line numbers become part of the compiled code."""
        return self.debug or self.lineinfo

    def as_dict(self) -> dict[str, bool | int]:
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


def _value(name: object, value: object) -> bool | int:
    match name, value:
        case (("fastmath" | "debug" | "lineinfo" | "opt"), bool(flag)):
            return flag
        case "opt", int(level) if 0 <= level <= 3:
            return level > 0
        case "max_registers", int(count) if type(count) is int and 0 <= count <= REGISTERS_MAX:
            return count
    raise KernelTypeError(
        f"compile option {name!r:.40} = {value!r:.40} is not understood; there are fastmath, debug, lineinfo (booleans),"
        f" opt (a boolean or 0 to 3) and max_registers (0 to {REGISTERS_MAX})"
    )
