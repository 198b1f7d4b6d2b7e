"""Barriers and warp operations of a block whose threads have drifted apart: who may go on. Restricted Python.

A thread that waits at its suspension point has READY = WAITING, one that may be resumed READY = FREE. References: PTX
ISA 9.7.13.1 (bar), 9.7.13.2 (bar.warp.sync).
"""

from __future__ import annotations

from typing import Final

from bitfusion.device.virtual.layout import SUSPENSION, WARP_SIZE
from bitfusion.device.virtual.records import Block, Launch, Suspension
from bitfusion.device.virtual.warp import mask_of, operate

BAR: Final = SUSPENSION["bar"]
YIELD: Final = SUSPENSION["yield"]
LOCKSTEP: Final = SUSPENSION["lockstep"]

WAITING: Final = 0
FREE: Final = 1
CHOSEN: Final = 2

BARRIER_COUNT: Final = 16
BARRIER_MASK: Final = BARRIER_COUNT - 1

AND: Final = 1
OR: Final = 2


def is_waiting(block: Block, thread: int) -> bool:
    """Whether the thread has not ended and was not yet let go."""
    return block.state[thread] >= 0 and block.ready[thread] == WAITING


# warps
def resolve_warps(block: Block, launch: Launch, threads: int) -> None:
    """Perform the warp operations at which all lanes of their mask have arrived."""
    for warp in range((threads + WARP_SIZE - 1) // WARP_SIZE):
        base = warp * WARP_SIZE
        left = threads - base
        resolve_warp(block, launch, base, left if left < WARP_SIZE else WARP_SIZE)


def resolve_warp(block: Block, launch: Launch, base: int, size: int) -> None:
    """Lanes of one warp may wait at different operations; each group goes on by itself."""
    alive = 0
    waiting = 0
    for lane in range(size):
        alive |= (block.state[base + lane] >= 0) << lane
        waiting |= waits_for_warp(block, launch, base + lane) << lane
    for lane in range(size):
        if (waiting >> lane) & 1:
            group = gathered(block, launch, base, lane, alive, waiting)
            if group:
                row = launch.suspensions[block.state[base + lane]]
                operate(block, row.kind, row.variant, base, group)
                for member in range(size):
                    if (group >> member) & 1:
                        block.ready[base + member] = FREE
                waiting &= ~group


def waits_for_warp(block: Block, launch: Launch, thread: int) -> bool:
    """Whether the thread waits at a warp operation."""
    if not is_waiting(block, thread):
        return False
    kind = launch.suspensions[block.state[thread]].kind
    return kind not in (BAR, YIELD, LOCKSTEP)


def gathered(block: Block, launch: Launch, base: int, lane: int, alive: int, waiting: int) -> int:
    """The lanes that perform the operation at which ``lane`` waits; 0 while some are on their way.

    Ended lanes are not waited for.
    """
    state = block.state[base + lane]
    row = launch.suspensions[state]
    group = 0
    if row.first:  # no mask in the instruction: whoever waits here right now
        for other in range(WARP_SIZE):
            if (waiting >> other) & 1 and block.state[base + other] == state:
                group |= 1 << other
        return group
    mask = mask_of(block, row, base + lane)
    group = (mask & alive) | (1 << lane)
    if (group & waiting) != group:
        return 0
    for other in range(WARP_SIZE):
        if (group >> other) & 1:
            waited = launch.suspensions[block.state[base + other]]
            if waited.kind != row.kind or mask_of(block, waited, base + other) != mask:
                return 0
    return group


# barriers
def resolve_barriers(block: Block, launch: Launch, threads: int, alive: int) -> int:
    """Let the threads at complete barriers go; how many barriers were complete."""
    if not count_arrivals(block, launch, threads, alive):
        return 0
    completed = 0
    for barrier in range(BARRIER_COUNT):
        here = block.count[barrier]
        if here > 0 and here + block.arrived[barrier] >= block.expected[barrier]:
            complete(block, launch, threads, barrier)
            completed += 1
    return completed


def count_arrivals(block: Block, launch: Launch, threads: int, alive: int) -> int:
    """Fill COUNT and EXPECTED of every barrier; how many threads wait at one."""
    for barrier in range(BARRIER_COUNT):
        block.count[barrier] = 0
        block.expected[barrier] = 0
    total = 0
    for thread in range(threads):
        if waits_for_barrier(block, launch, thread):
            row = launch.suspensions[block.state[thread]]
            barrier = barrier_of(block, row, thread)
            expected = block.post_count[thread] if row.second < 0 else row.second
            block.count[barrier] += 1
            block.expected[barrier] = expected if expected else alive
            total += 1
    return total


def waits_for_barrier(block: Block, launch: Launch, thread: int) -> bool:
    """Whether the thread waits at a barrier of the block."""
    return is_waiting(block, thread) and launch.suspensions[block.state[thread]].kind == BAR


def barrier_of(block: Block, row: Suspension, thread: int) -> int:
    """The number of the barrier, constant or posted."""
    return (block.post_mask[thread] if row.first < 0 else row.first) & BARRIER_MASK


def complete(block: Block, launch: Launch, threads: int, barrier: int) -> None:
    """Let the threads at one barrier go, with the result of its reduction."""
    variant = 0
    for thread in range(threads):
        if waits_for_barrier(block, launch, thread):
            row = launch.suspensions[block.state[thread]]
            if barrier_of(block, row, thread) == barrier:
                block.ready[thread] = CHOSEN
                variant = row.variant
    if variant:
        reduce_chosen(block, threads, variant)
    for thread in range(threads):
        if block.ready[thread] == CHOSEN:
            block.ready[thread] = FREE
    block.arrived[barrier] = 0


def reduce_chosen(block: Block, threads: int, variant: int) -> None:
    """``bar.red`` over the CHOSEN threads: how many posted a true predicate, or whether all or any did."""
    true = 0
    total = 0
    for thread in range(threads):
        if block.ready[thread] == CHOSEN:
            true += block.post_word[thread] & 1
            total += 1
    result = true
    if variant == AND:
        result = true == total
    elif variant == OR:
        result = true != 0
    for thread in range(threads):
        if block.ready[thread] == CHOSEN:
            block.result[thread] = result
