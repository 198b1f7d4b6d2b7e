"""A granted lease as the daemon holds it: its sessions, why it is to end, and when it is free. No policy."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from bitfusion.errors import OPEN_ANOTHER, LeaseEndedError
from bitfusion.pool.request import Holder

SAMPLE_S = 0.5
"""Between two looks at what a session had of its GPU: many may be looking, and each shorter than this would be noise."""


ASK_AGAIN = (
    f"Ask for a new lease: run the program again with `bitfusion run`; one that leases for itself may {OPEN_ANOTHER}"
)
"""A program of ``bitfusion run`` cannot connect again: its environment names the lease that has ended."""


@dataclass(slots=True)
class SessionRow:
    """One session on a lease, as listings show it: on GPU number ``gpu`` of the lease, in row ``row`` of that GPU's ledger."""

    id: str
    gpu: int
    row: int
    holder: Holder
    pid: int = 0
    """The worker's; 0 while it starts."""
    share: float | None = None
    """The part of the GPU's time that it had lately, 0 to 1; None: not known yet."""
    _sampled: tuple[float, float] | None = None

    def sample(self, device_s: float, now: float) -> float | None:
        """``share``, worked out again where the last time is long ago enough; ``device_s``: all of the GPU's time that it has had."""
        before = self._sampled
        if before is None:
            self._sampled = now, device_s
        elif now - before[0] >= SAMPLE_S:
            self.share = min(max((device_s - before[1]) / (now - before[0]), 0.0), 1.0)
            self._sampled = now, device_s
        return self.share


@dataclass(slots=True)
class Held:
    """What the daemon knows of a lease beside what the pool does."""

    id: str
    sessions: dict[str, SessionRow] = field(default_factory=dict)
    ending: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when its sessions are to end."""
    free: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when its memory is free."""
    reason: str = ""
    """Why it ends."""
    used_at: float = field(default_factory=time.monotonic)
    """When a session last began or ended."""
    lifetime: asyncio.TimerHandle | None = None
    idle: asyncio.TimerHandle | None = None

    def over(self) -> LeaseEndedError:
        """What the clients on it are told."""
        return LeaseEndedError(
            f"the lease {self.id} has ended: {self.reason}; memory and kernels of its sessions are gone. {ASK_AGAIN}"
        )

    def cancel_timers(self) -> None:
        """It ends before they do."""
        for timer in (self.lifetime, self.idle):
            if timer is not None:
                timer.cancel()
