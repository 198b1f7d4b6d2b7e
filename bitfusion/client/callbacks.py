"""Functions that are called once a stream has come to a point, in a thread of their own that lives only while there are some to call.

While that thread waits for the device, other threads of the program wait for the session; ``bitfusion.aio`` waits without a thread.
"""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable

from bitfusion.errors import BitfusionError

SUCCESS, UNKNOWN = 0, 999
"""What a callback is told (cuda.h, CUresult): CUDA_SUCCESS, or CUDA_ERROR_UNKNOWN for work that failed."""


class Callbacks:
    """The functions that wait to be called, in the order in which they were added."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], None], Callable[[BitfusionError | None], object]]] = deque()
        self._lock = threading.Lock()
        self._running = False

    def add(self, wait: Callable[[], None], done: Callable[[BitfusionError | None], object]) -> None:
        """Call ``done`` when ``wait`` has returned, with what it raised."""
        with self._lock:
            self._waiting.append((wait, done))
            if self._running:
                return
            self._running = True
        self._start()

    def _start(self) -> None:
        threading.Thread(target=self._run, name="bitfusion-callbacks", daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._running = False
                    return
                wait, done = self._waiting.popleft()
            try:
                _call(wait, done)
            except BaseException:  # a warning that is an error; what waits goes on in another thread
                self._start()
                raise


def _call(wait: Callable[[], None], done: Callable[[BitfusionError | None], object]) -> None:
    failure: BitfusionError | None = None
    try:
        wait()
    except BitfusionError as error:
        failure = error
    except Exception as error:  # what the program's own on_output raises
        failure = BitfusionError(f"waiting for the stream ended in {type(error).__name__}: {error}")
        failure.__cause__ = error
    try:
        done(failure)
    except Exception as error:
        warnings.warn(f"Exception in stream callback: {error}", stacklevel=1)
