"""States for random numbers, against Numba's own."""

from __future__ import annotations

import numpy as np
import pytest

from bitfusion.cuda import random
from bitfusion.errors import InvalidValueError


@pytest.mark.parametrize(("count", "seed", "start"), [(1, 0, 0), (2, 1, 0), (100, 42, 5), (7, 2**63 + 11, 129)])
def test_states_are_numbas(count, seed, start):
    theirs = np.empty(count, random.xoroshiro128p_dtype)
    numba_random = pytest.importorskip("numba.cuda.random")
    numba_random.init_xoroshiro128p_states_cpu(theirs, np.uint64(seed), np.uint64(start))
    ours = np.empty(count, random.xoroshiro128p_dtype)
    random.init_xoroshiro128p_states_cpu(ours, seed, start)
    assert (ours == theirs).all()


def test_no_states():
    random.init_xoroshiro128p_states_cpu(np.empty(0, random.xoroshiro128p_dtype), 1)


def test_a_subsequence_is_not_negative():
    with pytest.raises(InvalidValueError, match="numbered from 0"):
        random.init_xoroshiro128p_states_cpu(np.empty(1, random.xoroshiro128p_dtype), 1, -1)
