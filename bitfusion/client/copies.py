"""Copies and fills of arrays with any strides: views are cut into runs of bytes without gaps, which travel together.

A view of many tiny runs that lie close together is read with all that is between them, and picked apart here: a run costs about as much
as ``RUN_COST`` bytes do. Host memory that lies as the device's does is used as it is; anything else passes through a contiguous copy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bitfusion import limits
from bitfusion.client import operations
from bitfusion.client.core import Core
from bitfusion.client.layout import Layout, Runs, c_strides, runs
from bitfusion.session.client import Operation, Wait
from bitfusion.wire.operations import Opcode

Array = NDArray[np.generic]

RUN_COST = 8 * 1024
"""Bytes that could be received in the time one more read takes (some 5 us of Python at each end, at about 2 GB/s)."""


def download(core: Core, stream: int, address: int, layout: Layout, target: Array) -> Operation[None]:
    """Copy the view ``layout`` of the allocation at ``address`` into ``target``, of the same shape and dtype."""
    if not layout.size:
        return
    cut = runs(layout)
    whole = _canonical(target, cut)
    direct = whole.flags.c_contiguous and whole.size == math.prod(cut.lengths)
    staging = whole if direct else np.empty(cut.lengths, target.dtype)
    if cut.count > 1 and cut.count * RUN_COST + staging.nbytes > cut.span:
        spanned = np.empty(cut.span, np.uint8)
        yield from operations.read(core, stream, address + cut.start, spanned.data)
        core.session.metrics.copied_bytes += staging.nbytes
        staging[...] = np.ndarray(staging.shape, target.dtype, spanned.data, 0, _steps(cut, staging))
    else:
        yield from operations.read_pieces(core, stream, _pieces(address, cut, staging))
    if not direct:
        core.session.metrics.copied_bytes += target.nbytes
        whole[...] = staging


def upload(core: Core, stream: int, address: int, layout: Layout, source: Array) -> Operation[None]:
    """Copy ``source``, of the same dtype and a shape that broadcasts to the view's, into the view of the allocation."""
    if not layout.size:
        return
    cut = runs(layout)
    whole = _canonical(np.broadcast_to(source, layout.shape), cut)
    core_part = whole[(0,) * len(cut.repeated) + (...,)]
    if not core_part.flags.c_contiguous:
        core.session.metrics.copied_bytes += core_part.nbytes
    data = np.ascontiguousarray(core_part)
    yield from operations.write_pieces(core, stream, _pieces(address, cut, data))


def copy(core: Core, stream: int, target: tuple[int, Layout], source: tuple[int, Layout]) -> Operation[None]:
    """Copy between two views of one shape and item size on the device; the source may repeat (stride 0)."""
    (target_address, target_layout), (source_address, source_layout) = target, source
    if not target_layout.size:
        return
    if _overlap(target_address, target_layout, source_address, source_layout):
        yield from _copy_apart(core, stream, target, source)
        return
    core.reap()
    start, other, run, axes = _joint(target_layout, source_layout)
    pairs = [(target_address + start, source_address + other)]
    for length, target_stride, source_stride in axes:
        pairs = [(to + i * target_stride, of + i * source_stride) for to, of in pairs for i in range(length)]
    for to, of in pairs:
        while core.session.full:
            yield Wait.ROOM
        core.session.post(Opcode.COPY, stream, to, of, run)


def fill(core: Core, stream: int, address: int, layout: Layout, item: bytes) -> Operation[None]:
    """Set every element of the view to ``item``."""
    if not layout.size:
        return
    if len(item) > limits.PATTERN_SIZE_MAX:
        value: Array = np.frombuffer(item, f"V{len(item)}")
        yield from upload(core, stream, address, layout, value)
        return
    core.reap()
    cut = runs(layout)
    for offset in cut.offsets():
        while core.session.full:
            yield Wait.ROOM
        core.session.post(Opcode.FILL, stream, address + offset, cut.run, item)


def _canonical(array: Array, cut: Runs) -> Array:
    """The array as the device's canonical view has it: the axes that repeat first, then strides descending, none negative."""
    steps = tuple(slice(None, None, -1) if axis in cut.flipped else slice(None) for axis in range(array.ndim))
    return array[(*steps, ...)].transpose([*sorted(cut.repeated), *cut.order])


def _steps(cut: Runs, staging: Array) -> tuple[int, ...]:
    """The canonical strides, for staging that may have leading axes of length one."""
    return (0,) * (staging.ndim - len(cut.steps)) + cut.steps


def _pieces(address: int, cut: Runs, data: Array) -> Iterator[tuple[int, memoryview]]:
    """Each run's address and its bytes in the contiguous ``data``."""
    flat = data.reshape(-1).view(np.uint8).data
    for index, offset in enumerate(cut.offsets()):
        yield address + offset, flat[index * cut.run : (index + 1) * cut.run]


def _overlap(target_address: int, target: Layout, source_address: int, source: Layout) -> bool:
    """Whether copying run by run could read what it has already written; one run is copied as memmove does."""
    (low, high), (other_low, other_high) = target.extent, source.extent
    apart = target_address + high <= source_address + other_low or source_address + other_high <= target_address + low
    return not apart and bool(_joint(target, source)[3])


def _copy_apart(core: Core, stream: int, target: tuple[int, Layout], source: tuple[int, Layout]) -> Operation[None]:
    """Copy by way of new memory, which is released once the copies are posted."""
    shape, itemsize = source[1].shape, source[1].itemsize
    layout = Layout(0, shape, c_strides(shape, itemsize), itemsize)
    between = yield from operations.allocate(core, layout.size * layout.itemsize)
    yield from copy(core, stream, (between.number, layout), source)
    yield from copy(core, stream, target, (between.number, layout))


def _joint(target: Layout, source: Layout) -> tuple[int, int, int, list[tuple[int, int, int]]]:
    """Offsets of the first run in both, its bytes, and the axes (length, target stride, source stride) over the runs."""
    start, other = target.offset, source.offset
    axes: list[tuple[int, int, int]] = []
    for length, to, of in zip(target.shape, target.strides, source.strides, strict=True):
        if length == 1:
            continue
        if to < 0:
            start, other, to, of = start + to * (length - 1), other + of * (length - 1), -to, -of
        axes.append((length, to, of))
    axes.sort(key=lambda axis: -axis[1])
    run = target.itemsize
    while axes and axes[-1][1:] == (run, run):
        run *= axes.pop()[0]
    return start, other, run, axes
