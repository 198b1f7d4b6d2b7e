"""The kernels that are measured, as one writes them for a GPU; what they close over travels with them."""

from __future__ import annotations

import math

from bitfusion import cuda

float32 = cuda.float32
int32 = cuda.int32

THREADS = 256
"""Of a block, where a kernel does not say otherwise."""

TILE = 16
BINS = 256
DRAWS = 256
"""Points that a thread of ``monte_carlo`` throws."""

SOFTENING = 1e-3
FULL = 0xFFFFFFFF


def saxpy(a, x, y, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a * x[i] + y[i]


def stencil(source, target):
    x, y = cuda.grid(2)
    if 0 < x < source.shape[1] - 1 and 0 < y < source.shape[0] - 1:
        around = source[y, x - 1] + source[y, x + 1] + source[y - 1, x] + source[y + 1, x]
        target[y, x] = float32(0.5) * source[y, x] + float32(0.125) * around


def matmul(a, b, c):
    tile_a = cuda.shared.array((TILE, TILE), float32)
    tile_b = cuda.shared.array((TILE, TILE), float32)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    column, row = cuda.grid(2)
    total = float32(0)
    for k in range((a.shape[1] + TILE - 1) // TILE):
        tile_a[ty, tx] = 0
        tile_b[ty, tx] = 0
        if row < a.shape[0] and tx + k * TILE < a.shape[1]:
            tile_a[ty, tx] = a[row, tx + k * TILE]
        if column < b.shape[1] and ty + k * TILE < b.shape[0]:
            tile_b[ty, tx] = b[ty + k * TILE, column]
        cuda.syncthreads()
        for n in range(TILE):
            total += tile_a[ty, n] * tile_b[n, tx]
        cuda.syncthreads()
    if row < c.shape[0] and column < c.shape[1]:
        c[row, column] = total


def reduce_tree(x, out):
    partial = cuda.shared.array(THREADS, float32)
    t = cuda.threadIdx.x
    total = float32(0)
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        total += x[i]
    partial[t] = total
    cuda.syncthreads()
    half = cuda.blockDim.x // 2
    while half > 0:
        if t < half:
            partial[t] += partial[t + half]
        cuda.syncthreads()
        half //= 2
    if t == 0:
        out[cuda.blockIdx.x] = partial[0]


def reduce_shuffles(x, out):
    warps = cuda.shared.array(32, float32)
    t = cuda.threadIdx.x
    total = float32(0)
    for i in range(cuda.grid(1), x.size, cuda.gridsize(1)):
        total += x[i]
    distance = 16
    while distance > 0:
        total += cuda.shfl_down_sync(FULL, total, distance)
        distance //= 2
    if t % 32 == 0:
        warps[t // 32] = total
    cuda.syncthreads()
    if t < 32:
        total = warps[t] if t < cuda.blockDim.x // 32 else float32(0)
        distance = 16
        while distance > 0:
            total += cuda.shfl_down_sync(FULL, total, distance)
            distance //= 2
        if t == 0:
            out[cuda.blockIdx.x] = total


def histogram_global(values, counts):
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        cuda.atomic.add(counts, values[i], 1)


def histogram_shared(values, counts):
    local = cuda.shared.array(BINS, int32)
    t = cuda.threadIdx.x
    local[t] = 0
    cuda.syncthreads()
    for i in range(cuda.grid(1), values.size, cuda.gridsize(1)):
        cuda.atomic.add(local, values[i], 1)
    cuda.syncthreads()
    cuda.atomic.add(counts, t, local[t])


def monte_carlo(states, hits):
    i = cuda.grid(1)
    inside = 0
    for _ in range(DRAWS):
        x = cuda.random.xoroshiro128p_uniform_float32(states, i)
        y = cuda.random.xoroshiro128p_uniform_float32(states, i)
        if x * x + y * y <= float32(1):
            inside += 1
    hits[i] = inside


def n_body(x, y, z, mass, ax, ay, az):
    tile = cuda.shared.array((4, THREADS), float32)
    t, i = cuda.threadIdx.x, cuda.grid(1)
    xi, yi, zi = x[i], y[i], z[i]
    sx, sy, sz = float32(0), float32(0), float32(0)
    for start in range(0, x.size, THREADS):
        tile[0, t] = x[start + t]
        tile[1, t] = y[start + t]
        tile[2, t] = z[start + t]
        tile[3, t] = mass[start + t]
        cuda.syncthreads()
        for j in range(THREADS):
            dx, dy, dz = tile[0, j] - xi, tile[1, j] - yi, tile[2, j] - zi
            squared = dx * dx + dy * dy + dz * dz + float32(SOFTENING)
            inverse = float32(1) / math.sqrt(squared)
            pull = tile[3, j] * inverse * inverse * inverse
            sx += pull * dx
            sy += pull * dy
            sz += pull * dz
        cuda.syncthreads()
    ax[i], ay[i], az[i] = sx, sy, sz
