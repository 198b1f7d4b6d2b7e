"""A training step on a leased GPU against the same kernels on a device of this very process, without frames and sockets.

A round is an epoch in small: some steps, then the loss is read, which waits for them. Rounds of both take turns, so that noise
meets both alike. Both compute the same numbers, which is checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np

from bitfusion import cuda
from bitfusion.cli.bench.ground import LEASE_SIZE, Ground
from bitfusion.cli.bench.measure import interleave, spread
from bitfusion.cli.bench.network import Network
from bitfusion.client.client import Client
from bitfusion.errors import DeviceError
from bitfusion.transport.blocking import BlockingTransport

STEPS = 11
"""Steps of a round: an epoch of the digits in batches of 128 is eleven."""


@dataclass(frozen=True, slots=True)
class Train:
    """Milliseconds a step, of rounds of STEPS steps. ``local_device``: where the floor ran."""

    remote_ms: float
    remote_p99_ms: float
    local_ms: float
    local_p99_ms: float
    ratio: float
    local_device: str


def measure(ground: Ground) -> Train:
    """Both networks, a round each in turn."""
    rounds = 20 if ground.quick else 100
    with ground.client() as remote, _local(ground) as local, ground.progress.stage("training", rounds + 1) as advance:
        networks = [Network(remote), Network(local)]
        tasks = [_round(network) for network in networks]
        remote_ms, local_ms = (
            spread(sample, 1e3 / STEPS) for sample in interleave(tasks, rounds=rounds, advance=advance)
        )
        _compare(*networks)
        return Train(
            remote_ms.p50, remote_ms.p99, local_ms.p50, local_ms.p99, remote_ms.p50 / local_ms.p50, local.device.name
        )


def _round(network: Network) -> Callable[[], None]:
    def run() -> None:
        with cuda.use(network.client):
            for _ in range(STEPS):
                network.step()
            network.loss()

    return run


def _local(ground: Ground) -> Client:
    """A session on a device of this process, of the kind that our own appliance has."""
    from bitfusion.daemon.inprocess import open_local  # brings the compiler

    spec = "auto" if ground.server else ground.devices
    transport = open_local(spec, memory=LEASE_SIZE, cache_dir=ground.state_dir / "local")
    return Client(cast(BlockingTransport, transport))


def _compare(remote: Network, local: Network) -> None:
    """The same kernels on the same values: the losses agree, but for the order in which atomics add. The null device has none."""
    losses = remote.loss(), local.loss()
    if local.client.device.kind != "null" and not np.isclose(*losses, rtol=0.01):
        raise DeviceError(f"training came to a loss of {losses[0]:.4f} remote and {losses[1]:.4f} in process")
