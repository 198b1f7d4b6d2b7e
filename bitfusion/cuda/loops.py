"""The kernels under ufuncs: one thread for each step of a loop over the outer axes of all operands, which calls the user's function.

Owns the text of these kernels, which depends on nothing but numbers of axes, and how axes are joined so that there are few of them.
"""

from __future__ import annotations

import hashlib
import linecache
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bitfusion.client.array import DeviceArray
from bitfusion.client.layout import Layout, Shape
from bitfusion.cuda.decorators import jit
from bitfusion.cuda.device_names import DeviceName
from bitfusion.cuda.dispatcher import THREADS_DEFAULT, Dispatcher
from bitfusion.errors import InvalidValueError

Step = tuple[int, ...]
"""Strides of all operands along one axis."""


@dataclass(frozen=True, slots=True)
class Operand:
    """One parameter of the loop: ``value`` is a device array with all loop axes first, or a scalar, which every call gets."""

    value: Any
    inner: int = 0
    """Axes after those of the loop: what the function gets of the array."""

    @property
    def is_array(self) -> bool:
        """Whether there is anything to index."""
        return isinstance(self.value, DeviceArray)


class Loops:
    """The loop kernels of one function: made when they are first needed, for each number of axes and kind of operands.

    With ``returns`` the last operand gets what the function returns; without, the function writes into its own arguments.
    """

    def __init__(self, core: Dispatcher, *, returns: bool) -> None:
        self._core = core
        self._returns = returns
        self._made: dict[tuple[Any, ...], Dispatcher] = {}

    def run(self, shape: Shape, operands: Sequence[Operand], stream: Any, threads_max: int) -> None:
        """Call the function for each index of ``shape``. Posted in ``stream``; nothing for a shape without elements."""
        if threads_max < 1:
            raise InvalidValueError(f"a block has at least one thread, not {threads_max}")
        if not math.prod(shape):
            return
        shape, operands = joined(shape, operands)
        kernel = self._kernel(len(shape), operands)
        extents = shape[1:]
        kernel.forall(math.prod(shape), min(threads_max, THREADS_DEFAULT), stream)(
            math.prod(shape), *extents, *(operand.value for operand in operands)
        )

    def _kernel(self, axes: int, operands: Sequence[Operand]) -> Dispatcher:
        kinds = tuple(operand.inner if operand.is_array else None for operand in operands)
        if (axes, kinds) not in self._made:
            text = loop_text(axes, kinds, self._returns)
            self._made[axes, kinds] = _kernel_of(text, self._core)
        return self._made[axes, kinds]


def joined(shape: Shape, operands: Sequence[Operand]) -> tuple[Shape, list[Operand]]:
    """The same loop over as few axes as can be: neighbours that every operand steps through as one become one; at least one is left."""
    arrays = [operand.value for operand in operands if operand.is_array]
    steps: list[Step] = list(zip(*(array.strides[: len(shape)] for array in arrays), strict=True)) or [()] * len(shape)
    lengths: list[int] = []
    strides: list[Step] = []
    for length, step in zip(shape, steps, strict=True):
        if length == 1:
            continue
        if lengths and strides[-1] == tuple(item * length for item in step):
            lengths[-1], strides[-1] = lengths[-1] * length, step
        else:
            lengths.append(length)
            strides.append(step)
    if not lengths:
        lengths, strides = [1], [tuple(array.dtype.itemsize for array in arrays)]
    places = iter(range(len(arrays)))
    return tuple(lengths), [
        _relaid(operand, lengths, [step[place] for step in strides], len(shape))
        if operand.is_array and (place := next(places)) >= 0
        else operand
        for operand in operands
    ]


def _relaid(operand: Operand, lengths: Sequence[int], strides: Sequence[int], loop_axes: int) -> Operand:
    old: Layout = operand.value.layout
    shape = (*lengths, *old.shape[loop_axes:])
    steps = (*strides, *old.strides[loop_axes:])
    return Operand(operand.value.laid_out(Layout(old.offset, shape, steps, old.itemsize)), operand.inner)


def loop_text(axes: int, kinds: Sequence[int | None], returns: bool) -> str:
    """The source of a loop kernel; ``kinds`` are the operands' numbers of inner axes, None for scalars.

    Its parameters are the number of steps, the lengths of all loop axes but the first, and the operands.
    """
    names = [f"a{position}" for position in range(len(kinds))]
    extents = [f"n{axis}" for axis in range(1, axes)]
    index = ", ".join(f"i{axis}" for axis in range(axes))
    items = [
        own if kind is None else f"{own}[{', '.join([index, *[':'] * kind])}]"
        for own, kind in zip(names, kinds, strict=True)
    ]
    lines = [f"def loop({', '.join(['count', *extents, *names])}):", "    i0 = grid(1)", "    if i0 < count:"]
    for axis in range(axes - 1, 0, -1):
        lines += [f"        i{axis} = i0 % n{axis}", f"        i0 = i0 // n{axis}"]
    call = f"core({', '.join(items[:-1] if returns else items)})"
    lines.append(f"        {items[-1]} = {call}" if returns else f"        {call}")
    return "\n".join(lines) + "\n"


def _kernel_of(text: str, core: Dispatcher) -> Dispatcher:
    """The kernel of a text of ours. Kernels travel as source, so the text stands where sources are looked for."""
    file = f"<loop {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    namespace: dict[str, Any] = {"grid": DeviceName("numba.cuda.grid"), "core": core}
    exec(compile(text, file, "exec"), namespace)  # made above, of numbers alone
    made: Dispatcher = jit(namespace["loop"])
    return made
