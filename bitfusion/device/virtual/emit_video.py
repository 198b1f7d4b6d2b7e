"""Video instructions on two or four lanes of a register (PTX ISA, 9.7.17), without selectors and masks: what CUDA C++
makes of ``__vabsdiffu4`` and its like.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bitfusion.device.virtual.builder import Value
from bitfusion.device.virtual.datatypes import B32
from bitfusion.device.virtual.emitter import Emitter
from bitfusion.device.virtual.syntax import Instruction
from bitfusion.device.virtual.table import Table

TABLE = Table()


def _difference(e: Emitter, left: Value, right: Value) -> Value:
    return e.intrinsic("smax", e.op("sub", left, right), e.op("sub", right, left))


_OPERATIONS: Final[dict[str, Callable[[Emitter, Value, Value], Value]]] = {
    "vadd": lambda e, left, right: e.op("add", left, right),
    "vsub": lambda e, left, right: e.op("sub", left, right),
    "vabsdiff": _difference,
    "vmin": lambda e, left, right: e.intrinsic("smin", left, right),
    "vmax": lambda e, left, right: e.intrinsic("smax", left, right),
}


@TABLE.emits(
    " ".join(f"{name}{lanes}" for name in _OPERATIONS for lanes in (2, 4)),
    types="u32 s32",
    modifiers="sat add",
    operands=4,
    type_count=3,
)
def video(e: Emitter, i: Instruction) -> None:
    """``vadd2.s32.s32.s32.sat d, a, b, c``: lane by lane; with .add the sum of the lanes, which are not cut off, and c."""
    if len(i.types) != 3:
        raise e.invalid("needs three types")
    target, *sources = i.types
    width = 32 // int(i.opcode[-1])
    left, right = (e.read(operand, B32) for operand in i.operands[1:3])
    results = []
    for shift in range(0, 32, width):
        lanes = (
            e.extend(e.field(value, shift, f"i{width}"), "i32", datatype.signed)
            for value, datatype in zip((left, right), sources, strict=True)
        )
        result = _OPERATIONS[i.opcode[:-1]](e, *lanes)
        if i.has("sat"):
            low, high = (-(1 << width - 1), (1 << width - 1) - 1) if target.signed else (0, (1 << width) - 1)
            result = e.clamp(result, low, high)
        results.append(result)
    if i.has("add"):
        total = e.read(i.operands[3], B32)
        for result in results:
            total = e.op("add", total, result)
        e.write(i.operands[0], total)
    else:
        e.write(i.operands[0], e.bits(e.pack([e.trunc(result, f"i{width}") for result in results]), "i32"))
