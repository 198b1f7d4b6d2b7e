"""The LLVM metadata our code carries: alias classes, ranges, branch weights.

Suffixes for instructions, and the text that defines them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bitfusion.device.virtual.layout import LAUNCH, PARAMETERS_SIZE, THREADS_MAX

INVARIANT: Final = ", !invariant.load !3"
"""The memory never changes while the function runs."""
NEVER: Final = ", !prof !5"
"""A branch that is practically never taken."""
ALWAYS: Final = ", !prof !4"
GRID_INDEX_RANGE: Final = ", !range !6"
GRID_SIZE_RANGE: Final = ", !range !7"
THREADS_RANGE: Final = ", !range !8"
"""Ranges let LLVM see that Numba's test for negative indices never holds: without them addresses are not linear in the
thread index.
"""
LAUNCH_POINTER: Final = ", !dereferenceable !9"
PARAMETERS_POINTER: Final = ", !dereferenceable !10, !align !17"
VARIABLES_POINTER: Final = ", !dereferenceable !18"
"""Loads through these pointers may be done ahead of a test, where they do not stand in the way of the vectoriser."""

ALIAS: Final[Mapping[str, str]] = {
    "global": ", !alias.scope !11, !noalias !12",
    "shared": ", !alias.scope !13, !noalias !14",
    "frame": ", !alias.scope !15, !noalias !16",
    "generic": ", !noalias !15",
}
"""By state space: global memory, shared memory and our own frames never overlap; a generic address may be either of the
first two.
"""

FUNCTION_ATTRIBUTES: Final = "#0"
"""Device addresses start from a null pointer (see Builder.offset), which LLVM must not take for undefined behaviour."""

SHORT_LOOP_SIZE_MAX: Final = 16
"""PTX instructions in a short loop over threads: what stands between two shuffles."""

_EIGHT_LANES: Final = ', !{!"llvm.loop.vectorize.width", i32 8}, !{!"llvm.loop.interleave.count", i32 1}'

_FIRST_FREE: Final = 100

_DEFINITIONS: Final = f"""\
attributes #0 = {{ nounwind null_pointer_is_valid }}
!3 = !{{}}
!4 = !{{!"branch_weights", i32 1000000, i32 1}}
!5 = !{{!"branch_weights", i32 1, i32 1000000}}
!6 = !{{i32 0, i32 2147483647}}
!7 = !{{i32 1, i32 -2147483648}}
!8 = !{{i32 1, i32 {THREADS_MAX + 1}}}
!9 = !{{i64 {LAUNCH["SIZE"]}}}
!10 = !{{i64 {PARAMETERS_SIZE}}}
!11 = !{{!21}}
!12 = !{{!22, !23}}
!13 = !{{!22}}
!14 = !{{!21, !23}}
!15 = !{{!23}}
!16 = !{{!21, !22}}
!17 = !{{i64 16}}
!20 = distinct !{{!20}}
!21 = distinct !{{!21, !20}}
!22 = distinct !{{!22, !20}}
!23 = distinct !{{!23, !20}}
"""


class Metadata:
    """The metadata of one LLVM module: the fixed part, and the access group of every loop over threads."""

    def __init__(self, variables_size: int) -> None:
        self._next = _FIRST_FREE
        self._lines = [f"!18 = !{{i64 {max(variables_size, 16)}}}"]

    def thread_loop(self, parallel: bool, vectorize: bool = True, short: bool = False) -> tuple[str, str]:
        """(suffix for the loop's memory accesses, suffix for its back edge).

        ``parallel``: its iterations are independent, as CUDA threads between two barriers are. Unrolling only costs
        compile time: the vectoriser interleaves by itself. ``short``: so little code that a second vectorised loop, for what is
        left of a row, is not worth the time to compile it; LLVM makes none behind one of 8 lanes.
        """
        if not vectorize:
            parallel = False
        group, loop = self._next, self._next + 1
        self._next += 2
        hint = f', !{{!"llvm.loop.parallel_accesses", !{group}}}' if parallel else ""
        hint += "" if vectorize else ', !{!"llvm.loop.vectorize.enable", i1 false}'
        hint += _EIGHT_LANES if short else ""
        self._lines.append(f"!{group} = distinct !{{}}")
        self._lines.append(f'!{loop} = distinct !{{!{loop}{hint}, !{{!"llvm.loop.unroll.disable"}}}}')
        return f", !llvm.access.group !{group}" if parallel else "", f", !llvm.loop !{loop}"

    def outer_loop(self) -> str:
        """Suffix for the back edge of a loop around one over threads: copies of it would only cost compile time."""
        loop = self._next
        self._next += 1
        self._lines.append(f'!{loop} = distinct !{{!{loop}, !{{!"llvm.loop.unroll.disable"}}}}')
        return f", !llvm.loop !{loop}"

    def text(self) -> str:
        return _DEFINITIONS + "\n".join(self._lines) + "\n"
