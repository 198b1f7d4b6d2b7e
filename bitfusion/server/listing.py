"""What the daemon tells of leases and the pool, as plain values (docs/reference/wire.md section 6.2). Keys of leases are never in it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from bitfusion import limits
from bitfusion.pool.lease import Lease
from bitfusion.pool.placement import DeviceView
from bitfusion.server.held import Held, SessionRow
from bitfusion.server.leases import Leases
from bitfusion.version import __version__
from bitfusion.wire import codec

QUEUE_SIZE_MAX, LEASES_SIZE_MAX, ENTRIES_SIZE_MAX = limits.MIB, 2 * limits.MIB, 3 * limits.MIB
"""Bytes in one answer of the queue, of all leases, and of other entries: a frame's metadata must hold it, whatever names there are."""

ASKED_SIZE_MAX = 200
"""Characters of what a waiter asks for: its filters may have many more."""


def fitting(entries: Iterable[dict[str, Any]], size_max: int) -> list[dict[str, Any]]:
    """As many of the entries, from the first, as have room."""
    found = []
    for entry in entries:
        size_max -= len(codec.pack(entry))
        if size_max < 0:
            break
        found.append(entry)
    return found


@dataclass(frozen=True, slots=True)
class Identity:
    """This server: ``id`` is its own, for as long as its state directory lives."""

    id: str
    hostname: str
    address: str
    version: str = __version__


def granted(lease: Lease, identity: Identity) -> dict[str, Any]:
    """A lease as its holder is told of it: the only place where its key is."""
    return {
        "id": lease.id,
        "key": lease.key,
        "state": str(lease.state),
        "granted_at": lease.granted_at,
        "expires_at": lease.expires_at,
        "gpus": [
            {
                "server": identity.id,
                "index": share.device.index,
                "kind": share.device.kind,
                "uuid": share.device.uuid,
                "name": share.device.name,
                "memory_size": share.device.memory_size,
                "leased_size": share.memory,
            }
            for share in lease.shares
        ],
    }


def pool(leases: Leases, identity: Identity) -> dict[str, Any]:
    """Server, GPUs with their leases and sessions, and queue."""
    by_gpu: dict[str, list[dict[str, Any]]] = {}
    for held in leases.held:
        lease = leases.lease(held)
        for number, share in enumerate(lease.shares):
            by_gpu.setdefault(share.device.uuid, []).append(_lease(leases, held, lease, number))
    view = leases.pool.view()
    room = LEASES_SIZE_MAX // max(len(view), 1)
    gpus = [_gpu(item, fitting(by_gpu.get(item.device.uuid, []), room), identity) for item in view]
    return {"server": asdict(identity), "gpus": gpus, "queue": fitting(_queue(leases), QUEUE_SIZE_MAX)}


def _gpu(view: DeviceView, leases: list[dict[str, Any]], identity: Identity) -> dict[str, Any]:
    device = view.device
    return {
        "server": identity.id,
        "index": device.index,
        "kind": device.kind,
        "uuid": device.uuid,
        "name": device.name,
        "memory_size": device.memory_size,
        "leased_size": view.used,
        "compute_capability": device.compute_capability,
        "utilization": _utilization(leases),
        "temperature": None,
        "power": None,
        "leases": leases,
    }


def _utilization(leases: list[dict[str, Any]]) -> float | None:
    """What its sessions had of its time, together: others' use of a GPU is not seen."""
    shares = [session["share"] for lease in leases for session in lease["sessions"]]
    return (
        min(sum(share or 0.0 for share in shares), 1.0)
        if any(share is not None for share in shares) or not shares
        else None
    )


def _lease(leases: Leases, held: Held, lease: Lease, number: int) -> dict[str, Any]:
    holder, request = lease.holder, lease.request
    return {
        "id": lease.id,
        "user": holder.user,
        "group": holder.group,
        "hostname": holder.hostname,
        "program": holder.program,
        "pid": holder.pid,
        "memory_size": lease.shares[number].memory,
        "exclusive": request.exclusive,
        "weight": request.weight,
        "cap": request.cap,
        "priority": request.priority,
        "state": str(lease.state),
        "granted_at": lease.granted_at,
        "expires_at": lease.expires_at,
        "idle_s": leases.idle_s(held),
        "sessions": [_session(leases, held, row) for row in held.sessions.values() if row.gpu == number],
    }


def _session(leases: Leases, held: Held, row: SessionRow) -> dict[str, Any]:
    usage = leases.ledgers.session_usage(held.id, row.gpu, row.row)
    return {
        "id": row.id,
        "pid": row.holder.pid,
        "program": row.holder.program,
        "memory_used": usage.memory_used,
        "share": row.sample(usage.device_s, time.monotonic()),
        "idle_s": usage.idle_s if math.isfinite(usage.idle_s) else None,
    }


def _queue(leases: Leases) -> list[dict[str, Any]]:
    now = time.time()
    return [
        {
            "id": waiter.id,
            "user": waiter.holder.user,
            "group": waiter.holder.group,
            "priority": waiter.request.priority,
            "asked": str(waiter.request)[:ASKED_SIZE_MAX],
            "position": position,
            "waiting_s": max(now - waiter.asked_at, 0.0),
            "reason": leases.place_of(waiter).reason,
        }
        for position, waiter in enumerate(leases.pool.waiters, 1)
    ]
