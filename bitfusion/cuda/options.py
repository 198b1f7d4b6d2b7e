"""Compile options as programs write them, and as they travel (kernels/options.py)."""

from __future__ import annotations

from typing import Any

from bitfusion.cuda.warned import warn_of_options
from bitfusion.errors import UnsupportedError

CARVEOUTS = ("default", "maxl1", "maxshared")


def compile_options(
    *,
    debug: bool | None = None,
    opt: bool | int | None = None,
    lineinfo: bool = False,
    fastmath: Any = False,
    max_registers: int | None = None,
    launch_bounds: Any = None,
    inline: Any = "never",
    forceinline: bool = False,
) -> dict[str, Any]:
    """Those that differ from the default. ValueError for too many launch bounds, UnsupportedError for an ``inline`` function.

    Warns as Numba does of options that exclude each other.
    """
    if debug and opt:
        warn_of_options("debug=True with opt=True is not supported by CUDA - set debug=False or opt=False.")
    if debug and lineinfo:
        warn_of_options(
            "debug and lineinfo are mutually exclusive. Use debug to get full debug info (this disables some optimizations), or"
            " lineinfo for line info only with code generation unaffected."
        )
    given = {
        "debug": bool(debug) or None,
        "opt": opt,
        "lineinfo": bool(lineinfo) or None,
        "fastmath": bool(fastmath) or None,
        "max_registers": max_registers,
        "launch_bounds": _launch_bounds(launch_bounds),
        "inline": _inline(inline),
        "forceinline": bool(forceinline) or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _launch_bounds(bounds: Any) -> tuple[int, ...] | None:
    if bounds is None:
        return None
    several = (bounds,) if isinstance(bounds, int) else tuple(bounds)
    if len(several) > 3:
        raise ValueError(
            f"Got {len(several)} launch bounds: {several}. A maximum of three are supported:"
            " (max_threads_per_block, min_blocks_per_sm, max_blocks_per_cluster)"
        )
    return several


def _inline(when: Any) -> str | None:
    if callable(when):
        raise UnsupportedError(
            "inline=function would have to run on the appliance; give 'always' or 'never'", feature="inline"
        )
    return "always" if when in (True, "always") else None


def check_carveout(carveout: Any) -> None:
    """ValueError, TypeError for a ``shared_memory_carveout`` that is none; a hint to real GPUs, which this version does not pass on."""
    if isinstance(carveout, str):
        if carveout.lower() not in CARVEOUTS:
            raise ValueError(f"Invalid carveout value: {carveout}. Must be -1 to 100 or one of {list(CARVEOUTS)}")
    elif isinstance(carveout, int):
        if not -1 <= carveout <= 100:
            raise ValueError("Carveout must be between -1 and 100")
    elif carveout is not None:
        raise TypeError(f"shared_memory_carveout must be str or int, got {type(carveout).__name__}")
