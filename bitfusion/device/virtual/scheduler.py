"""Runs the threads of a block from suspension point to suspension point. Restricted Python.

While all threads are in one state (``CURRENT``) the region is called once for the whole block, and the barrier or warp
operation is done for all of them at once. When they drift apart (``MIXED``) every thread is resumed by itself as soon
as what it waits for has happened, until a barrier brings them together again.
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
from bitfusion.device.virtual.layout import FAULT, WARP_SIZE
from bitfusion.device.virtual.records import Block, Launch, Suspension
from bitfusion.device.virtual.restricted import fill, resume, volatile
from bitfusion.device.virtual.warp import UINT32_MAX, operate

DEADLOCK: Final = FAULT["DEADLOCK"]

# states
ENDED: Final = -1
MIXED: Final = -2

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
    state = common_state(block, threads)
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
    block.current = MIXED
    return RUNNING


def resume_all(block: Block, launch: Launch, state: int) -> None:
    """Call the state's region for the whole block."""
    resume(launch.regions[state], block, 0, launch.threads_z, 0, launch.threads_y, 0, launch.threads_x, 0)


def common_state(block: Block, threads: int) -> int:
    """The state all threads are in, or MIXED."""
    state = block.state[0]
    different = 0
    for thread in range(threads):
        different |= block.state[thread] ^ state
    return state if different == 0 else MIXED


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
        lanes = UINT32_MAX if left >= WARP_SIZE else (1 << left) - 1
        if row.first == 0 and not masks_cover(block, base, lanes):
            return UNRESOLVED
        operate(block, row.kind, row.variant, base, lanes)
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


def masks_cover(block: Block, base: int, lanes: int) -> bool:
    """Whether every lane's mask names all lanes of its warp."""
    missing = 0
    for lane in range(WARP_SIZE):
        if (lanes >> lane) & 1:
            missing |= lanes & ~block.post_mask[base + lane]
    return missing == 0


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
            state = common_state(block, threads)
            if state >= 0:
                block.current = state
                return RUNNING
        resumed = resume_free(block, launch)
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


def resume_free(block: Block, launch: Launch) -> int:
    """Resume each free thread by itself, in order; how many there were."""
    resumed = 0
    thread = 0
    for z in range(launch.threads_z):
        for y in range(launch.threads_y):
            for x in range(launch.threads_x):
                if block.ready[thread] == FREE and block.state[thread] >= 0:
                    block.ready[thread] = WAITING
                    resume(launch.regions[block.state[thread]], block, z, z + 1, y, y + 1, x, x + 1, thread)
                    resumed += 1
                thread += 1
    return resumed
