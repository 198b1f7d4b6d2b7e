"""The floor of copies: CUDA in this process, between pinned memory and the GPU, by cuda-bindings alone."""

from __future__ import annotations

import time
from types import TracebackType

from bitfusion.device.cuda_driver import Context, check, driver


class PinnedCopies:
    """``size`` bytes of pinned memory and of the GPU with one UUID, as long as the block lasts."""

    def __init__(self, uuid: str, size: int) -> None:
        self._context = Context(uuid)
        self._size = size

    def __enter__(self) -> PinnedCopies:
        self._host = check(driver.cuMemHostAlloc(self._size, 0), "cuMemHostAlloc")
        self._device = check(driver.cuMemAlloc(self._size), "cuMemAlloc")
        self._stream = check(driver.cuStreamCreate(0), "cuStreamCreate")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        driver.cuStreamDestroy(self._stream)
        driver.cuMemFree(self._device)
        driver.cuMemFreeHost(self._host)
        self._context.close()

    def h2d(self, size: int) -> None:
        """Copy to the GPU and wait."""
        check(driver.cuMemcpyHtoDAsync(self._device, self._host, size, self._stream), "H2D")
        check(driver.cuStreamSynchronize(self._stream), "H2D")

    def d2h(self, size: int) -> None:
        """Copy from the GPU and wait."""
        check(driver.cuMemcpyDtoHAsync(self._host, self._device, size, self._stream), "D2H")
        check(driver.cuStreamSynchronize(self._stream), "D2H")


def allocate_ms(uuid: str, size: int) -> float:
    """Milliseconds of one cuMemAlloc of ``size`` bytes."""
    context = Context(uuid)
    check(driver.cuMemFree(check(driver.cuMemAlloc(1 << 20), "cuMemAlloc")), "cuMemFree")
    started = time.perf_counter()
    address = check(driver.cuMemAlloc(size), "cuMemAlloc")
    elapsed = time.perf_counter() - started
    driver.cuMemFree(address)
    context.close()
    return elapsed * 1e3
