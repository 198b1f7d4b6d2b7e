"""Placement: packing, and a reason for every GPU that is refused."""

from __future__ import annotations

from bitfusion.limits import GIB, MIB
from bitfusion.pool.lease import Share
from bitfusion.pool.placement import DeviceView, Placement, Refusal, place
from bitfusion.pool.request import LeaseRequest
from bitfusion.types import DeviceSpec


def gpu(index: int, size: int = GIB) -> DeviceSpec:
    return DeviceSpec("virtual", index, "Virtual GPU", f"GPU-virtual-{index:04d}", size)


def placed(*shares: DeviceSpec | int) -> Placement:
    """The placement with these (GPU, bytes)."""
    return Placement(tuple(map(Share, shares[::2], shares[1::2])))


def test_packs_on_the_fullest_that_fits() -> None:
    view = (DeviceView(gpu(0)), DeviceView(gpu(1), 256 * MIB, 1), DeviceView(gpu(2), 768 * MIB, 2))
    assert place(LeaseRequest(memory=512 * MIB), view) == placed(gpu(1), 512 * MIB)
    assert place(LeaseRequest(memory=128 * MIB), view) == placed(gpu(2), 128 * MIB)
    assert place(LeaseRequest(), view) == placed(gpu(0), GIB)


def test_first_among_equals() -> None:
    assert place(LeaseRequest(fraction=0.5), (DeviceView(gpu(0)), DeviceView(gpu(1)))) == placed(gpu(0), 512 * MIB)


def test_a_whole_gpu_needs_one_that_nobody_is_on() -> None:
    refusal = place(LeaseRequest(), (DeviceView(gpu(0), 2 * MIB, 1),))
    assert isinstance(refusal, Refusal)
    assert refusal.reasons == (("Virtual GPU (virtual 0)", "1 lease on it, a whole GPU needs one that nobody is on"),)


def test_a_reason_for_every_gpu() -> None:
    refusal = place(LeaseRequest(memory=2 * GIB), (DeviceView(gpu(0)), DeviceView(gpu(1, 3 * GIB), 2 * GIB, 2)))
    assert isinstance(refusal, Refusal)
    assert refusal.free_max == GIB
    assert [reason for _, reason in refusal.reasons] == [
        "has 1 GiB in all",
        "2 leases on it, 1 GiB of 3 GiB free, 2 GiB needed",
    ]


def test_a_fraction_below_a_chunk() -> None:
    refusal = place(LeaseRequest(fraction=0.001), (DeviceView(gpu(0)),))
    assert isinstance(refusal, Refusal)
    assert "less than its smallest share, 2 MiB" in str(refusal)


def test_no_gpus() -> None:
    refusal = place(LeaseRequest(), ())
    assert isinstance(refusal, Refusal)
    assert str(refusal) == "the appliance offers no GPUs"
