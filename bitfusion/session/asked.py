"""What a client asks of the pool, as it travels: in the hello of a session, and in a LEASE_REQUEST (docs/reference/wire.md section 4.1).

Owns types and lengths. Whether the numbers mean something is the pool's to say (pool/request.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from bitfusion import limits
from bitfusion.errors import RemoteProtocolError
from bitfusion.session import fields
from bitfusion.wire.operations import Field

WEIGHT_DEFAULT = 100


@dataclass(frozen=True, slots=True)
class Asked:
    """A lease of ``gpus`` GPUs with ``memory`` bytes or a ``fraction`` of each; neither is a whole GPU."""

    gpus: int = 1
    memory: int | None = None
    fraction: float | None = None
    exclusive: bool = False
    filters: tuple[str, ...] = ()
    priority: int = 0
    weight: int = WEIGHT_DEFAULT
    cap: int | None = None
    """Per cent of each GPU's time."""
    lifetime: float | None = None
    """Seconds after which the lease ends; None: as long as the pool allows."""
    wait: float | None = None
    """Seconds it may wait in the queue; None: as long as it takes; 0: not at all."""


def decode_asked(value: Field, where: str) -> Asked:
    """Check what a client asks for; RemoteProtocolError names the field."""
    given = fields.a_map(value, where)
    wait, lifetime = fields.optional_number(given, where, "wait"), fields.optional_number(given, where, "lifetime")
    if (wait is not None and wait < 0) or (lifetime is not None and lifetime < 0):
        raise RemoteProtocolError(f"{where}: wait and lifetime must not be negative")
    return Asked(
        gpus=fields.integer(given, where, "gpus", 1),
        memory=fields.optional_integer(given, where, "memory"),
        fraction=fields.optional_number(given, where, "fraction"),
        exclusive=fields.boolean(given, where, "exclusive"),
        filters=fields.texts(given, where, "filters", limits.FILTER_COUNT_MAX, limits.FILTER_SIZE_MAX),
        priority=fields.integer(given, where, "priority"),
        weight=fields.integer(given, where, "weight", WEIGHT_DEFAULT),
        cap=fields.optional_integer(given, where, "cap"),
        lifetime=lifetime,
        wait=wait,
    )
