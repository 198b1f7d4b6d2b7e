"""Quotas: what they count, which one stands in the way, what is said, and when it frees up."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from fractions import Fraction

import pytest

from bitfusion.errors import ConfigError
from bitfusion.limits import GIB, MIB
from bitfusion.pool.filters import parse_filter
from bitfusion.pool.lease import Lease, Share
from bitfusion.pool.placement import DeviceView
from bitfusion.pool.quota import (
    Need,
    Quota,
    applying,
    ceiling,
    check_subject,
    explain,
    frees_at,
    lifetime,
    need_of,
    need_of_lease,
    stands_in_the_way,
)
from bitfusion.pool.request import Holder, LeaseRequest
from bitfusion.pool.usage import DAY_S
from tests.pool.gpus import gpu

ANA = Holder("ana", "lab")
NOON = 20_000 * DAY_S + DAY_S / 2
VIEW = [DeviceView(gpu(0)), DeviceView(gpu(1)), DeviceView(gpu(2, 2 * GIB))]
ONE = LeaseRequest()


@pytest.mark.parametrize(
    ("request_", "gpus", "memory"),
    [
        (ONE, 1, 2 * GIB),  # it could be on the largest
        (LeaseRequest(gpus=3), 3, 4 * GIB),
        (LeaseRequest(fraction=0.5), Fraction(1, 2), GIB),
        (LeaseRequest(memory=512 * MIB), Fraction(1, 2), 512 * MIB),  # it could be on a small one
        (LeaseRequest(memory=2 * GIB), 1, 2 * GIB),
        (LeaseRequest(gpus=2, memory=512 * MIB), 1, GIB),
        (LeaseRequest(memory=2 * MIB, exclusive=True), 1, 2 * GIB),
        (LeaseRequest(memory=512 * MIB, filters=(parse_filter("device.memory>=2GiB"),)), Fraction(1, 4), 512 * MIB),
    ],
)
def test_what_a_request_counts(request_: LeaseRequest, gpus: Fraction, memory: int) -> None:
    assert need_of(request_, VIEW) == Need(Fraction(gpus), memory)


def lease(request: LeaseRequest, *shares: Share, expires_at: float | None = None) -> Lease:
    return Lease("id", "key", ANA, request, shares, granted_at=NOON, expires_at=expires_at)


def test_what_a_lease_counts() -> None:
    shares = Share(gpu(0), 512 * MIB), Share(gpu(2, 2 * GIB), 512 * MIB)
    request = LeaseRequest(gpus=2, memory=512 * MIB)
    assert need_of_lease(lease(request, *shares)) == Need(Fraction(3, 4), GIB)
    assert need_of_lease(lease(replace(request, exclusive=True), *shares)) == Need(Fraction(2), 3 * GIB)


@pytest.mark.parametrize(
    ("quotas", "subjects"),
    [
        ({}, []),
        ({"user:ana": Quota()}, ["user:ana"]),
        ({"user:ben": Quota(), "group:ana": Quota()}, []),
        ({"user:*": Quota(), "group:*": Quota()}, ["user:ana", "group:lab"]),
        ({"user:ana": Quota(gpus=1), "user:*": Quota(), "group:lab": Quota()}, ["user:ana", "group:lab"]),
    ],
)
def test_whose_quotas_apply(quotas: dict[str, Quota], subjects: list[str]) -> None:
    found = dict(applying(quotas, ANA))
    assert list(found) == subjects
    assert all(found[subject] is quotas.get(subject, found[subject]) for subject in subjects)


@pytest.mark.parametrize(
    ("quota", "request_", "message"),
    [
        (Quota(), LeaseRequest(gpus=3, priority=100), None),
        (Quota(gpus=1), ONE, None),
        (Quota(gpus=0.5), ONE, "allows 0.5 GPUs at once: this takes 1 GPU"),
        (Quota(gpus=0), LeaseRequest(memory=2 * MIB), "allows 0 GPUs at once: this takes 0.001953 GPUs"),
        (Quota(memory=GIB), ONE, "allows 1 GiB at once: this takes 2 GiB"),
        (Quota(memory=GIB), LeaseRequest(memory=GIB), None),
        (Quota(lifetime_s=60), LeaseRequest(lifetime_s=61), "allows leases of at most 60 seconds, not 61"),
        (Quota(lifetime_s=60), LeaseRequest(lifetime_s=60), None),
        (Quota(lifetime_s=60), ONE, None),  # it gets 60
        (Quota(priority_max=-1), ONE, "allows priorities up to -1, not 0"),
        (Quota(gpu_seconds_per_day=0), ONE, "allows 0 GPU-hours a day, and they are used up"),
    ],
)
def test_what_could_never_be(quota: Quota, request_: LeaseRequest, message: str | None) -> None:
    for subject, shown in (("user:ana", "user ana"), ("group:*", "group lab")):
        found = ceiling(request_, ANA, need_of(request_, VIEW), {subject: quota})
        assert (found and str(found)) == (message and f"the quota of {shown} {message}")


HALF = Need(Fraction(1, 2), 512 * MIB)
ENDS = "it frees up when one of their leases ends"


@pytest.mark.parametrize(
    ("quota", "held", "ahead", "spent", "message"),
    [
        (Quota(gpus=1), HALF, Need(), 0, None),
        (Quota(gpus=1), HALF, HALF, 0,
         f"1 GPU at once: 0.5 GPUs held, 0.5 GPUs wanted by earlier requests, this takes 0.5 GPUs; {ENDS}"),
        (Quota(gpus=0.9), HALF, Need(), 0, f"0.9 GPUs at once: 0.5 GPUs held, this takes 0.5 GPUs; {ENDS}"),
        (Quota(memory=1000 * MIB), HALF, Need(), 0, f"1000 MiB at once: 512 MiB held, this takes 512 MiB; {ENDS}"),
        (Quota(gpu_seconds_per_day=3600), HALF, HALF, 3599, None),
        (Quota(gpu_seconds_per_day=3600), HALF, HALF, 3600,
         "1 GPU-hours a day, and they are used up; the next day begins at 2024-10-05 00:00:00 UTC"),
    ],
)  # fmt: skip
def test_what_cannot_be_now(quota: Quota, held: Need, ahead: Need, spent: float, message: str | None) -> None:
    found = stands_in_the_way(
        LeaseRequest(memory=512 * MIB), ANA, HALF, {"user:ana": quota}, {"user:ana": held}, {"user:ana": ahead}, lambda _: spent
    )  # fmt: skip
    assert (found and explain(found, [], NOON)) == (message and f"the quota of user ana allows {message}")


def test_both_quotas_must_allow_it() -> None:
    quotas = {"user:ana": Quota(gpus=2), "group:lab": Quota(gpus=1)}
    held = {"group:lab": Need(Fraction(1), GIB)}
    found = stands_in_the_way(ONE, ANA, HALF, quotas, held, {}, lambda _: 0.0)
    assert found is not None and found.subject == "group:lab"


def test_when_a_quota_frees_up() -> None:
    """When enough leases have come to their own ends, not before."""
    leases = [lease(ONE, Share(gpu(0), GIB), expires_at=end) for end in (NOON + 100, None, NOON + 50)]
    held = Need(Fraction(3), 3 * GIB)
    for gpus, at in ((3, NOON + 50), (2, NOON + 100), (1, None)):
        quotas, need = {"user:ana": Quota(gpus=gpus)}, Need(Fraction(1), GIB)
        found = stands_in_the_way(ONE, ANA, need, quotas, {"user:ana": held}, {}, lambda _: 0.0)
        assert found is not None and frees_at(found, leases, NOON) == at
    assert explain(found, leases, NOON).endswith(ENDS)
    soon = explain(replace(found, quota=Quota(gpus=3)), leases, NOON)
    assert soon.endswith("it frees up at 2024-10-04 12:00:50 UTC at the latest")


@pytest.mark.parametrize(
    ("asked", "quotas", "expected"),
    [
        (None, {}, None),
        (5, {}, 5),
        (None, {"user:ana": Quota(lifetime_s=9)}, 9),
        (5, {"user:ana": Quota(lifetime_s=9)}, 5),
        (None, {"user:ana": Quota(lifetime_s=9), "group:lab": Quota(lifetime_s=7)}, 7),
    ],
)
def test_how_long_a_lease_lives(asked: float | None, quotas: dict[str, Quota], expected: float | None) -> None:
    assert lifetime(LeaseRequest(lifetime_s=asked), ANA, quotas) == expected


# forms


@pytest.mark.parametrize(
    "quota", [Quota(), Quota(0.5, GIB, 3600, 60, -3), Quota(gpus=0, memory=0, gpu_seconds_per_day=0, priority_max=100)]
)
def test_plain_data(quota: Quota) -> None:
    assert Quota.from_plain(asdict(quota)) == quota
    assert Quota.from_plain({**asdict(quota), "newer": 5}) == quota


@pytest.mark.parametrize(
    "fields",
    [
        {"gpus": -1}, {"gpus": math.nan}, {"gpus": math.inf}, {"gpus": "2"}, {"gpus": True}, {"gpus": 1e9},
        {"memory": -1}, {"memory": 0.5}, {"memory": 2**80}, {"gpu_seconds_per_day": -0.1}, {"gpu_seconds_per_day": math.nan},
        {"lifetime_s": 0}, {"lifetime_s": 1e12}, {"priority_max": 101}, {"priority_max": 0.5}, {"priority_max": [0]},
    ],
)  # fmt: skip
def test_quotas_that_mean_nothing(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="quota: "):
        Quota.from_plain(fields)


def test_no_map() -> None:
    with pytest.raises(ConfigError, match="a Quota is written as a map"):
        Quota.from_plain([1])


@pytest.mark.parametrize("subject", ["user:ana", "group:*", "user:*", "group:a:b", "user:ana maria"])
def test_subjects(subject: str) -> None:
    assert check_subject(subject) == subject


@pytest.mark.parametrize("subject", ["", "ana", "user:", ":ana", "host:a", "user:a\nb", "user:" + "x" * 300])
def test_subjects_that_nobody_could_be(subject: str) -> None:
    with pytest.raises(ConfigError, match="write user:NAME or group:NAME"):
        check_subject(subject)
