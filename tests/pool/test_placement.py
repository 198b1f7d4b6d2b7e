"""Placement: which GPUs are taken, and a reason for each that is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfusion.limits import GIB, MEMORY_CHUNK_SIZE, MIB
from bitfusion.pool.filters import parse_filter
from bitfusion.pool.lease import Share
from bitfusion.pool.placement import DeviceView, Placement, Refusal, Strategy, choose, eligible, fits, place, refusal
from bitfusion.pool.request import LeaseRequest
from bitfusion.types import DeviceSpec
from tests.pool.gpus import gpu


def placed(*shares: DeviceSpec | int) -> Placement:
    """The placement with these (GPU, bytes)."""
    return Placement(tuple(map(Share, shares[::2], shares[1::2])))


THREE = (DeviceView(gpu(0)), DeviceView(gpu(1), 256 * MIB, 1), DeviceView(gpu(2), 768 * MIB, 2))


@pytest.mark.parametrize(
    ("request_", "pack", "spread"),
    [
        (LeaseRequest(memory=512 * MIB), [1], [0]),
        (LeaseRequest(memory=128 * MIB), [2], [0]),
        (LeaseRequest(memory=800 * MIB), [0], [0]),
        (LeaseRequest(), [0], [0]),
        (LeaseRequest(gpus=2, memory=128 * MIB), [1, 2], [0, 1]),
        (LeaseRequest(gpus=2, fraction=0.5), [0, 1], [0, 1]),
        (LeaseRequest(gpus=3, fraction=0.25), [0, 1, 2], [0, 1, 2]),
        (LeaseRequest(memory=2 * MIB, exclusive=True), [0], [0]),
        (LeaseRequest(memory=2 * MIB, filters=(parse_filter("device.index<2"),)), [1], [0]),
    ],
)
def test_which_gpus(request_: LeaseRequest, pack: list[int], spread: list[int]) -> None:
    for strategy, expected in ((Strategy.PACK, pack), (Strategy.SPREAD, spread)):
        size = request_.memory_on(GIB)
        assert place(request_, THREE, strategy) == Placement(tuple(Share(gpu(index), size) for index in expected))


def test_first_among_equals() -> None:
    view = (DeviceView(gpu(0)), DeviceView(gpu(1)))
    assert place(LeaseRequest(fraction=0.5), view) == placed(gpu(0), 512 * MIB)
    assert place(LeaseRequest(fraction=0.5), view, Strategy.SPREAD) == placed(gpu(0), 512 * MIB)


def test_a_fraction_is_of_each_gpu() -> None:
    view = (DeviceView(gpu(0, GIB)), DeviceView(gpu(1, 4 * GIB)))
    assert place(LeaseRequest(gpus=2, fraction=0.5), view) == placed(gpu(0), 512 * MIB, gpu(1, 4 * GIB), 2 * GIB)


CASES = [
    # request, view, reason for each GPU, bytes free, possible
    (LeaseRequest(), [DeviceView(gpu(0), 2 * MIB, 1)],
     ["1 lease on it, and one that nobody is on is needed"], 1022 * MIB, True),
    (LeaseRequest(memory=2 * MIB), [DeviceView(gpu(0), GIB, 1, exclusive=True)],
     ["an exclusive lease is on it"], 0, True),
    (LeaseRequest(memory=2 * GIB), [DeviceView(gpu(0)), DeviceView(gpu(1, 3 * GIB), 2 * GIB, 2)],
     ["has 1 GiB in all", "2 leases on it, 1 GiB of 3 GiB free, 2 GiB needed"], GIB, True),
    (LeaseRequest(memory=4 * GIB), [DeviceView(gpu(0)), DeviceView(gpu(1, 3 * GIB))],
     ["has 1 GiB in all", "has 3 GiB in all"], 3 * GIB, False),
    (LeaseRequest(fraction=0.001), [DeviceView(gpu(0))],
     ["0.001 of it is less than the smallest share, 2 MiB"], GIB, False),
    (LeaseRequest(gpus=2), [DeviceView(gpu(0)), DeviceView(gpu(1), 2 * MIB, 1)],
     ["", "1 lease on it, and one that nobody is on is needed"], 1022 * MIB, True),
    (LeaseRequest(gpus=2), [DeviceView(gpu(0))], [""], 0, False),
    (LeaseRequest(filters=(parse_filter("device.name=*H100*"),)), [DeviceView(gpu(0))],
     ["its device.name is Virtual GPU, device.name=*H100* is asked for"], 0, False),
    (LeaseRequest(fraction=0.9), [DeviceView(gpu(0), 3 * GIB // 2, 3, oversubscribe=2.0)],
     ["3 leases on it, 512 MiB of 2 GiB free, 920 MiB needed"], 512 * MIB, True),
    (LeaseRequest(memory=2 * GIB), [DeviceView(gpu(0), oversubscribe=4.0)],
     ["has 1 GiB in all"], GIB, False),  # no lease is larger than its GPU
]  # fmt: skip


@pytest.mark.parametrize(("request_", "view", "reasons", "free_max", "possible"), CASES)
def test_every_reason(
    request_: LeaseRequest, view: list[DeviceView], reasons: list[str], free_max: int, possible: bool
) -> None:
    refused = place(request_, view)
    assert isinstance(refused, Refusal)
    assert [why for _, why in refused.reasons] == reasons
    assert [name for name, _ in refused.reasons] == [f"Virtual GPU (virtual {index})" for index in range(len(view))]
    assert (refused.free_max, refused.possible) == (free_max, possible)


def test_what_is_kept_for_others() -> None:
    refused = place(LeaseRequest(memory=512 * MIB), [DeviceView(gpu(0), 256 * MIB, 1)], allowance=lambda _: 256 * MIB)
    assert isinstance(refused, Refusal)
    assert refused.reasons[0][1] == "512 MiB of its 768 MiB free are kept for requests that came earlier"
    assert refused.free_max == 256 * MIB


@pytest.mark.parametrize(
    ("request_", "view", "advice"),
    [
        (LeaseRequest(gpus=3), [DeviceView(gpu(0))], "Ask for 1 at most: there are no more GPUs here"),
        (LeaseRequest(), [DeviceView(gpu(0), GIB // 2, 1)], "Up to 512 MiB on one GPU would fit now"),
        (LeaseRequest(gpus=2), [DeviceView(gpu(0)), DeviceView(gpu(1), GIB // 2, 1)],
         "Up to 512 MiB on each of 2 GPUs would fit now"),
        (LeaseRequest(), [DeviceView(gpu(0), GIB, 1)], "Nothing is free now; try again when a lease has ended"),
        (LeaseRequest(memory=2 * GIB), [DeviceView(gpu(0), GIB, 1)], "It would not fit here if nobody else were there"),
    ],
)  # fmt: skip
def test_advice(request_: LeaseRequest, view: list[DeviceView], advice: str) -> None:
    assert refusal(request_, view).advice.startswith(advice)


def test_no_gpus() -> None:
    refused = place(LeaseRequest(), ())
    assert isinstance(refused, Refusal) and not refused.possible
    assert str(refused) == "the appliance offers no GPUs"


CHUNKS = st.integers(1, 8).map(lambda count: count * MEMORY_CHUNK_SIZE)
REQUESTS = st.one_of(
    st.builds(LeaseRequest, st.integers(1, 3), memory=CHUNKS, exclusive=st.booleans()),
    st.builds(LeaseRequest, st.integers(1, 3), fraction=st.sampled_from([0.01, 0.2, 0.5, 0.9, 1]), exclusive=st.booleans()),
    st.builds(LeaseRequest, memory=CHUNKS, filters=st.just((parse_filter("device.index!=1"),))),
)  # fmt: skip


@st.composite
def views(draw: st.DrawFn) -> DeviceView:
    """A GPU with some leases on it, or one that is alone."""
    device, oversubscribe = gpu(draw(st.integers(0, 2)), draw(CHUNKS)), draw(st.sampled_from([1.0, 1.5, 2.0]))
    exclusive = draw(st.booleans())
    capacity = device.memory_size if exclusive else DeviceView(device, oversubscribe=oversubscribe).capacity
    used = draw(st.integers(0, capacity // MEMORY_CHUNK_SIZE)) * MEMORY_CHUNK_SIZE
    return DeviceView(device, used, 1 if exclusive else (used > 0), exclusive and used > 0, oversubscribe)


@given(request_=REQUESTS, view=st.lists(views(), max_size=4), allowance=st.none() | CHUNKS)
def test_a_gpu_does_exactly_where_there_is_no_reason(
    request_: LeaseRequest, view: list[DeviceView], allowance: int | None
) -> None:
    allowed = None if allowance is None else lambda item: min(allowance, item.capacity - item.used)
    refused = refusal(request_, view, allowed)
    assert [fits(request_, item, allowed) for item in view] == [why == "" for _, why in refused.reasons]
    assert refused.possible == (sum(eligible(request_, item) for item in view) >= request_.gpus)
    shares = choose(request_, view, Strategy.PACK, allowed)
    assert (shares is None) == ([why for _, why in refused.reasons].count("") < request_.gpus)
