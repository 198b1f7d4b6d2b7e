"""Launches: how many a second one client can post, and how long one takes that is waited for.

On the null device, which does nothing and so leaves only our own cost, and on the chosen one. The floor of posting is
the least Python that sends the same messages: each launch packed by msgpack, sent by plain ``sendall`` in batches of the
same size to a process that reads them and answers the last byte. The floor of launch and synchronize is a plain echo of
the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import msgpack
import numpy as np

from bitfusion import limits
from bitfusion.cli.bench.floors import Exchange
from bitfusion.cli.bench.ground import Ground, Traffic
from bitfusion.cli.bench.measure import Spread, interleave, spread
from bitfusion.cli.bench.placement import Placement, placements_possible
from bitfusion.client.client import Client, Function
from bitfusion.wire.operations import CONFIG, Opcode

NAME = "nothing"

IMAGE = f"""
.version 6.0
.target sm_52
.address_size 64
.visible .entry {NAME}(.param .u64 unused)
{{
    ret;
}}
""".encode()
"""A kernel that returns at once. PTX ISA 6.0 and sm_52: every device takes it."""

ARGUMENTS = bytes(8)


@dataclass(frozen=True, slots=True)
class Launch:
    """One device. ``posted_per_s`` counts launches from the first post until the device has run the last."""

    device: str
    posted_per_s: float
    floor_posted_per_s: float
    posted_ratio: float
    call_us: Spread
    floor_us: Spread
    ratio: float


def measure(ground: Ground) -> dict[str, Launch]:
    """``null``, and ``chosen`` where that is another device."""
    with ground.null_client() as client:
        found = {"null": _one(ground, client, placements_possible()[0], 2_000 if ground.quick else 20_000)}
    if ground.chosen_is_null:
        return found
    with ground.client() as client:
        return {**found, "chosen": _one(ground, client, ground.placements[0], 500 if ground.quick else 4_000)}


def load(client: Client) -> Function:
    """The kernel that does nothing."""
    return client.load_module(IMAGE).function(NAME)


def _one(ground: Ground, client: Client, placement: Placement, count: int) -> Launch:
    posts, rounds, calls = (5, 20, 20) if ground.quick else (15, 50, 50)
    function = load(client)

    def call() -> None:
        function.launch(1, 1, ARGUMENTS)
        client.default_stream.synchronize()

    call()
    before = Traffic.of(client)
    call()
    wire = Traffic.of(client).since(before)
    with ExitStack() as stack:
        advance = stack.enter_context(ground.progress.stage(f"launches ({client.device.kind})", posts + rounds))
        size = len(_packed()) * count
        sink = stack.enter_context(ground.floor.exchange(size, 1))
        echo = stack.enter_context(ground.floor.exchange(wire.sent, wire.rcvd))
        stack.enter_context(ground.placed(placement))
        tasks = (_posting(function, count), lambda: _post_plainly(sink, count))
        posted, plain = (count / sample for sample in interleave(tasks, rounds=posts, advance=advance))
        ours, floors = interleave([call, echo], rounds=rounds, calls=calls, advance=advance)
    rate, floor_rate = float(np.median(posted)), float(np.median(plain))
    call_us, floor_us = spread(ours, 1e6), spread(floors, 1e6)
    return Launch(
        client.device.name, rate, floor_rate, rate / floor_rate, call_us, floor_us, call_us.p50 / floor_us.p50
    )


def _posting(function: Function, count: int) -> Callable[[], None]:
    """``count`` launches and one wait."""
    launch, synchronize = function.launch, function.client.default_stream.synchronize

    def post() -> None:
        for _ in range(count):
            launch(1, 1, ARGUMENTS)
        synchronize()

    return post


def _packed() -> bytes:
    return msgpack.packb((int(Opcode.LAUNCH), 0, 1, CONFIG.pack(1, 1, 1, 1, 1, 1, 0), ARGUMENTS)) or b""


def _post_plainly(sink: Exchange, count: int) -> None:
    pack, config, opcode = msgpack.Packer().pack, CONFIG.pack, int(Opcode.LAUNCH)
    batch = bytearray()
    for _ in range(count):
        batch += pack((opcode, 0, 1, config(1, 1, 1, 1, 1, 1, 0), ARGUMENTS))
        if len(batch) >= limits.BATCH_SIZE:
            sink.send(batch)
            batch.clear()
    sink.send(batch)
    sink.receive()
