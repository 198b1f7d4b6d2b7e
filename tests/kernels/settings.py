"""A module of the user's own, with a constant and a device function."""

from numba import cuda

RATE = 0.25
NAMES = ["a list cannot travel"]


@cuda.jit(device=True)
def halve(value):
    return value * 0.5
