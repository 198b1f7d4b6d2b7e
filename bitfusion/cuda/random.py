"""Random numbers for kernels (numba.cuda.random): the states are made here, the functions that draw from them are the kernel's.

xoroshiro128+ with a jump of 2**64 numbers between the states of two threads, seeded by SplitMix64 as numba.cuda does, so the same seed
gives the same numbers. Sources: D. Blackman and S. Vigna, xoroshiro128plus.c (2016) and splitmix64.c, https://prng.di.unimi.it/.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitfusion.client.array import DeviceArray
from bitfusion.cuda.device_names import DeviceName, member
from bitfusion.cuda.memory import to_device
from bitfusion.errors import InvalidValueError

Words = NDArray[np.uint64]
State = tuple[Words, Words]
"""Any number of states, their two words apart."""

xoroshiro128p_dtype = np.dtype([("s0", np.uint64), ("s1", np.uint64)], align=True)

JUMP = (0xBEAC0467EBA5FACB, 0xD86B048B86AA9922)
"""The polynomial of a jump by 2**64 numbers."""

MASK = 2**64 - 1


def create_xoroshiro128p_states(n: int, seed: int, subsequence_start: int = 0, stream: Any = 0) -> DeviceArray:
    """States for ``n`` threads in device memory, those of ``seed`` from ``subsequence_start`` on. InvalidValueError."""
    states = np.empty(n, xoroshiro128p_dtype)
    init_xoroshiro128p_states_cpu(states, seed, subsequence_start)
    return to_device(states, stream)


def init_xoroshiro128p_states(states: DeviceArray, seed: int, subsequence_start: int = 0, stream: Any = 0) -> None:
    """Set states in device memory anew."""
    host = np.empty(states.shape, xoroshiro128p_dtype)
    init_xoroshiro128p_states_cpu(host, seed, subsequence_start)
    states.copy_to_device(host, stream)


def init_xoroshiro128p_states_cpu(states: NDArray[Any], seed: int, subsequence_start: int = 0) -> None:
    """Set states in host memory: the first, then twice as many each time, by a jump as far as there are already."""
    if subsequence_start < 0:
        raise InvalidValueError(f"a subsequence is numbered from 0, not {subsequence_start}")
    word = np.array([_split_mix(int(seed))], np.uint64)
    first: State = (word, word.copy())
    jump = _jump(_basis())
    for position in range(subsequence_start.bit_length()):
        if subsequence_start >> position & 1:
            first = _apply(jump, first)
        jump = _apply(jump, jump)
    jump = _jump(_basis())
    made = first
    while len(made[0]) < len(states):
        more = _apply(jump, made)
        made = (np.concatenate([made[0], more[0]]), np.concatenate([made[1], more[1]]))
        jump = _apply(jump, jump)
    states["s0"], states["s1"] = made[0][: len(states)], made[1][: len(states)]


def __getattr__(name: str) -> DeviceName:
    return member(__name__, name)


def _split_mix(seed: int) -> int:
    z = (seed + 0x9E3779B97F4A7C15) & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def _next(state: State) -> State:
    s0, s1 = state
    s1 = s1 ^ s0
    return _rotate(s0, 55) ^ s1 ^ (s1 << np.uint64(14)), _rotate(s1, 36)


def _rotate(words: Words, count: int) -> Words:
    return (words << np.uint64(count)) | (words >> np.uint64(64 - count))


def _jump(state: State) -> State:
    s0, s1 = np.zeros_like(state[0]), np.zeros_like(state[1])
    for word in JUMP:
        for bit in range(64):
            if word >> bit & 1:
                s0, s1 = s0 ^ state[0], s1 ^ state[1]
            state = _next(state)
    return s0, s1


def _basis() -> State:
    """All states with one bit set: what a linear map makes of them is its matrix."""
    bits = np.uint64(1) << np.arange(64, dtype=np.uint64)
    none = np.zeros(64, np.uint64)
    return np.concatenate([bits, none]), np.concatenate([none, bits])


def _apply(matrix: State, state: State) -> State:
    """A linear map over GF(2), by its matrix: the sum of the columns whose bits are set."""
    s0, s1 = np.zeros_like(state[0]), np.zeros_like(state[1])
    for position in range(128):
        set_ = (state[position // 64] >> np.uint64(position % 64)) & np.uint64(1)
        s0 ^= set_ * matrix[0][position]
        s1 ^= set_ * matrix[1][position]
    return s0, s1
