"""Pinned host memory between the socket and the GPU: slots that are used again and again, each with the event that frees it.

A slot is *idle*, *taken* (ours to fill or to read), or *flying* (the DMA works on it until its event). Pinned memory is what lets
a copy run while the next bytes arrive. Owns the memory and the order of reuse, not the copies.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from bitfusion.device.cuda_driver import NOT_READY, SUCCESS, check, driver, failure


@dataclass(frozen=True, slots=True)
class Slot:
    """One piece of pinned memory: the same bytes by address for CUDA and as a view for us."""

    address: int
    view: memoryview
    event: Any

    def record(self, stream: Any) -> None:
        """The slot is in use until ``stream`` gets here."""
        check(driver.cuEventRecord(self.event, stream), "a copy")

    def wait(self) -> None:
        """Wait until the slot's last copy is done."""
        check(driver.cuEventSynchronize(self.event), "a copy")

    def done(self) -> bool:
        """Whether the slot's last copy is done."""
        (code,) = driver.cuEventQuery(self.event)
        if code not in (SUCCESS, NOT_READY):
            raise failure(code, "a copy")
        return bool(code == SUCCESS)


class StagingRing:
    """``count`` slots of ``slot_size`` bytes, allocated together when the first one is taken."""

    def __init__(self, slot_size: int, count: int) -> None:
        self.slot_size = slot_size
        self._count = count
        self._block: int | None = None
        self._slots: list[Slot] = []
        self._idle: list[Slot] = []
        self._flying: list[Slot] = []  # the longest in use first

    def take(self) -> Slot:
        """A slot of one's own, waiting for the oldest copy where all fly; follow with ``fly`` or ``give``."""
        if self._block is None:
            self._allocate()
        if not self._idle:
            self._collect()
        if not self._idle:
            self._flying[0].wait()
            self._idle.append(self._flying.pop(0))
        return self._idle.pop()

    def _collect(self) -> None:
        """Find the slots whose copies are done: on any stream, since a long kernel on one must not hold up the others."""
        found = [(slot, slot.done()) for slot in self._flying]
        self._idle += [slot for slot, done in found if done]
        self._flying = [slot for slot, done in found if not done]

    def fly(self, slot: Slot) -> None:
        """The slot is idle again once its event, recorded behind its copy, is done."""
        self._flying.append(slot)

    def give(self, slot: Slot) -> None:
        """The slot is idle."""
        self._idle.append(slot)

    def close(self) -> None:
        """Free the memory; no copy may fly and no view be used any more."""
        for slot in self._slots:
            driver.cuEventDestroy(slot.event)
        for slots in (self._slots, self._idle, self._flying):
            slots.clear()
        if self._block is not None:
            driver.cuMemFreeHost(self._block)
            self._block = None

    def _allocate(self) -> None:
        size = self.slot_size * self._count
        self._block = int(check(driver.cuMemHostAlloc(size, 0), f"pinning {size} bytes of host memory"))
        memory = memoryview((ctypes.c_ubyte * size).from_address(self._block)).cast("B")
        flag = driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
        for start in range(0, size, self.slot_size):
            event = check(driver.cuEventCreate(int(flag)), "cuEventCreate")
            self._slots.append(Slot(self._block + start, memory[start : start + self.slot_size], event))
        self._idle.extend(self._slots)
