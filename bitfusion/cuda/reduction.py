"""``cuda.reduce``: a function of two numbers makes one number of an array, on the GPU.

Each block makes one number of what its threads have taken from the array, and a last block one of those. The function must be
associative and commutative, as in numba.cuda: which elements meet first is not said.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from bitfusion.client.array import DeviceArray
from bitfusion.cuda.current import current
from bitfusion.cuda.decorators import jit
from bitfusion.cuda.device_names import DeviceName
from bitfusion.cuda.dispatcher import Dispatcher, Launch
from bitfusion.cuda.memory import as_cuda_array, is_cuda_array
from bitfusion.kernels.types import from_dtype

THREADS = 256
"""Of a block: a power of two, for the tree in shared memory."""

BLOCKS_MAX = 256
"""As many as the last block has threads: it takes one partial result each."""


class Reduce:
    """Reduces arrays with a binary function: ``sum_of = cuda.reduce(lambda a, b: a + b)``, or as a decorator.

    Keep it: for each type of elements it is compiled once.
    """

    def __init__(self, functor: Callable[..., Any]) -> None:
        self._core: Dispatcher = functor if isinstance(functor, Dispatcher) else jit(functor, device=True)
        self._kernel = functools.cache(functools.partial(_kernel, self._core))

    def __call__(self, arr: Any, size: int | None = None, res: Any = None, init: Any = 0, stream: Any = 0) -> Any:
        """Reduce the first ``size`` elements (all, if None) of a 1-D host or device array, and ``init``, unless that is None.

        The result is a NumPy scalar; with ``res`` it is written to that device array's first element instead, and nothing comes back.
        TypeError for other arrays.
        """
        if arr.ndim != 1:
            raise TypeError("only support 1D array")
        if size is not None:
            arr = arr[:size]
        start = None if init is None else arr.dtype.type(init)
        if not arr.size:
            return start
        result = self._reduced(arr, start, stream)
        if res is None:
            return result.getitem(0, stream)
        as_cuda_array(res)[:1].copy_to_device(result, stream)
        return None

    def _reduced(self, arr: Any, start: Any, stream: Any) -> DeviceArray:
        """The result as a device array of one element."""
        client = current()
        values = as_cuda_array(arr) if is_cuda_array(arr) else client.to_device(arr, stream)
        kernel = self._kernel(values.dtype)
        block = (THREADS, 1, 1)
        blocks = min(-(-values.size // THREADS), BLOCKS_MAX)
        partial = client.device_array(blocks, values.dtype, stream=stream)
        # launches of ours: nobody can act on a warning that their grids are small
        first = Launch(kernel, (blocks, 1, 1), block, stream, 0)
        first(values, partial, values.dtype.type(start or 0), start is not None)
        if blocks == 1:
            return partial
        result = client.device_array(1, values.dtype, stream=stream)
        Launch(kernel, (1, 1, 1), block, stream, 0)(partial, result, values.dtype.type(0), False)
        return result


def _kernel(core: Dispatcher, dtype: np.dtype[Any]) -> Dispatcher:
    cuda: Any = DeviceName("numba.cuda")
    kind = from_dtype(dtype)

    @jit
    def reduce_blocks(values: Any, results: Any, start: Any, has_start: Any) -> None:
        partial = cuda.shared.array(THREADS, kind)
        thread, block = cuda.threadIdx.x, cuda.blockIdx.x
        first, step = cuda.grid(1), cuda.gridsize(1)
        if first < values.size:
            mine = values[first]
            for position in range(first + step, values.size, step):
                mine = core(mine, values[position])
            partial[thread] = mine
        cuda.syncthreads()
        count = min(THREADS, values.size - block * THREADS)
        half = THREADS // 2
        while half > 0:
            if thread < half and thread + half < count:
                partial[thread] = core(partial[thread], partial[thread + half])
            cuda.syncthreads()
            half //= 2
        if thread == 0:
            results[block] = core(partial[0], start) if has_start and block == 0 else partial[0]

    made: Dispatcher = reduce_blocks
    return made
