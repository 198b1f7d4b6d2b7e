"""The warp operations of PTX: what each lane posted becomes every lane's result. Restricted Python.

A shuffled value only moves to where every lane reads it when it is resumed (``emit_shuffle``).

``lanes`` is the set of participating lanes of the warp whose first thread is ``base``. References: PTX ISA 9.7.9.6
(shfl.sync), 9.7.13 (vote, match, activemask, redux, elect).
"""

from __future__ import annotations

from typing import Final

from bitfusion.device.virtual.layout import SUSPENSION, WARP_SIZE
from bitfusion.device.virtual.records import Block, Suspension

SHFL: Final = SUSPENSION["shfl"]
VOTE: Final = SUSPENSION["vote"]
MATCH: Final = SUSPENSION["match"]
REDUX: Final = SUSPENSION["redux"]
ACTIVEMASK: Final = SUSPENSION["activemask"]
ELECT: Final = SUSPENSION["elect"]

# variants (layout.KernelCode.suspensions)
ALL: Final = 0
ANY: Final = 1
UNIFORM: Final = 2
ADD: Final = 0
MIN: Final = 1
MAX: Final = 2
AND: Final = 3
OR: Final = 4
XOR: Final = 5
MIN_UNSIGNED: Final = 6
MAX_UNSIGNED: Final = 7

UINT32_MAX: Final = 0xFFFFFFFF


def perform(block: Block, row: Suspension, base: int, size: int) -> bool:
    """Perform the operation at which all threads of a warp wait; False if a mask leaves one of them out."""
    lanes = (1 << size) - 1
    if row.first == 0 and not masks_cover(block, row, base, size):
        return False
    operate(block, row.kind, row.variant, base, lanes)
    return True


def masks_cover(block: Block, row: Suspension, base: int, size: int) -> bool:
    """Whether the mask of each thread of a warp names all of them."""
    named = row.second
    if named == 0:
        named = UINT32_MAX
        for lane in range(size):
            named &= block.post_mask[base + lane]
    return ~named & ((1 << size) - 1) == 0


def mask_of(block: Block, row: Suspension, thread: int) -> int:
    """The lanes a thread waits for, constant or posted."""
    return row.second & UINT32_MAX if row.second else block.post_mask[thread]


def operate(block: Block, kind: int, variant: int, base: int, lanes: int) -> None:
    """Perform a warp operation. Anything else (bar.warp.sync) only waits."""
    if kind == SHFL:
        shuffle(block, base, lanes)
    elif kind == VOTE:
        give(block, base, lanes, vote(block, variant, base, lanes))
    elif kind == MATCH:
        match_any(block, base, lanes)
        if variant == ALL:
            match_all(block, base, lanes)
    elif kind == REDUX:
        give(block, base, lanes, reduce(block, variant, base, lanes))
    elif kind == ACTIVEMASK:
        give(block, base, lanes, lanes)
    elif kind == ELECT:
        elect(block, base, lanes)


def give(block: Block, base: int, lanes: int, result: int) -> None:
    """The same result for all lanes."""
    for lane in range(WARP_SIZE):
        if (lanes >> lane) & 1:
            block.result[base + lane] = result


def shuffle(block: Block, base: int, lanes: int) -> None:
    """What each lane posted."""
    for lane in range(WARP_SIZE):
        if (lanes >> lane) & 1:
            block.result[base + lane] = block.post_word[base + lane]


def vote(block: Block, variant: int, base: int, lanes: int) -> int:
    """The set of lanes that voted yes, or what the variant makes of it."""
    ballot = 0
    for lane in range(WARP_SIZE):
        if (lanes >> lane) & 1:
            ballot |= (block.post_word[base + lane] & 1) << lane
    if variant == ALL:
        return ballot == lanes
    if variant == ANY:
        return ballot != 0
    if variant == UNIFORM:
        return ballot in (0, lanes)
    return ballot


def match_any(block: Block, base: int, lanes: int) -> None:
    """Each lane: the set of lanes that posted its value."""
    for lane in range(WARP_SIZE):
        if (lanes >> lane) & 1:
            value = block.post_value[base + lane]
            same = 0
            for other in range(WARP_SIZE):
                if (lanes >> other) & 1:
                    same |= (block.post_value[base + other] == value) << other
            block.result[base + lane] = same


def match_all(block: Block, base: int, lanes: int) -> None:
    """After ``match_any``: all lanes if they posted one value, else none; and a flag that says which."""
    for lane in range(WARP_SIZE):
        if (lanes >> lane) & 1:
            same = block.result[base + lane] == lanes
            block.result[base + lane] = lanes if same else 0
            block.result_flag[base + lane] = same


def reduce(block: Block, variant: int, base: int, lanes: int) -> int:
    """The 32-bit values of all lanes, combined."""
    total = 0
    first = 1
    for lane in range(WARP_SIZE):
        if (lanes >> lane) & 1:
            value = block.post_word[base + lane]
            if variant < MIN_UNSIGNED:
                value = (value ^ 0x80000000) - 0x80000000
            total = value if first else combine(variant, total, value)
            first = 0
    return total


def combine(variant: int, total: int, value: int) -> int:
    """One step of ``redux``."""
    if variant == ADD:
        return total + value
    if variant in (MIN, MIN_UNSIGNED):
        return value if value < total else total
    if variant in (MAX, MAX_UNSIGNED):
        return value if value > total else total
    if variant == AND:
        return total & value
    if variant == OR:
        return total | value
    return total ^ value


def elect(block: Block, base: int, lanes: int) -> None:
    """The lowest lane leads."""
    leader = -1
    for lane in range(WARP_SIZE):
        if (lanes >> lane) & 1:
            leader = lane if leader < 0 else leader
            block.result[base + lane] = leader
            block.result_flag[base + lane] = leader == lane
