"""This process's standard output as what kernels print: CUDA's driver writes what they print there, from inside of calls that wait.

The descriptor becomes a file in memory, which is emptied as it is read. A worker has nothing else to say there: its log is its
standard error.
"""

from __future__ import annotations

import fcntl
import os

from bitfusion.limits import OUTPUT_SIZE_MAX
from bitfusion.session.output import STDOUT, Output


class Stdout:
    """What this process writes to its standard output from now on. ``output`` is what has been collected of it."""

    def __init__(self) -> None:
        self.output = Output()
        self._file = os.memfd_create("bitfusion-stdout")
        fcntl.fcntl(
            self._file, fcntl.F_SETFL, os.O_APPEND
        )  # so that after it was emptied, writing begins at its start again
        os.dup2(self._file, STDOUT, inheritable=False)

    def collect(self) -> None:
        """Move what is new into ``output``; of very much only the end."""
        size = os.fstat(self._file).st_size
        if size:
            self.output.add(STDOUT, os.pread(self._file, OUTPUT_SIZE_MAX, max(size - OUTPUT_SIZE_MAX, 0)))
            os.ftruncate(self._file, 0)
