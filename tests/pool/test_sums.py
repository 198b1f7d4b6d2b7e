"""Subset sums, held against all subsets one by one."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from bitfusion.limits import MEMORY_CHUNK_SIZE
from bitfusion.pool.sums import Sums


@given(limit=st.integers(1, 30), sizes=st.lists(st.integers(1, 30), max_size=7))
def test_the_greatest_sum_within_the_limit(limit: int, sizes: list[int]) -> None:
    sums = Sums(limit * MEMORY_CHUNK_SIZE)
    sums.add(*(size * MEMORY_CHUNK_SIZE for size in sizes))
    subsets = itertools.chain.from_iterable(itertools.combinations(sizes, count) for count in range(len(sizes) + 1))
    assert sums.greatest == MEMORY_CHUNK_SIZE * max(total for total in map(sum, subsets) if total <= limit)


def test_a_copy_goes_its_own_way() -> None:
    sums = Sums(4 * MEMORY_CHUNK_SIZE)
    sums.copy().add(MEMORY_CHUNK_SIZE)
    assert sums.greatest == 0
