"""Runs the threads of a block from suspension point to suspension point. Restricted Python.

While all threads are in one state (``CURRENT``) the region is called once for the whole block, and the barrier or warp
operation is done for all of them at once. When they drift apart (``MIXED``) every warp that is still in step, and every
thread of the others, is resumed by itself as soon as what it waits for has happened, until a barrier brings all together
again.
"""

from __future__ import annotations

from typing import Final

from bitfusion.device.virtual.barrier import (
    BAR,
    BARRIER_MASK,
    CHOSEN,
    FREE,
    LOCKSTEP,
    WAITING,
    YIELD,
    is_waiting,
    reduce_chosen,
    resolve_barriers,
    resolve_warps,
)
from bitfusion.device.virtual.bounds import fail
from bitfusion.device.virtual.in_step import ENDED, MIXED, common_state, find_warps, run_warp
from bitfusion.device.virtual.layout import FAULT, WARP_SIZE
from bitfusion.device.virtual.records import Block, Launch, Suspension
from bitfusion.device.virtual.restricted import fill, resume, volatile
from bitfusion.device.virtual.warp import perform

DEADLOCK: Final = FAULT["DEADLOCK"]

# outcomes
FINISHED: Final = 0
YIELDED: Final = 1
ABORTED: Final = 2
RUNNING: Final = 3
UNRESOLVED: Final = 4


def run_block(block: Block, launch: Launch) -> int:
    """Run until the block is FINISHED, waits for another block (YIELDED), or the grid is ABORTED."""
    if launch.suspension_count == 0:
        resume_all(block, launch, 0)
        return FINISHED
    outcome = RUNNING
    while outcome == RUNNING:
        if block.current == MIXED:
            outcome = run_mixed(block, launch, launch.threads)
        else:
            outcome = run_together(block, launch, launch.threads)
    return outcome


# all threads in one state
def run_together(block: Block, launch: Launch, threads: int) -> int:
    """Resume all threads from the current state and, if they meet again, do what they wait for."""
    resume_all(block, launch, block.current)
    state = common_state(block, 0, threads)
    if state == ENDED:
        return FINISHED
    if volatile(launch.abort):
        return ABORTED
    if state != MIXED:
        outcome = resolve_together(block, launch.suspensions[state], threads)
        if outcome != UNRESOLVED:
            block.current = state
            return outcome
    fill(block.ready, 0, WAITING, threads)
    find_warps(block, launch, threads)
    block.current = MIXED
    return RUNNING


def resume_all(block: Block, launch: Launch, state: int) -> None:
    """Call the state's region for the whole block."""
    resume(launch.regions[state], block, 0, launch.threads_z, 0, launch.threads_y, 0, launch.threads_x, 0)


def resolve_together(block: Block, row: Suspension, threads: int) -> int:
    """All threads wait at one suspension point: RUNNING if they may go on, YIELDED, or UNRESOLVED if it is not that
    simple.
    """
    if row.kind == BAR:
        return resolve_whole_barrier(block, row, threads)
    if row.kind == YIELD:
        return YIELDED
    if row.kind == LOCKSTEP:
        return RUNNING
    for warp in range((threads + WARP_SIZE - 1) // WARP_SIZE):
        base = warp * WARP_SIZE
        left = threads - base
        if not perform(block, row, base, left if left < WARP_SIZE else WARP_SIZE):
            return UNRESOLVED
    return RUNNING


def resolve_whole_barrier(block: Block, row: Suspension, threads: int) -> int:
    """A barrier for exactly this block, with its number and its count known."""
    if row.first < 0 or row.second < 0 or (row.second > 0 and row.second != threads):
        return UNRESOLVED
    if block.arrived[row.first & BARRIER_MASK] != 0:
        return UNRESOLVED
    if row.variant:
        fill(block.ready, 0, CHOSEN, threads)
        reduce_chosen(block, threads, row.variant)
    return RUNNING


# threads in different states
def run_mixed(block: Block, launch: Launch, threads: int) -> int:
    """Resume every thread that may go on, until the block ends, waits for another block, or has come together
    (RUNNING).
    """
    while not volatile(launch.abort):
        alive = count_alive(block, threads)
        if alive == 0:
            return FINISHED
        yielding = release_yielding(block, launch, threads)
        resolve_warps(block, launch, threads)
        barriers = resolve_barriers(block, launch, threads, alive)
        # only a barrier of all threads brings them together: at a warp operation in a loop, warps may be in different
        # iterations
        if barriers == 1 and alive == threads and yielding == 0 and all_free(block, threads):
            state = common_state(block, 0, threads)
            if state >= 0:
                block.current = state
                return RUNNING
        resumed = resume_free(block, launch, threads)
        if resumed == 0:
            fail(launch, DEADLOCK, alive)
            return ABORTED
        if resumed == yielding:
            return YIELDED
    return ABORTED


def count_alive(block: Block, threads: int) -> int:
    """Threads that have not ended."""
    alive = 0
    for thread in range(threads):
        alive += block.state[thread] >= 0
    return alive


def release_yielding(block: Block, launch: Launch, threads: int) -> int:
    """Free the threads that only let others go first; how many of them spin on memory."""
    yielding = 0
    for thread in range(threads):
        if is_waiting(block, thread):
            kind = launch.suspensions[block.state[thread]].kind
            if kind in (YIELD, LOCKSTEP):
                block.ready[thread] = FREE
            yielding += kind == YIELD
    return yielding


def all_free(block: Block, threads: int) -> bool:
    """Whether no thread has to wait."""
    for thread in range(threads):  # noqa: SIM110 (the language has no all())
        if block.ready[thread] != FREE:
            return False
    return True


def resume_free(block: Block, launch: Launch, threads: int) -> int:
    """Resume each warp in step and each other thread that is free, in order; how many threads there were."""
    resumed = 0
    for warp in range((threads + WARP_SIZE - 1) // WARP_SIZE):
        base = warp * WARP_SIZE
        left = threads - base
        size = left if left < WARP_SIZE else WARP_SIZE
        free = count_free(block, base, size)
        if free == size and block.in_step[warp]:
            run_warp(block, launch, base, size)
        elif free:
            block.in_step[warp] = 0
            resume_lanes(block, launch, base, size)
        resumed += free
    return resumed


def count_free(block: Block, base: int, size: int) -> int:
    """Threads of a warp that may go on."""
    free = 0
    for thread in range(base, base + size):
        free += (block.ready[thread] == FREE) & (block.state[thread] >= 0)
    return free


def resume_lanes(block: Block, launch: Launch, base: int, size: int) -> None:
    """Resume each free thread of a warp by itself, in order."""
    for thread in range(base, base + size):
        if block.ready[thread] == FREE and block.state[thread] >= 0:
            row = thread // launch.threads_x
            x = thread - row * launch.threads_x
            z = row // launch.threads_y
            y = row - z * launch.threads_y
            block.ready[thread] = WAITING
            resume(launch.regions[block.state[thread]], block, z, z + 1, y, y + 1, x, x + 1, thread)
