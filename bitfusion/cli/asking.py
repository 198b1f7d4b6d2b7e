"""Asking appliances about the pool, and reading what they answer (docs/reference/wire.md section 6.2).

An answer is checked as it is read: its texts go to a terminal, its numbers into sums.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from typing import TypeVar

from bitfusion.cli.view import Gpu, Lease, Pool, Session, Waiter
from bitfusion.client.control import Control, open_control
from bitfusion.errors import RemoteProtocolError
from bitfusion.session import fields
from bitfusion.session.fields import boolean, integer, optional_integer, optional_number, shown
from bitfusion.wire.operations import Field

T = TypeVar("T")
Fields = Mapping[str, Field]

REASON_SIZE_MAX = 4096
"""Characters of why a request waits: it may name many GPUs."""


def pool_of(servers: Sequence[str]) -> Pool:
    """What the servers have, together. Raises the ConnectError branch."""
    with Watch(servers) as watch:
        return watch.look()


class Watch:
    """Control connections to servers, for looking more than once."""

    def __init__(self, servers: Sequence[str]) -> None:
        self._servers = tuple(servers)
        self._open: dict[str, Control] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def look(self) -> Pool:
        """The pool as it is now. Raises the ConnectError branch, SessionError; the next look connects again."""
        pools = []
        for server in self._servers:
            control = self._open.get(server)
            if control is None or control.closed:
                control = self._open[server] = self._stack.enter_context(open_control(server))
            pools.append(read_pool(server, control.list()))
        return joined(pools)


def joined(pools: Sequence[Pool]) -> Pool:
    """Several servers' pools as one."""
    return Pool(
        tuple(chain.from_iterable(pool.servers for pool in pools)),
        ", ".join(dict.fromkeys(pool.software for pool in pools)),
        tuple(chain.from_iterable(pool.gpus for pool in pools)),
        tuple(chain.from_iterable(pool.waiters for pool in pools)),
    )


# reading


def read_pool(server: str, answer: object) -> Pool:
    """POOL_LIST's answer. ``server``: the name it was asked by, which the listings show."""
    where, now = "the server's list", time.time()
    given = fields.a_map(answer, where)  # type: ignore[arg-type]  # checked there
    about = fields.a_map(given.get("server"), where)
    gpus = _array(given, where, "gpus", lambda item: _gpu(server, item, now))
    return Pool(
        (server,),
        shown(about, where, "version"),
        gpus,
        _array(given, where, "queue", lambda item: _waiter(server, item)),
    )


def _array(given: Fields, where: str, name: str, read: Callable[[Field], T]) -> tuple[T, ...]:
    value = given.get(name, ())
    if not isinstance(value, tuple | list):
        raise RemoteProtocolError(f"{where}: {name} must be an array")
    return tuple(read(item) for item in value)


def _gpu(server: str, value: Field, now: float) -> Gpu:
    where = "a GPU of the server's list"
    given = fields.a_map(value, where)
    return Gpu(
        server=server,
        index=integer(given, where, "index"),
        kind=shown(given, where, "kind"),
        uuid=shown(given, where, "uuid"),
        name=shown(given, where, "name"),
        memory_size=integer(given, where, "memory_size"),
        leased_size=integer(given, where, "leased_size"),
        utilization=optional_number(given, where, "utilization"),
        temperature_c=optional_number(given, where, "temperature"),
        power_w=optional_number(given, where, "power"),
        leases=_array(given, where, "leases", lambda item: _lease(item, now)),
    )


def _lease(value: Field, now: float) -> Lease:
    where = "a lease of the server's list"
    given = fields.a_map(value, where)
    granted, expires = optional_number(given, where, "granted_at"), optional_number(given, where, "expires_at")
    return Lease(
        id=shown(given, where, "id"),
        user=shown(given, where, "user"),
        group=shown(given, where, "group"),
        hostname=shown(given, where, "hostname"),
        program=shown(given, where, "program"),
        pid=integer(given, where, "pid"),
        memory=integer(given, where, "memory_size"),
        exclusive=boolean(given, where, "exclusive"),
        weight=integer(given, where, "weight"),
        cap=optional_integer(given, where, "cap"),
        priority=integer(given, where, "priority"),
        state=shown(given, where, "state"),
        age_s=None if granted is None else max(now - granted, 0),
        idle_s=optional_number(given, where, "idle_s"),
        left_s=None if expires is None else max(expires - now, 0),
        sessions=_array(given, where, "sessions", _session),
    )


def _session(value: Field) -> Session:
    where = "a session of the server's list"
    given = fields.a_map(value, where)
    return Session(
        id=shown(given, where, "id"),
        pid=integer(given, where, "pid"),
        program=shown(given, where, "program"),
        memory=optional_integer(given, where, "memory_used"),
        busy=optional_number(given, where, "share"),
        idle_s=optional_number(given, where, "idle_s"),
    )


def _waiter(server: str, value: Field) -> Waiter:
    where = "a request of the server's list"
    given = fields.a_map(value, where)
    return Waiter(
        server=server,
        position=integer(given, where, "position"),
        user=shown(given, where, "user"),
        priority=integer(given, where, "priority"),
        asked=fields.printable(fields.text(given, where, "asked", REASON_SIZE_MAX)),
        waited_s=optional_number(given, where, "waiting_s") or 0.0,
        reason=fields.printable(fields.text(given, where, "reason", REASON_SIZE_MAX)),
    )
