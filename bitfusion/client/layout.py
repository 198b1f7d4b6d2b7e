"""Shapes and strides without memory behind them: indexing, reshaping, contiguity, and how a strided view is cut into runs. Pure.

Follows NumPy's basic indexing (https://numpy.org/doc/stable/user/basics.indexing.html); strides and offsets are bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index as to_index
from typing import TypeAlias

from bitfusion.errors import UnsupportedError

Shape: TypeAlias = tuple[int, ...]
Index: TypeAlias = "int | slice | None | ellipsis"  # noqa: F821 (a name that only type checkers know)


@dataclass(frozen=True, slots=True)
class Layout:
    """A view: the bytes from its allocation's beginning to its first element, its shape and its strides."""

    offset: int
    shape: Shape
    strides: Shape
    itemsize: int

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def is_c_contiguous(self) -> bool:
        """Whether the elements lie in memory without gaps, last axis fastest."""
        return self.size <= 1 or _dense(self.shape[::-1], self.strides[::-1], self.itemsize)

    @property
    def is_f_contiguous(self) -> bool:
        """Whether the elements lie in memory without gaps, first axis fastest."""
        return self.size <= 1 or _dense(self.shape, self.strides, self.itemsize)

    @property
    def extent(self) -> tuple[int, int]:
        """The offsets of the first byte of the view and of the first byte after it."""
        if not self.size:
            return self.offset, self.offset
        reach = [stride * (length - 1) for length, stride in zip(self.shape, self.strides, strict=True)]
        low = self.offset + sum(item for item in reach if item < 0)
        return low, self.offset + sum(item for item in reach if item > 0) + self.itemsize

    def __getitem__(self, key: object) -> Layout:
        """Basic indexing. IndexError as NumPy, TypeError for what would need a copy (arrays, lists, masks)."""
        keys = _expand(key if isinstance(key, tuple) else (key,), len(self.shape))
        offset, axis = self.offset, 0
        shape: list[int] = []
        strides: list[int] = []
        for item in keys:
            if item is None:
                shape.append(1)
                strides.append(0)
                continue
            length, stride = self.shape[axis], self.strides[axis]
            if isinstance(item, slice):
                start, stop, step = item.indices(length)
                count = len(range(start, stop, step))
                offset += start * stride if count else 0
                shape.append(count)
                strides.append(stride * step)
            else:
                offset += _position(item, length, axis) * stride
            axis += 1
        return Layout(offset, tuple(shape), tuple(strides), self.itemsize)

    def transpose(self, axes: Sequence[int] | None = None) -> Layout:
        """The axes in another order; reversed if none is given. ValueError for axes that are not a permutation."""
        count = len(self.shape)
        order = (
            tuple(range(count))[::-1] if axes is None else tuple(axis + count if axis < 0 else axis for axis in axes)
        )
        if sorted(order) != list(range(count)):
            raise ValueError(f"invalid axes list {axes!r}")
        return Layout(
            self.offset,
            tuple(self.shape[axis] for axis in order),
            tuple(self.strides[axis] for axis in order),
            self.itemsize,
        )

    def reshape(self, shape: Sequence[int], order: str = "C") -> Layout:
        """The same elements as another shape. UnsupportedError where that needs a copy, ValueError if the sizes differ.

        ``order`` is that of the elements: ``C``, ``F``, or ``A`` for that in which they lie.
        """
        if order not in ("C", "F", "A"):
            raise ValueError(f"order must be 'C', 'F' or 'A', not {order!r}")
        if order == "A":
            order = "F" if self.is_f_contiguous and not self.is_c_contiguous else "C"
        target = _complete(tuple(to_index(length) for length in shape), self.size)
        if order == "F":
            reverse = Layout(self.offset, self.shape[::-1], self.strides[::-1], self.itemsize).reshape(target[::-1])
            return Layout(self.offset, target, reverse.strides[::-1], self.itemsize)
        if self.size == 0 or self.is_c_contiguous:
            return Layout(self.offset, target, c_strides(target, self.itemsize), self.itemsize)
        strides = _split(self._merged(), target)
        if strides is None:
            raise UnsupportedError(
                f"operation requires copying: shape {self.shape} with strides {self.strides} cannot become {target} as it is"
            )
        return Layout(self.offset, target, strides, self.itemsize)

    def squeeze(self, axis: int | Sequence[int] | None = None) -> Layout:
        """Without the axes of length one, or without those given. ValueError if one of those is longer."""
        count = len(self.shape)
        wanted = range(count) if axis is None else [axis] if isinstance(axis, int) else axis
        given = {item + count if item < 0 else item for item in wanted}
        if axis is not None and any(self.shape[item] != 1 for item in given):
            raise ValueError("cannot remove an axis that is longer than one")
        kept = [item for item in range(count) if item not in given or self.shape[item] != 1]
        return Layout(
            self.offset,
            tuple(self.shape[item] for item in kept),
            tuple(self.strides[item] for item in kept),
            self.itemsize,
        )

    def broadcast(self, shape: Shape) -> Layout:
        """The same elements repeated to ``shape``: new axes and those of length one do not move. ValueError if it does not fit."""
        missing = len(shape) - len(self.shape)
        lengths = (1,) * missing + self.shape
        strides = (0,) * missing + self.strides
        if missing < 0 or any(have not in (1, want) for have, want in zip(lengths, shape, strict=True)):
            raise ValueError(f"an array of shape {self.shape} does not broadcast to {shape}")
        steps = tuple(0 if have != want else step for have, want, step in zip(lengths, shape, strides, strict=True))
        return Layout(self.offset, shape, steps, self.itemsize)

    def _merged(self) -> list[tuple[int, int]]:
        """(length, stride) of the axes, neighbours joined where they step through memory as one."""
        merged: list[tuple[int, int]] = []
        for length, stride in zip(self.shape, self.strides, strict=True):
            if length == 1:
                continue
            if merged and merged[-1][1] == stride * length:
                merged[-1] = (merged[-1][0] * length, stride)
            else:
                merged.append((length, stride))
        return merged


def c_strides(shape: Shape, itemsize: int) -> Shape:
    """Strides of a new array, last axis fastest."""
    strides = [itemsize] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * shape[axis + 1]
    return tuple(strides)


def f_strides(shape: Shape, itemsize: int) -> Shape:
    """Strides of a new array, first axis fastest."""
    return c_strides(shape[::-1], itemsize)[::-1]


@dataclass(frozen=True, slots=True)
class Runs:
    """A strided view as runs of bytes without gaps, in ascending axis order of the canonical view.

    ``order`` and ``flipped`` say how the canonical view (strides positive and descending, axes that repeat or do not
    move left out) came from the original: take these axes in this order, those in ``flipped`` backwards.
    """

    start: int
    run: int
    """Bytes of one run."""
    shape: Shape
    strides: Shape
    """Of the runs' first bytes."""
    order: tuple[int, ...]
    flipped: frozenset[int]
    repeated: frozenset[int]
    lengths: Shape
    """The canonical view's shape in elements."""
    steps: Shape
    """The canonical view's strides."""

    @property
    def count(self) -> int:
        """How many runs there are."""
        return math.prod(self.shape)

    @property
    def span(self) -> int:
        """Bytes from the first run's first to the last run's last."""
        return sum(stride * (length - 1) for length, stride in zip(self.shape, self.strides, strict=True)) + self.run

    def offsets(self) -> list[int]:
        """The first byte of each run."""
        offsets = [self.start]
        for length, stride in zip(self.shape, self.strides, strict=True):
            offsets = [offset + index * stride for offset in offsets for index in range(length)]
        return offsets


def runs(layout: Layout) -> Runs:
    """Cut a view with at least one element into runs."""
    axes = range(len(layout.shape))
    repeated = frozenset(axis for axis in axes if layout.strides[axis] == 0 or layout.shape[axis] == 1)
    flipped = frozenset(axis for axis in axes if layout.strides[axis] < 0 and axis not in repeated)
    order = tuple(sorted((axis for axis in axes if axis not in repeated), key=lambda axis: -abs(layout.strides[axis])))
    lengths = tuple(layout.shape[axis] for axis in order)
    steps = tuple(abs(layout.strides[axis]) for axis in order)
    run, inner = layout.itemsize, len(order)
    while inner and steps[inner - 1] == run:
        inner -= 1
        run *= lengths[inner]
    merged = Layout(0, lengths[:inner], steps[:inner], run)._merged()
    return Runs(
        layout.extent[0], run, tuple(item[0] for item in merged), tuple(item[1] for item in merged),
        order, flipped, repeated, lengths, steps,
    )  # fmt: skip


def _dense(shape: Shape, strides: Shape, itemsize: int) -> bool:
    """Whether the axes, fastest first, step through memory without gaps."""
    for length, stride in zip(shape, strides, strict=True):
        if length != 1:
            if stride != itemsize:
                return False
            itemsize *= length
    return True


def _expand(keys: tuple[object, ...], dimensions: int) -> list[int | slice | None]:
    """The index with its ellipsis written out: one item for each axis, and None where an axis is new."""
    used = sum(item is not None and item is not Ellipsis for item in keys)
    if used > dimensions:
        raise IndexError(f"too many indices: the array has {dimensions} dimensions, {used} were indexed")
    if sum(item is Ellipsis for item in keys) > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    rest: list[int | slice | None] = [slice(None)] * (dimensions - used)
    expanded: list[int | slice | None] = []
    for item in keys:
        if item is Ellipsis:
            expanded += rest
            rest = []
        else:
            expanded.append(_item(item))
    return expanded + rest


def _item(item: object) -> int | slice | None:
    if item is None or isinstance(item, slice):
        return item
    if not isinstance(item, bool) and hasattr(item, "__index__"):
        return to_index(item)
    raise TypeError(
        f"a device array is indexed by integers, slices, ... and None, not by {type(item).__name__}; copy it to the host first"
    )


def _position(item: int, length: int, axis: int) -> int:
    if not -length <= item < length:
        raise IndexError(f"index {item} is out of bounds for axis {axis} with size {length}")
    return item + length if item < 0 else item


def _complete(shape: Shape, size: int) -> Shape:
    """The shape with its one -1 worked out. ValueError if it does not hold ``size`` elements."""
    unknown = [axis for axis, length in enumerate(shape) if length == -1]
    known = math.prod(length for length in shape if length != -1)
    if len(unknown) == 1 and known and size % known == 0:
        axis = unknown[0]
        shape = (*shape[:axis], size // known, *shape[axis + 1 :])
    if any(length < 0 for length in shape) or math.prod(shape) != size:
        raise ValueError(f"an array of {size} elements cannot be reshaped to {shape}")
    return shape


def _split(merged: list[tuple[int, int]], target: Shape) -> Shape | None:
    """Strides of ``target`` over the merged axes, last axis first; None where an axis would cross a gap."""
    strides: list[int] = []
    blocks = merged[::-1]
    length, stride = blocks.pop(0) if blocks else (1, 0)
    for wanted in target[::-1]:
        if length == 1 and blocks and wanted != 1:
            length, stride = blocks.pop(0)
        if length % wanted:
            return None
        strides.append(stride)
        length //= wanted
        stride *= wanted
    return tuple(strides[::-1])
