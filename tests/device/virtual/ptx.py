"""Single PTX instructions over arrays: what hand-written tests of the instruction set are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.device.virtual.gpu import HEADER, Gpu, dim3

Array = np.ndarray[Any, Any]

REGISTERS = (
    ".reg .b16 %h<20>; .reg .b32 %r<20>; .reg .b64 %rd<20>; .reg .b128 %q<4>; .reg .pred %p<8>;"
    ".reg .f32 %f<20>; .reg .f64 %d<20>;"
)

_PREFIX = {1: "h", 2: "h", 4: "r", 8: "rd"}
_OPERAND = re.compile(r"\b[abcd]\b")


def kernel(body: str, parameters: int = 1, *, declarations: str = "") -> str:
    """A kernel whose pointers are in %rd0, %rd1, ... and the thread's number in %r0."""
    names = ", ".join(f".param .u64 p{index}" for index in range(parameters))
    loads = "\n".join(f"ld.param.u64 %rd{index}, [p{index}];" for index in range(parameters))
    return f"""{HEADER}{declarations}
.visible .entry kernel({names}) {{ {REGISTERS}
{loads}
mov.u32 %r0, %tid.x;
{body}
ret; }}"""


def run(gpu: Gpu, text: str, *arrays: Array, grid: int = 1, block: int = 1, shared: int = 0) -> None:
    """Launch a kernel of pointers on copies of the arrays, which are copied back."""
    moved = [gpu.array(array) for array in arrays]
    arguments = b"".join(array.address.to_bytes(8, "little") for array in moved)
    gpu.device.launch(gpu.stream, gpu.load(text), dim3(grid), dim3(block), shared, arguments)
    for array, device in zip(arrays, moved, strict=True):
        array[...] = device.host()


def compute(gpu: Gpu, instructions: Mapping[str, str], *inputs: Array, out: Any) -> dict[str, Array]:
    """The result of every instruction on all elements of the inputs, with the dtype ``out``.

    In an instruction ``d`` is the result and ``a``, ``b``, ``c`` are the elements of the inputs, as registers of their
    size; b8 ones stand in 16-bit registers.
    """
    count, result = inputs[0].size, np.zeros((len(instructions), inputs[0].size), out)
    lines = [f"mov.u32 %r1, %ctaid.x; mad.lo.u32 %r0, %r1, 256, %r0; setp.ge.u32 %p0, %r0, {count}; @%p0 ret;"]
    names = {}
    for index, values in enumerate(inputs):
        names["abc"[index]] = f"%{_PREFIX[values.itemsize]}{10 + index}"
        lines.append(f"mad.wide.u32 %rd9, %r0, {values.itemsize}, %rd{index};")
        lines.append(f"ld.global.b{8 * values.itemsize} {names['abc'[index]]}, [%rd9];")
    names["d"] = f"%{_PREFIX[result.itemsize]}14"
    lines.append(f"mad.wide.u32 %rd9, %r0, {result.itemsize}, %rd{len(inputs)};")
    for row, text in enumerate(instructions.values()):
        lines.append(_OPERAND.sub(lambda match: names[match[0]], text))
        lines.append(f"st.global.b{8 * result.itemsize} [%rd9+{row * count * result.itemsize}], {names['d']};")
    run(gpu, kernel("\n".join(lines), len(inputs) + 1), *inputs, result, grid=-(-count // 256), block=256)
    return dict(zip(instructions, result, strict=True))
