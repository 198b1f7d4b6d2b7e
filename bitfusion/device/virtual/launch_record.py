"""``layout.LAUNCH`` as the host writes it: one ctypes field for every name there, at its offset."""

from __future__ import annotations

import ctypes
from typing import Final

from bitfusion.device.virtual.layout import LAUNCH

_LONG, _INT = ctypes.c_int64, ctypes.c_int32

_TYPES: Final[dict[str, type[ctypes._SimpleCData[int]] | type[ctypes.Array[ctypes.c_int32]]]] = {
    **dict.fromkeys(("GRID_X", "GRID_Y", "GRID_Z", "THREADS_X", "THREADS_Y", "THREADS_Z", "THREADS"), _INT),
    **dict.fromkeys(("ABORT", "FAULT", "FAULT_LINE", "SHARED_SIZE", "DYNAMIC_SIZE"), _INT),
    **dict.fromkeys(("FAULT_BLOCK", "FAULT_THREAD"), _INT * 3),
}


class LaunchRecord(ctypes.Structure):
    """The launch record; addresses are plain integers. ``layout.LAUNCH`` says what each field means."""

    _fields_ = tuple((name.lower(), _TYPES.get(name, _LONG)) for name in LAUNCH if name != "SIZE")

    # for the type checker: ctypes makes these
    next: int
    total: int
    grid_x: int
    grid_y: int
    grid_z: int
    threads_x: int
    threads_y: int
    threads_z: int
    threads: int
    abort: int
    fault: int
    fault_address: int
    fault_block: ctypes.Array[ctypes.c_int32]
    fault_thread: ctypes.Array[ctypes.c_int32]
    fault_line: int
    parameters: int
    variables: int
    memory_base: int
    memory_size: int
    shadow: int
    regions: int
    suspensions: int
    shared_size: int
    dynamic_size: int
    grid_workspace: int
    grid_id: int
    local_size: int
    resident: int
    stride: int
    sink: int
    printf: int
    malloc: int
    free: int
    workers: int
    suspension_count: int
    frame_distance: int
    local_distance: int
    shared_distance: int
    functions: int
    function_count: int
