"""Train a small neural network on scikit-learn's digits with Numba CUDA kernels: forward, backward and SGD.

A plain Numba program: it needs an NVIDIA GPU, or something that offers one, such as ``bitfusion run -- python train_digits.py``.
The network is 64 - HIDDEN - 10 with ReLU and softmax cross entropy; the images stay on the GPU for the whole training, and one
step is ten launches without a copy or a wait.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time

import numpy as np
from numba import cuda, float32
from sklearn.datasets import load_digits

TILE = 16
CLASSES = 10


@cuda.jit
def matmul_bias(a, b, bias, out, relu):
    """``out = a @ b + bias``, with ReLU where ``relu`` is 1. A tile of each matrix is in shared memory at a time."""
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


@cuda.jit
def matmul_into_weights(a, b, weights, rate):
    """``weights -= rate * a.T @ b``: the gradient of a layer's weights and the SGD step in one."""
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


@cuda.jit
def matmul_back(a, b, active, out):
    """``out = (a @ b.T) * (active > 0)``: the error carried back through a layer and its ReLU."""
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


@cuda.jit
def bias_step(error, bias, rate):
    """``bias -= rate * error.sum(axis=0)``: one block per column, its threads summed by halves in shared memory."""
    part = cuda.shared.array(128, float32)
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


@cuda.jit
def softmax_error(scores, labels, error, loss):
    """The gradient of the mean cross entropy with respect to ``scores``; its sum is added to ``loss[0]``."""
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
    """The launch shape for one thread per element, in tiles."""
    return ((columns + TILE - 1) // TILE, (rows + TILE - 1) // TILE), (TILE, TILE)


class Network:
    """Weights and work arrays on the GPU for batches of ``batch`` images."""

    def __init__(self, inputs: int, hidden: int, batch: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.w1 = cuda.to_device((random.standard_normal((inputs, hidden)) * math.sqrt(2 / inputs)).astype(np.float32))
        self.w2 = cuda.to_device((random.standard_normal((hidden, CLASSES)) * math.sqrt(2 / hidden)).astype(np.float32))
        self.b1 = cuda.to_device(np.zeros(hidden, np.float32))
        self.b2 = cuda.to_device(np.zeros(CLASSES, np.float32))
        self.active = cuda.device_array((batch, hidden), np.float32)
        self.active_error = cuda.device_array((batch, hidden), np.float32)
        self.scores = cuda.device_array((batch, CLASSES), np.float32)
        self.error = cuda.device_array((batch, CLASSES), np.float32)
        self.loss = cuda.to_device(np.zeros(1, np.float32))
        self.hidden, self.batch = hidden, batch

    def step(self, images, labels, rate: np.float32) -> None:
        """One step of SGD; nothing is copied and nothing is waited for."""
        wide, narrow = blocks(self.batch, self.hidden), blocks(self.batch, CLASSES)
        matmul_bias[wide](images, self.w1, self.b1, self.active, 1)
        matmul_bias[narrow](self.active, self.w2, self.b2, self.scores, 0)
        softmax_error[(self.batch + 63) // 64, 64](self.scores, labels, self.error, self.loss)
        matmul_back[wide](self.error, self.w2, self.active, self.active_error)
        matmul_into_weights[blocks(self.hidden, CLASSES)](self.active, self.error, self.w2, rate)
        matmul_into_weights[blocks(images.shape[1], self.hidden)](images, self.active_error, self.w1, rate)
        bias_step[CLASSES, 128](self.error, self.b2, rate)
        bias_step[self.hidden, 128](self.active_error, self.b1, rate)

    def accuracy(self, images: np.ndarray, labels: np.ndarray) -> float:
        """The share of images whose class is found, on the GPU but for the last comparison."""
        device_images = cuda.to_device(images)
        active = cuda.device_array((len(images), self.hidden), np.float32)
        scores = cuda.device_array((len(images), CLASSES), np.float32)
        matmul_bias[blocks(len(images), self.hidden)](device_images, self.w1, self.b1, active, 1)
        matmul_bias[blocks(len(images), CLASSES)](active, self.w2, self.b2, scores, 0)
        return float((scores.copy_to_host().argmax(axis=1) == labels).mean())


def load(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and test images (8 x 8, scaled to 0..1) and their labels, shuffled; a fifth is for the test."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    images = (digits.data[order] / 16).astype(np.float32)
    labels = digits.target[order].astype(np.int32)
    test = len(labels) // 5
    return images[test:], labels[test:], images[:test], labels[:test]


class Progress:
    """A bar on a terminal, nothing elsewhere."""

    def __init__(self, total: int) -> None:
        self.total, self.shown = total, sys.stderr.isatty()

    def show(self, done: int, text: str) -> None:
        if self.shown:
            filled = 30 * done // self.total
            end = "\n" if done == self.total else ""
            print(
                f"\r  {'━' * filled}{'·' * (30 - filled)} {done}/{self.total} {text}",
                end=end,
                file=sys.stderr,
                flush=True,
            )


def train(options: argparse.Namespace) -> dict[str, object]:
    """Train and test; the figures."""
    images, labels, test_images, test_labels = load(options.seed)
    network = Network(images.shape[1], options.hidden, options.batch, options.seed)
    device_images, device_labels = cuda.to_device(images), cuda.to_device(labels)
    batches = [
        slice(start, start + options.batch) for start in range(0, len(labels) - options.batch + 1, options.batch)
    ]
    views = [(device_images[batch], device_labels[batch]) for batch in batches]
    rate, progress = np.float32(options.rate), Progress(options.epochs)
    losses: list[float] = []
    steps_ms: list[float] = []
    for epoch in range(options.epochs):
        network.loss.copy_to_device(np.zeros(1, np.float32))
        started = time.perf_counter()
        for batch_images, batch_labels in views:
            network.step(batch_images, batch_labels, rate)
        losses.append(float(network.loss.copy_to_host()[0]) / len(views))  # waits for the epoch's work
        steps_ms.append((time.perf_counter() - started) * 1e3 / len(views))
        progress.show(epoch + 1, f"loss {losses[-1]:.3f}")
    return {
        "accuracy": network.accuracy(test_images, test_labels),
        "step_ms": statistics.median(steps_ms[1:] or steps_ms),  # the first epoch compiles
        "first_epoch_ms": steps_ms[0] * len(views),
        "steps": options.epochs * len(views),
        "losses": losses,
    }


def plot(losses: list[float], path: str) -> None:
    """The loss curve as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(range(1, len(losses) + 1), losses, color="#2563eb", linewidth=2)
    axes.set(xlabel="epoch", ylabel="training loss (cross entropy)", title="Digits", yscale="log")
    axes.grid(alpha=0.3, which="both")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Train a small network on scikit-learn's digits with Numba CUDA kernels."
    )
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", metavar="FILE.png", help="write the loss curve")
    parser.add_argument("--json", metavar="FILE", help="write the figures")
    options = parser.parse_args()
    figures = train(options)
    cuda.close()  # from here on the GPU is free for others
    print(
        f"test accuracy {figures['accuracy']:.1%}, {figures['step_ms']:.2f} ms a step, final loss {figures['losses'][-1]:.4f}"
    )
    if options.plot:
        plot(figures["losses"], options.plot)
        print(f"loss curve: {options.plot}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file)


if __name__ == "__main__":
    main()
