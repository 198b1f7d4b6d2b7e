"""The pool as the listings show it. Plain values; reading them from an appliance's answer is ``cli/asking.py``'s."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Session:
    """One connection to a worker on one GPU of a lease. None: not known."""

    id: str
    pid: int
    program: str
    memory: int | None
    """Bytes it has allocated."""
    busy: float | None
    """Part of the GPU's time that it had lately, 0 to 1."""
    idle_s: float | None


@dataclass(frozen=True, slots=True)
class Lease:
    """What a lease holds of one GPU."""

    id: str
    user: str
    group: str
    hostname: str
    program: str
    pid: int
    memory: int
    exclusive: bool
    weight: int
    cap: int | None
    priority: int
    state: str
    age_s: float | None
    idle_s: float | None
    left_s: float | None
    """Until its lifetime is over."""
    sessions: tuple[Session, ...]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU with its leases. ``utilization`` is 0 to 1; None: not known."""

    server: str
    index: int
    kind: str
    uuid: str
    name: str
    memory_size: int
    leased_size: int
    utilization: float | None
    temperature_c: float | None
    power_w: float | None
    leases: tuple[Lease, ...]

    @property
    def used_size(self) -> int:
        """Bytes that sessions have allocated, as far as it is known."""
        return sum(session.memory or 0 for lease in self.leases for session in lease.sessions)


@dataclass(frozen=True, slots=True)
class Waiter:
    """A request in the queue, in words."""

    server: str
    position: int
    user: str
    priority: int
    asked: str
    waited_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Pool:
    """One appliance, or what several have together."""

    servers: tuple[str, ...]
    software: str
    gpus: tuple[Gpu, ...]
    waiters: tuple[Waiter, ...]

    @property
    def lease_count(self) -> int:
        """Leases, each counted once however many GPUs it has."""
        return len({(gpu.server, lease.id) for gpu in self.gpus for lease in gpu.leases})
