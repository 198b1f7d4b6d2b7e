"""The run-time as machine code: the scheduler, the slow paths of checks and half precision.

One for a process, shared by forks of it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Final, cast

from bitfusion.device.virtual import bounds, grid, half
from bitfusion.device.virtual.jit import OWN_FUNCTIONS, Code, compile_ir, target_name
from bitfusion.device.virtual.objects import ObjectCache, cache_key, compiler_key
from bitfusion.device.virtual.translate import translate

_ENTRIES: Final = (
    grid.run_grid,
    grid.serve,
    bounds.ptx_fault,
    bounds.ptx_badaddr,
    bounds.ptx_badwindow,
    bounds.ptx_range,
    half.half_from_float,
    half.half_from_double,
    half.float_from_half,
)

_RunGrid = Callable[[int, int, int, int], int]


class Runtime:
    """The loaded run-time.

    ``run_grid`` (see ``grid``) lets other Python threads run meanwhile; ``serve`` is an address.
    """

    def __init__(self, object_code: bytes) -> None:
        self._code = Code(object_code)
        self._code.publish(OWN_FUNCTIONS)
        prototype = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 4)
        self.run_grid = cast(_RunGrid, prototype(self._code.address(grid.run_grid.__name__)))
        self.serve = self._code.address(grid.serve.__name__)


_loaded: list[Runtime] = []


def load_runtime(cache: ObjectCache) -> Runtime:
    """The process's run-time, compiled where the cache has none (half a second)."""
    if not _loaded:
        key = cache_key("runtime", compiler_key(), target_name())
        object_code = cache.load(key)
        if object_code is None:
            object_code = compile_ir(translate(*_ENTRIES) + half.LIBRARY)
            cache.store(key, object_code)
        _loaded.append(Runtime(object_code))
    return _loaded[0]
