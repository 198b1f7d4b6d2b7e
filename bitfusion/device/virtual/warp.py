"""The warp operations of PTX: what each lane posted becomes every lane's result. Restricted Python.

``lanes`` is the set of participating lanes of the warp whose first thread is ``base``. References: PTX ISA 9.7.9.6
(shfl.sync), 9.7.13 (vote, match, activemask, redux, elect).
"""

from __future__ import annotations

from typing import Final

from bitfusion.device.virtual.layout import SUSPENSION, WARP_SIZE
from bitfusion.device.virtual.records import Block

SHFL: Final = SUSPENSION["shfl"]
VOTE: Final = SUSPENSION["vote"]
MATCH: Final = SUSPENSION["match"]
REDUX: Final = SUSPENSION["redux"]
ACTIVEMASK: Final = SUSPENSION["activemask"]
ELECT: Final = SUSPENSION["elect"]

# variants (layout.KernelCode.suspensions)
UP: Final = 0
DOWN: Final = 1
BUTTERFLY: Final = 2
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

LANE_MASK: Final = WARP_SIZE - 1
UINT32_MAX: Final = 0xFFFFFFFF


def operate(block: Block, kind: int, variant: int, base: int, lanes: int) -> None:
    """Perform a warp operation. Anything else (bar.warp.sync) only waits."""
    if kind == SHFL:
        shuffle(block, variant, base, lanes)
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


def shuffle(block: Block, variant: int, base: int, lanes: int) -> None:
    """A lane whose source is out of its segment keeps its own value."""
    for lane in range(WARP_SIZE):
        if (lanes >> lane) & 1:
            operand = block.post_a[base + lane] & LANE_MASK
            control = block.post_c[base + lane]
            segment = (control >> 8) & LANE_MASK
            first = lane & segment
            bound = first | (control & LANE_MASK & ~segment)
            source = first | (operand & ~segment & LANE_MASK)
            if variant == UP:
                source = lane - operand
            elif variant == DOWN:
                source = lane + operand
            elif variant == BUTTERFLY:
                source = lane ^ operand
            inside = source >= bound if variant == UP else source <= bound
            source = source if inside else lane
            block.result[base + lane] = block.post_value[base + source]
            block.result_flag[base + lane] = inside


def vote(block: Block, variant: int, base: int, lanes: int) -> int:
    """The set of lanes that voted yes, or what the variant makes of it."""
    ballot = 0
    for lane in range(WARP_SIZE):
        if (lanes >> lane) & 1:
            ballot |= (block.post_value[base + lane] & 1) << lane
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
            value = block.post_value[base + lane] & UINT32_MAX
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
