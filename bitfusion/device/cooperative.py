"""Grids whose blocks wait for each other (CUDA C++ Programming Guide, Cooperative Groups): which kernels do, and too large a grid."""

from __future__ import annotations

import re
from typing import Final

from bitfusion.errors import LaunchError

_HEAD: Final = re.compile(rb"\.(entry|func)\b(?:\s{0,100}\([^)]{0,1000}\))?\s{0,100}([\w$%]+)")
"""The head of a kernel or device function, behind the results of the latter."""

_WORKSPACE: Final = re.compile(rb"%envreg[12]\b|\bcall\b[^;]{0,200}\bcudaCG(?:GetIntrinsicHandle|Synchronize)\b")
"""Asks for the grid's workspace: as nvcc and NVRTC write it, and as Numba does. Repetitions are bounded: the text is a client's."""


def cooperative_kernels(image: bytes) -> frozenset[bytes]:
    """Kernels of a PTX text that wait for their whole grid, and must be launched so; none of an image without text.

    Where a device function of the text does, all its kernels may.
    """
    heads = list(_HEAD.finditer(image))
    starts = [head.start() for head in heads]
    asking = [
        head
        for head, end in zip(heads, [*starts[1:], len(image)], strict=False)
        if _WORKSPACE.search(image, head.end(), end)
    ]
    if any(head[1] == b"func" for head in asking):
        asking = heads
    return frozenset(head[2] for head in asking if head[1] == b"entry")


def too_large(kernel: str, blocks: int, held: int) -> LaunchError:
    """The error for a grid of more blocks than the device holds at once: some would wait for others that cannot start."""
    return LaunchError(
        f"kernel {kernel} waits for all {blocks} blocks of its grid, and the device runs {held} of them at once: launch no more than "
        "that (max_cooperative_grid_blocks, resident_blocks), and let each do more",
        cuda_name="CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE",
    )
