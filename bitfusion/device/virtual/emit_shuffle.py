"""Where a lane's value of ``shfl`` comes from (PTX ISA, 9.7.9.6).

The scheduler only gathers the lanes and puts what they posted into RESULT; each lane finds its source by itself when it is
resumed. Neighbours then read neighbouring words, and a row of threads is still one vectorised loop.
"""

from __future__ import annotations

from bitfusion.device.virtual.builder import Value, constant
from bitfusion.device.virtual.datatypes import B32
from bitfusion.device.virtual.emitter import BLOCK_POINTER, Emitter
from bitfusion.device.virtual.layout import BLOCK, WARP_SIZE
from bitfusion.device.virtual.metadata import ALIAS
from bitfusion.device.virtual.syntax import Instruction, Pair

LANE_MASK = WARP_SIZE - 1
WORD_SIZE = 4

VARIANTS = {"up": 0, "down": 1, "bfly": 2, "idx": 3}


def take(e: Emitter, i: Instruction) -> None:
    """Write the source lane's value, or the lane's own where that is out of its segment, and a predicate that says which."""
    inside, value = _value(e, i)
    target = i.operands[0]
    if isinstance(target, Pair):
        e.write(target.second, inside)
    e.write(target, value)


def _value(e: Emitter, i: Instruction) -> tuple[Value, Value]:
    """(whether the source is in the lane's segment, the value)"""
    lane = e.op("and", e.thread.linear, LANE_MASK)
    operand, control = (e.read(operand, B32) for operand in i.operands[2:4])
    distance, clamp, segment = _field(e, operand, 0), _field(e, control, 0), _field(e, control, 8)
    outside = e.op("xor", segment, LANE_MASK)
    first = e.op("and", lane, segment)
    bound = e.op("or", first, e.op("and", clamp, outside))
    match i.require(VARIANTS):
        case 0:
            source = e.op("sub", lane, distance)
            inside = e.icmp("sge", source, bound)
            return inside, e.select(inside, _word(e, distance, -1), _word(e))
        case 1:
            source = e.op("add", lane, distance)
            inside = e.icmp("sle", source, bound)
            return inside, e.select(inside, _word(e, distance, 1), _word(e))
        case 2:
            source = e.op("xor", lane, distance)
        case _:
            source = e.op("or", first, e.op("and", distance, outside))
    inside = e.icmp("sle", source, bound)
    if (
        i.has("bfly") and distance.name in _POWERS
    ):  # two loads of neighbouring words are faster than words from anywhere
        upper = e.icmp("ne", e.op("and", lane, distance), 0)
        other = e.select(upper, _word(e, distance, -1), _word(e, distance, 1))
        return inside, e.select(inside, other, _word(e))
    return inside, _word(e, e.op("sub", e.select(inside, source, lane), lane), 1)


_POWERS = {str(1 << bit) for bit in range(5)}


def _field(e: Emitter, value: Value, shift: int) -> Value:
    """Five bits of an operand, as a constant where it is one."""
    if value.name.lstrip("-").isdigit():
        return constant("i32", int(value.name) >> shift & LANE_MASK)
    return e.op("and", e.op("lshr", value, shift) if shift else value, LANE_MASK)


def _word(e: Emitter, distance: Value | None = None, sign: int = 0) -> Value:
    """What was posted by the lane that is ``sign * distance`` lanes on. Up to a warp before and behind the array may be read."""
    index = e.op("mul", e.zext(e.thread.linear, "i64"), WORD_SIZE)
    place = e.offset(BLOCK_POINTER, e.op("add", index, BLOCK["RESULT"]))
    if distance is not None:
        place = e.offset(place, e.op("mul nsw", e.extend(distance, "i64", signed=True), sign * WORD_SIZE))
    return e.load("i32", place, ALIAS["frame"] + e.access_group)
