"""The training step that is measured: a network of 64 - 128 - 10 with ReLU, softmax and SGD, as in examples/train_digits.py.

Batches have the shapes of scikit-learn's digits, with made-up values: how long a step takes does not depend on them. One
step is eight launches without a copy or a wait. The kernels are made anew for every network, because a dispatcher serves
one session at a time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bitfusion import cuda
from bitfusion.client.client import Client

float32 = cuda.float32

TILE = 16
INPUTS, HIDDEN, CLASSES, BATCH = 64, 128, 10, 128
THREADS = 128
RATE = 0.5


def forward(a: Any, b: Any, bias: Any, out: Any, relu: Any) -> None:
    """``out = a @ b + bias``, with ReLU where ``relu`` is 1; a tile of each matrix is in shared memory at a time."""
    tile_a = cuda.shared.array((TILE, TILE), float32)
    tile_b = cuda.shared.array((TILE, TILE), float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    total = float32(0.0)
    for start in range(0, a.shape[1], TILE):
        tile_a[y, x] = a[row, start + x] if row < a.shape[0] and start + x < a.shape[1] else float32(0.0)
        tile_b[y, x] = b[start + y, column] if start + y < b.shape[0] and column < b.shape[1] else float32(0.0)
        cuda.syncthreads()
        for k in range(TILE):
            total += tile_a[y, k] * tile_b[k, x]
        cuda.syncthreads()
    if row < out.shape[0] and column < out.shape[1]:
        total += bias[column]
        out[row, column] = max(total, float32(0.0)) if relu == 1 else total


def weights_step(a: Any, b: Any, weights: Any, rate: Any) -> None:
    """``weights -= rate * a.T @ b``: gradient and step in one."""
    tile_a = cuda.shared.array((TILE, TILE), float32)
    tile_b = cuda.shared.array((TILE, TILE), float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    corner = row - y
    total = float32(0.0)
    for start in range(0, a.shape[0], TILE):
        tile_a[y, x] = a[start + y, corner + x] if start + y < a.shape[0] and corner + x < a.shape[1] else float32(0.0)
        tile_b[y, x] = b[start + y, column] if start + y < b.shape[0] and column < b.shape[1] else float32(0.0)
        cuda.syncthreads()
        for k in range(TILE):
            total += tile_a[k, y] * tile_b[k, x]
        cuda.syncthreads()
    if row < weights.shape[0] and column < weights.shape[1]:
        weights[row, column] -= rate * total


def backward(a: Any, b: Any, active: Any, out: Any) -> None:
    """``out = (a @ b.T) * (active > 0)``."""
    tile_a = cuda.shared.array((TILE, TILE), float32)
    tile_b = cuda.shared.array((TILE, TILE), float32)
    column, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    corner = column - x
    total = float32(0.0)
    for start in range(0, a.shape[1], TILE):
        tile_a[y, x] = a[row, start + x] if row < a.shape[0] and start + x < a.shape[1] else float32(0.0)
        tile_b[y, x] = b[corner + y, start + x] if corner + y < b.shape[0] and start + x < b.shape[1] else float32(0.0)
        cuda.syncthreads()
        for k in range(TILE):
            total += tile_a[y, k] * tile_b[x, k]
        cuda.syncthreads()
    if row < out.shape[0] and column < out.shape[1]:
        out[row, column] = total if active[row, column] > 0 else float32(0.0)


def bias_step(error: Any, bias: Any, rate: Any) -> None:
    """``bias -= rate * error.sum(axis=0)``: a block per column, its threads summed by halves."""
    part = cuda.shared.array(THREADS, float32)
    thread, column = cuda.threadIdx.x, cuda.blockIdx.x
    total = float32(0.0)
    for row in range(thread, error.shape[0], cuda.blockDim.x):
        total += error[row, column]
    part[thread] = total
    cuda.syncthreads()
    half = cuda.blockDim.x // 2
    while half > 0:
        if thread < half:
            part[thread] += part[thread + half]
        cuda.syncthreads()
        half //= 2
    if thread == 0:
        bias[column] -= rate * part[0]


def softmax_error(scores: Any, labels: Any, error: Any, loss: Any) -> None:
    """The gradient of the mean cross entropy; its sum is added to ``loss[0]``."""
    row = cuda.grid(1)
    if row >= scores.shape[0]:
        return
    highest = scores[row, 0]
    for k in range(1, CLASSES):
        highest = max(highest, scores[row, k])
    total = float32(0.0)
    for k in range(CLASSES):
        total += math.exp(scores[row, k] - highest)
    count = float32(scores.shape[0])
    for k in range(CLASSES):
        share = math.exp(scores[row, k] - highest) / total
        error[row, k] = (share - (float32(1.0) if labels[row] == k else float32(0.0))) / count
    cuda.atomic.add(loss, 0, (math.log(total) - scores[row, labels[row]] + highest) / count)


def blocks(rows: int, columns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """One thread per element, in tiles."""
    return ((columns + TILE - 1) // TILE, (rows + TILE - 1) // TILE), (TILE, TILE)


class Network:
    """One network with one batch in the memory of a session, and its kernels."""

    def __init__(self, client: Client, seed: int = 1) -> None:
        random = np.random.default_rng(seed)
        self.client = client
        self._images = client.to_device(random.random((BATCH, INPUTS), np.float32))
        self._labels = client.to_device(random.integers(0, CLASSES, BATCH, np.int32))
        self._w1 = client.to_device(_weights(random, INPUTS, HIDDEN))
        self._w2 = client.to_device(_weights(random, HIDDEN, CLASSES))
        self._b1, self._b2 = (client.to_device(np.zeros(count, np.float32)) for count in (HIDDEN, CLASSES))
        self._active, self._active_error = (client.device_array((BATCH, HIDDEN), np.float32) for _ in range(2))
        self._scores, self._error = (client.device_array((BATCH, CLASSES), np.float32) for _ in range(2))
        self._loss = client.to_device(np.zeros(1, np.float32))
        kernels = (forward, weights_step, backward, bias_step, softmax_error)
        self._forward, self._weights_step, self._backward, self._bias_step, self._softmax = map(cuda.jit, kernels)

    def step(self) -> None:
        """One step of SGD, posted. The network's client must be the current one (``cuda.use``)."""
        wide, narrow, rate = blocks(BATCH, HIDDEN), blocks(BATCH, CLASSES), np.float32(RATE)
        self._forward[wide](self._images, self._w1, self._b1, self._active, 1)
        self._forward[narrow](self._active, self._w2, self._b2, self._scores, 0)
        self._softmax[(BATCH + 63) // 64, 64](self._scores, self._labels, self._error, self._loss)
        self._backward[wide](self._error, self._w2, self._active, self._active_error)
        self._weights_step[blocks(HIDDEN, CLASSES)](self._active, self._error, self._w2, rate)
        self._weights_step[blocks(INPUTS, HIDDEN)](self._images, self._active_error, self._w1, rate)
        self._bias_step[CLASSES, THREADS](self._error, self._b2, rate)
        self._bias_step[HIDDEN, THREADS](self._active_error, self._b1, rate)

    def loss(self) -> float:
        """The sum of the losses of all steps so far; waits for them."""
        return float(self._loss.copy_to_host()[0])


def _weights(random: np.random.Generator, rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (random.standard_normal((rows, columns)) * math.sqrt(2 / rows)).astype(np.float32)
