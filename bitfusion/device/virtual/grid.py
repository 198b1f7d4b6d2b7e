"""Shares the blocks of a grid among the cores. Restricted Python.

The launching thread works too. Other threads (``records.Worker``) are asked through a semaphore, and not waited for if
all blocks were taken before they woke up. A worker holds several blocks when blocks wait for each other: it turns to
the next when one yields.
"""

from __future__ import annotations

from typing import Final, cast

from bitfusion.device.virtual.layout import BLOCK
from bitfusion.device.virtual.records import CALLED, NONE, TAKEN, Block, Launch, Worker
from bitfusion.device.virtual.restricted import Int64, fetch_add, fill, semaphore_post, semaphore_wait, swap, volatile
from bitfusion.device.virtual.scheduler import ABORTED, FINISHED, run_block

WORKER_SIZE: Final = Worker.size
ARRIVED_SIZE: Final = BLOCK["COUNT"] - BLOCK["ARRIVED"]

BATCHES: Final = 64
"""Times a worker takes blocks of a grid: the last to end is at most a sixty-fourth of the grid behind."""

BATCH_MAX: Final = 64
"""Blocks taken at once; more would gain nothing."""


def run_grid(launch: Launch, blocks: Int64, workers: Int64, count: Int64) -> None:
    """Run a grid to its end with the help of ``count`` workers; ``blocks`` is for the launching thread's blocks."""
    for i in range(count):
        worker = cast(Worker, workers + i * WORKER_SIZE)
        worker.launch = launch
        swap(worker.call, NONE, CALLED)
        semaphore_post(worker.work)
    run_blocks(launch, blocks, 0)
    for i in range(count):
        worker = cast(Worker, workers + i * WORKER_SIZE)
        if not swap(worker.call, CALLED, NONE):
            while semaphore_wait(worker.done):
                pass


def serve(worker: Worker) -> None:
    """The main function of a worker thread."""
    while 1:
        while semaphore_wait(worker.work):
            pass
        if worker.stop:
            return
        if swap(worker.call, CALLED, TAKEN):
            run_blocks(worker.launch, worker.blocks, worker.index)
            worker.call = NONE
            semaphore_post(worker.done)


def run_blocks(launch: Launch, blocks: Int64, index: Int64) -> None:
    """Take blocks from the grid's counter and run them until there are none."""
    batch = batch_size(launch)
    number = 0  # the next of the blocks taken
    end = 0
    opened = 0
    active = 0
    position = 0
    while not volatile(launch.abort):
        address = blocks + position * launch.stride
        block = cast(Block, address)
        if position == opened:
            open_block(block, launch, address, index)
            opened += 1
        if block.idle:
            if number == end:
                number = fetch_add(launch.next, batch)
                end = number + batch
                if end > launch.total:
                    end = launch.total
            if number < end:
                start_block(block, launch, number)
                number += 1
                active += 1
            elif active == 0:
                return
            else:
                position = (position + 1) % opened  # look for a block that still waits
                continue
        outcome = run_block(block, launch)
        if outcome == ABORTED:
            return
        if outcome == FINISHED:
            block.idle = 1
            active -= 1
        else:
            position = (position + 1) % launch.resident


def batch_size(launch: Launch) -> Int64:
    """How many blocks to take at once: the counter's cache line goes from core to core each time, which can cost more than a block.

    One where blocks wait for each other, so that none is kept from running by the one that took it.
    """
    if launch.resident > 1:
        return 1
    size = launch.total // (launch.workers * BATCHES)
    if size < 1:
        return 1
    if size > BATCH_MAX:
        return BATCH_MAX
    return size


def open_block(block: Block, launch: Launch, address: Int64, index: Int64) -> None:
    """Lay out the memory of a resident block."""
    block.launch = launch
    block.shared = address + launch.shared_distance
    block.frame = address + launch.frame_distance
    block.local = address + launch.local_distance
    block.worker = index
    block.idle = 1


def start_block(block: Block, launch: Launch, number: Int64) -> None:
    """Put block ``number`` of the grid in the place of one that has finished."""
    block.block_x = number % launch.grid_x
    block.block_y = number // launch.grid_x % launch.grid_y
    block.block_z = number // (launch.grid_x * launch.grid_y)
    block.current = 0
    block.idle = 0
    fill(block.arrived, 0, 0, ARRIVED_SIZE)
