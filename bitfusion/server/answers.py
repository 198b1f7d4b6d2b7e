"""The daemon's answers to calls on control connections, but for requests for leases, which wait (server/control.py)."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import asdict
from typing import Any

from bitfusion.errors import ConfigError
from bitfusion.pool.filters import parse_filter
from bitfusion.pool.lease import Lease
from bitfusion.pool.quota import Quota
from bitfusion.pool.request import Holder, LeaseRequest
from bitfusion.server import listing
from bitfusion.server.checks import checks
from bitfusion.server.held import Held
from bitfusion.server.leases import Leases
from bitfusion.server.listing import Identity
from bitfusion.server.workers import Workers
from bitfusion.session import fields
from bitfusion.session.asked import Asked
from bitfusion.session.hello import Hello
from bitfusion.session.server import Request
from bitfusion.wire.operations import Field, Opcode

HISTORY_COUNT = 1000
"""Entries of one answer, unless another number is asked for."""

HISTORY_COUNT_MAX = 10_000
"""Entries of one answer: what fits."""

QUOTA_COUNT_MAX = 4096
"""Whoever reaches the port may set them."""


def request_of(asked: Asked) -> LeaseRequest:
    """What a client asks for as the pool takes it. ConfigError for what means nothing."""
    return LeaseRequest(
        gpus=asked.gpus,
        memory=asked.memory,
        fraction=asked.fraction,
        exclusive=asked.exclusive,
        filters=tuple(parse_filter(text) for text in asked.filters),
        priority=asked.priority,
        weight=asked.weight,
        cap=asked.cap,
        lifetime_s=asked.lifetime,
    )


def holder_of(hello: Hello) -> Holder:
    """Who asks, in the client's own words."""
    return Holder(hello.user, hello.group, hello.hostname, hello.program, max(hello.pid, 0))


class Answers:
    """Answers from the leases of one server."""

    def __init__(self, leases: Leases, identity: Identity, workers: Workers) -> None:
        self.identity = identity
        self._workers = workers
        self._leases = leases
        self._started = time.monotonic()

    async def answer(self, request: Request) -> object:
        """The value of the reply. Raises what the call fails with, RemoteProtocolError for a breach."""
        given = request.fields
        match request.opcode:
            case Opcode.LEASE_RELEASE:
                held = self._leases.find(str(given[0]), str(given[1]))
                self._leases.end(held, "it was released")
                await held.free.wait()
                return None
            case Opcode.LEASE_SHOW:
                return self.granted(self._leases.find(str(given[0]), str(given[1])))
            case Opcode.POOL_LIST:
                return listing.pool(self._leases, self.identity)
            case Opcode.POOL_DEALLOC:
                return await self._dealloc(given[0])
            case Opcode.QUOTA_LIST:
                quotas = self._leases.pool.quotas.items()
                return listing.fitting(
                    ({"subject": name, **asdict(quota)} for name, quota in quotas), listing.ENTRIES_SIZE_MAX
                )
            case Opcode.QUOTA_SET:
                await self._set_quota(given[0])
                return None
            case Opcode.HISTORY:
                return await self._history(given[0])
            case Opcode.HEALTH:
                return self._health()
            case _:  # the table of operations knows no other
                return given[0]

    def granted(self, held: Held) -> dict[str, Any]:
        """A lease as its holder is told of it."""
        return listing.granted(self._leases.lease(held), self.identity)

    async def _dealloc(self, value: Field) -> list[str]:
        which, where = fields.a_map(value, "POOL_DEALLOC"), "POOL_DEALLOC"
        wanted = {name: fields.text(which, where, name) for name in ("lease", "user", "group", "hostname", "gpu")}
        if not any(wanted.values()) and not fields.boolean(which, where, "everything"):
            raise ConfigError(
                "dealloc needs to know which leases: an id, a user, a group, a host or a GPU, or everything"
            )
        found = [held for held in self._leases.held if _is_meant(self._leases.lease(held), wanted)]
        for held in found:
            self._leases.end(held, "it was taken back (dealloc)")
        for held in found:
            await held.free.wait()
        return [held.id for held in found]

    async def _set_quota(self, value: Field) -> None:
        given = dict(fields.a_map(value, "QUOTA_SET"))
        subject = fields.text(given, "QUOTA_SET", "subject")
        quota = Quota.from_plain(given)
        quotas = self._leases.pool.quotas
        if subject not in quotas and len(quotas) >= QUOTA_COUNT_MAX:
            raise ConfigError(f"{QUOTA_COUNT_MAX} quotas are set already: remove some, or use user:* and group:*")
        wanted = None if quota == Quota() else quota
        self._leases.pool.set_quota(subject, wanted)
        self._leases.store.set_quota(subject, wanted)
        self._leases.settle()
        await asyncio.wrap_future(self._leases.store.written())

    async def _history(self, value: Field) -> list[dict[str, Any]]:
        given, where = fields.a_map(value, "HISTORY"), "HISTORY"
        since = fields.optional_number(given, where, "since") or 0.0
        user, group = fields.optional_text(given, where, "user"), fields.optional_text(given, where, "group")
        count = min(fields.integer(given, where, "count", HISTORY_COUNT), HISTORY_COUNT_MAX)
        found = await asyncio.to_thread(self._leases.store.history, since, user, group, max(count, 0))
        return listing.fitting((entry.plain() for entry in found), listing.ENTRIES_SIZE_MAX)

    def _health(self) -> dict[str, Any]:
        leases = self._leases
        return {
            "server": asdict(self.identity),
            "pid": os.getpid(),
            "uptime_s": time.monotonic() - self._started,
            "gpus": len(leases.pool.view()),
            "leases": len(leases.held),
            "sessions": sum(len(held.sessions) for held in leases.held),
            "waiting": len(leases.pool.waiters),
            "checks": checks(self._workers.ready, len(leases.held) + len(leases.pool.waiters), leases.store.problem),
        }


def _is_meant(lease: Lease, wanted: dict[str, str]) -> bool:
    has = {
        "lease": (lease.id,),
        "user": (lease.holder.user,),
        "group": (lease.holder.group,),
        "hostname": (lease.holder.hostname,),
        "gpu": tuple(share.device.uuid for share in lease.shares),
    }
    return all(not value or value in has[name] for name, value in wanted.items())
