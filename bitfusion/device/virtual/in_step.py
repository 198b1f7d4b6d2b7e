"""Warps whose lanes are still in one state, of a block whose threads have drifted apart. Restricted Python.

All lanes of such a warp have taken one way since all threads were together, so they agree on what is uniform, and the
region of their state may be called for all of them at once. A warp that falls out of step runs lane by lane until the
block has come together again.
"""

from __future__ import annotations

from typing import Final

from bitfusion.device.virtual.barrier import BAR, LOCKSTEP, WAITING, YIELD
from bitfusion.device.virtual.layout import WARP_SIZE
from bitfusion.device.virtual.records import Block, Launch
from bitfusion.device.virtual.restricted import fill, resume, volatile
from bitfusion.device.virtual.warp import perform

# states
ENDED: Final = -1
MIXED: Final = -2

STEPS_MAX: Final = 100
"""Regions a warp runs in a row before others get their turn: it may spin on what they write. It then waits where it is, and the
operation is performed once more when its turn comes.
"""


def common_state(block: Block, first: int, count: int) -> int:
    """The state all these threads are in, or MIXED."""
    state = block.state[first]
    different = 0
    for thread in range(first, first + count):
        different |= block.state[thread] ^ state
    return state if different == 0 else MIXED


def find_warps(block: Block, launch: Launch, threads: int) -> None:
    """Note which warps are in step, now that all threads but ended ones have just been together."""
    fitting = fits(launch, threads)
    for warp in range((threads + WARP_SIZE - 1) // WARP_SIZE):
        base = warp * WARP_SIZE
        left = threads - base
        size = left if left < WARP_SIZE else WARP_SIZE
        block.in_step[warp] = fitting and common_state(block, base, size) >= 0


def fits(launch: Launch, threads: int) -> bool:
    """Whether every warp is a part of a row, or some rows of a plane, which is what a region can be called for."""
    width = launch.threads_x
    if width == threads or width % WARP_SIZE == 0:
        return True
    if WARP_SIZE % width != 0:
        return False
    return launch.threads_z == 1 or launch.threads_y % (WARP_SIZE // width) == 0


def run_warp(block: Block, launch: Launch, base: int, size: int) -> None:
    """Resume the threads of a warp side by side until they wait for others, end, or fall out of step."""
    fill(block.ready, base, WAITING, size)
    for _ in range(STEPS_MAX):
        resume_warp(block, launch, base, size)
        state = common_state(block, base, size)
        if state == MIXED:
            block.in_step[base // WARP_SIZE] = 0
        if state < 0 or volatile(launch.abort):
            return
        row = launch.suspensions[state]
        if row.kind in (BAR, YIELD):
            return
        if row.kind != LOCKSTEP and not perform(block, row, base, size):
            return


def resume_warp(block: Block, launch: Launch, base: int, size: int) -> None:
    """Call the region of their state for the threads of a warp."""
    region = launch.regions[block.state[base]]
    width = launch.threads_x
    row = base // width
    z = row // launch.threads_y
    y = row - z * launch.threads_y
    x = base - row * width
    if width < WARP_SIZE and width < launch.threads:
        resume(region, block, z, z + 1, y, y + size // width, 0, width, base)
    else:
        resume(region, block, z, z + 1, y, y + 1, x, x + size, base)
