"""The pool: leases never exceed a GPU, whatever is admitted and released in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfusion.errors import CapacityError, LocalProtocolError
from bitfusion.limits import GIB, MEMORY_CHUNK_SIZE, MIB
from bitfusion.pool.lease import LeaseEvent, LeaseState
from bitfusion.pool.pool import Pool
from bitfusion.pool.request import LeaseRequest
from bitfusion.types import DeviceSpec


def gpus(*sizes: int) -> list[DeviceSpec]:
    return [
        DeviceSpec("virtual", index, "Virtual GPU", f"GPU-virtual-{index:04d}", size)
        for index, size in enumerate(sizes)
    ]


REQUESTS = st.one_of(
    st.builds(LeaseRequest),
    st.builds(LeaseRequest, memory=st.integers(1, 2 * GIB)),
    st.builds(LeaseRequest, fraction=st.floats(0, 1, exclude_min=True)),
)


@given(
    sizes=st.lists(st.integers(1, 2 * GIB), max_size=4),
    steps=st.lists(st.one_of(REQUESTS, st.integers(0, 20)), max_size=40),
)
def test_leases_never_exceed_a_gpu(sizes: list[int], steps: list[LeaseRequest | int]) -> None:
    pool = Pool(gpus(*sizes))
    held: list[str] = []
    for step in steps:
        if isinstance(step, LeaseRequest):
            try:
                lease = pool.admit(step)
            except CapacityError:
                assert all(
                    step.memory_on(item.device.memory_size) not in range(1, item.free + 1) for item in pool.view()
                )
            else:
                held.append(lease.id)
                assert lease.shares[0].memory > 0
        elif held:
            pool.release(held.pop(step % len(held)))
        for item in pool.view():
            assert 0 <= item.used <= item.device.memory_size
            assert item.used % MEMORY_CHUNK_SIZE == 0
    for lease_id in held:
        pool.release(lease_id)
    assert all(item.used == 0 and item.lease_count == 0 for item in pool.view())


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10])
def test_n_equal_fractions_fit(count: int) -> None:
    pool = Pool(gpus(GIB + 12345))
    for _ in range(count):
        pool.admit(LeaseRequest(fraction=1 / count))
    with pytest.raises(CapacityError):
        pool.admit(LeaseRequest(fraction=1 / count))


def test_a_refusal_names_every_gpu_and_what_would_fit() -> None:
    pool = Pool(gpus(512 * MIB, GIB))
    pool.admit(LeaseRequest(memory=256 * MIB))
    with pytest.raises(CapacityError) as caught:
        pool.admit(LeaseRequest(memory=2 * GIB))
    assert "virtual 0" in caught.value.message and "virtual 1" in caught.value.message
    assert "Up to 1 GiB on one GPU would fit now" in caught.value.message
    pool.admit(LeaseRequest(memory=GIB))
    pool.admit(LeaseRequest(memory=256 * MIB))
    with pytest.raises(CapacityError, match="Nothing is free now"):
        pool.admit(LeaseRequest())


def test_the_life_of_a_lease() -> None:
    pool = Pool(gpus(GIB))
    lease = pool.admit(LeaseRequest())
    assert lease.state is LeaseState.GRANTED and pool.leases[lease.id] is lease
    assert pool.advance(lease.id, LeaseEvent.START).state is LeaseState.ACTIVE
    with pytest.raises(LocalProtocolError):
        pool.advance(lease.id, LeaseEvent.START)
    assert pool.advance(lease.id, LeaseEvent.END).state is LeaseState.ENDING
    pool.release(lease.id)
    assert not pool.leases
    with pytest.raises(KeyError):
        pool.release(lease.id)
