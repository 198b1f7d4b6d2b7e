"""A call's round trip against a plain blocking-socket echo of the same number of bytes each way."""

from __future__ import annotations

from dataclasses import dataclass, field

from bitfusion.cli.bench.ground import Ground, Traffic
from bitfusion.cli.bench.measure import Spread, interleave, spread
from bitfusion.cli.bench.placement import Placement
from bitfusion.client.client import Client

DATA_SIZE = 64


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Microseconds, client and server placed alike for ours and the floor."""

    placement: Placement
    call_us: Spread
    floor_us: Spread
    ratio: float


@dataclass(frozen=True, slots=True)
class Latency(RoundTrip):
    """``sent_size`` and ``rcvd_size``: bytes of one call on the wire, which the floor moves too."""

    data_size: int
    sent_size: int
    rcvd_size: int
    other_placements: list[RoundTrip] = field(default_factory=list)


def measure(ground: Ground) -> Latency:
    """Echo DATA_SIZE bytes."""
    data = bytes(DATA_SIZE)
    with ground.client() as client:
        client.echo(data)
        before = Traffic.of(client)
        client.echo(data)
        wire = Traffic.of(client).since(before)
        first, *others = (_round_trip(ground, client, data, wire, placement) for placement in ground.placements)
    return Latency(first.placement, first.call_us, first.floor_us, first.ratio, DATA_SIZE, wire.sent, wire.rcvd, others)


def _round_trip(ground: Ground, client: Client, data: bytes, wire: Traffic, placement: Placement) -> RoundTrip:
    rounds, calls = (20, 50) if ground.quick else (100, 200)
    with (
        ground.floor.exchange(wire.sent, wire.rcvd) as floor,
        ground.progress.stage(f"call round trip, {placement}", rounds) as advance,
        ground.placed(placement),
    ):
        ours, floors = interleave([lambda: client.echo(data), floor], rounds=rounds, calls=calls, advance=advance)
    call_us, floor_us = spread(ours, 1e6), spread(floors, 1e6)
    return RoundTrip(placement, call_us, floor_us, call_us.p50 / floor_us.p50)
