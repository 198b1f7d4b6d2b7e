"""Where the bench runs: the server asked for or private appliances, the floor's process, and leases on them.

Owns what is started for a bench, all of which ends with it.
"""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from bitfusion.cli.bench.floors import Floor
from bitfusion.cli.bench.placement import Placement, children, placed, placements_possible, threads
from bitfusion.cli.bench.progress import Progress
from bitfusion.client.client import Client, connect
from bitfusion.client.embedded import Appliance

LEASE_SIZE = 512 << 20
"""Memory of the bench's leases: twice its largest copy; on a shared server the rest stays free for others."""

NULL = "null"


class Ground:
    """Started as it is needed, stopped when the block ends. ``devices``: of the private appliance, without a server."""

    def __init__(self, server: str | None, devices: str, progress: Progress, *, quick: bool) -> None:
        self.server = server
        self.devices = devices
        self.progress = progress
        self.quick = quick
        self._own: dict[str, Appliance] = {}

    def __enter__(self) -> Ground:
        with ExitStack() as stack:
            self._place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bitfusion-bench-")))
            self.floor = stack.enter_context(Floor())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @property
    def state_dir(self) -> Path:
        """Kept as long as the bench runs: caches live here."""
        return self._place

    @property
    def chosen_is_null(self) -> bool:
        """Whether the chosen device does nothing."""
        return self.server is None and self.devices == NULL

    def client(self) -> Client:
        """A lease on the chosen device."""
        return connect(self.server or str(self._appliance(self.devices).target), memory=LEASE_SIZE)

    def null_client(self) -> Client:
        """A lease on the null device of an appliance of our own."""
        return connect(str(self._appliance(NULL).target), memory=LEASE_SIZE)

    @property
    def placements(self) -> tuple[Placement, ...]:
        """How a comparison on the chosen device can be placed: a server that is not ours runs where it likes."""
        return (Placement.FREE,) if self.server else placements_possible()

    def placed(self, placement: Placement) -> AbstractContextManager[None]:
        """Put this thread, the floor's threads and the workers of our own appliances in their places."""
        return placed(
            placement, [*threads(self.floor.pid), *(worker for own in self._own.values() for worker in _workers(own))]
        )

    def workers(self) -> list[int]:
        """The processes of the sessions on the chosen device, if it is our own."""
        return [] if self.server else _workers(self._appliance(self.devices))

    def _appliance(self, devices: str) -> Appliance:
        if devices not in self._own:
            with self.progress.stage(f"starting an appliance ({devices})", 1):
                self._own[devices] = Appliance(devices, self._place / f"state-{len(self._own)}")
            self._stack.callback(self._own[devices].stop)
        return self._own[devices]


def _workers(appliance: Appliance) -> list[int]:
    """The children of its zygote."""
    return [worker for zygote in children(appliance.process.pid) for worker in children(zygote)]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes one client sent and received."""

    sent: int
    rcvd: int

    @classmethod
    def of(cls, client: Client) -> Traffic:
        """So far."""
        return cls(client.metrics.bytes_sent, client.metrics.bytes_rcvd)

    def since(self, earlier: Traffic) -> Traffic:
        """What came after ``earlier``."""
        return Traffic(self.sent - earlier.sent, self.rcvd - earlier.rcvd)
