"""The layout text of generalized ufuncs, ``(m,n),(n,p)->(m,p)``: what it says about the shapes of arguments and results. Pure.

Source: NumPy's generalized universal functions (https://numpy.org/doc/stable/reference/c-api/generalized-ufuncs.html), as far as numba.cuda
goes: names only, no fixed sizes and no optional dimensions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]
Symbols = tuple[str, ...]
"""The names of one argument's inner axes."""

_GROUP = re.compile(r"\(([^()]*)\),?")


@dataclass(frozen=True, slots=True)
class Schedule:
    """One call: the common ``loop`` shape, and the inner shapes of arguments and results."""

    loop: Shape
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class CoreShape:
    """A parsed layout."""

    inputs: tuple[Symbols, ...]
    outputs: tuple[Symbols, ...]

    @classmethod
    def parse(cls, text: str) -> CoreShape:
        """ValueError for what is no layout, NameError for an output's axis that no input has."""
        left, arrow, right = "".join(text.split()).partition("->")
        if not arrow:
            raise ValueError(
                f"{text!r} is not the layout of a generalized ufunc; write for instance '(m,n),(n,p)->(m,p)'"
            )
        parsed = cls(tuple(_groups(left, text)), tuple(_groups(right, text)))
        known = {symbol for symbols in parsed.inputs for symbol in symbols}
        missing = sorted({symbol for symbols in parsed.outputs for symbol in symbols} - known)
        if missing:
            raise NameError(f"undefined output symbols: {','.join(missing)}")
        return parsed

    def schedule(self, shapes: Sequence[Shape]) -> Schedule:
        """What a call with arguments of these shapes computes. ValueError says which argument does not fit, and where."""
        sizes: dict[str, int] = {}
        loops: list[Shape] = []
        for position, (shape, symbols) in enumerate(zip(shapes, self.inputs, strict=True), 1):
            outer = len(shape) - len(symbols)
            if outer < 0:
                raise ValueError(f"arg #{position}: insufficient inner dimension: {shape} for ({','.join(symbols)})")
            for axis, (size, symbol) in enumerate(zip(shape[outer:], symbols, strict=True), outer):
                if sizes.setdefault(symbol, size) != size:
                    raise ValueError(
                        f"arg #{position}: shape[{axis}] mismatch argument: {symbol} is {sizes[symbol]} before, {size} here"
                    )
            loops.append(shape[:outer])
        return Schedule(
            _common(loops),
            tuple(tuple(sizes[symbol] for symbol in symbols) for symbols in self.inputs),
            tuple(tuple(sizes[symbol] for symbol in symbols) for symbols in self.outputs),
        )


def _groups(part: str, text: str) -> Iterator[Symbols]:
    position = 0
    while position < len(part):
        found = _GROUP.match(part, position)
        symbols = tuple(filter(None, found[1].split(","))) if found else ()
        if not found or not all(symbol.isidentifier() for symbol in symbols):
            raise ValueError(f'bad token in signature "{text}"')
        yield symbols
        position = found.end()


def _common(loops: Sequence[Shape]) -> Shape:
    """The shape that all loop shapes broadcast to. ValueError names the first that does not fit.

    As in numba.cuda the first of the largest decides where the others have one element, so that (4,) of (4,) and (1,) stays without a loop.
    """
    largest = max(loops, key=math.prod, default=())
    if all(shape in ((), (1,), largest) for shape in loops):
        return largest
    common: Shape = ()
    for position, shape in enumerate(loops, 1):
        try:
            common = np.broadcast_shapes(common, shape)
        except ValueError:
            raise ValueError(f"arg #{position}: outer dimension mismatch: {shape} and {common}") from None
    return common
