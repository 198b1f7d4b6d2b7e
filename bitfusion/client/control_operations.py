"""What a control connection is asked, each written once for both faces: calls to the daemon about leases and the pool.

Answers that only people read come as the plain maps of docs/reference/wire.md section 6.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bitfusion.errors import RemoteProtocolError
from bitfusion.session import fields
from bitfusion.session.asked import Asked
from bitfusion.session.client import ClientSession, Operation
from bitfusion.session.waiting import OnWait
from bitfusion.wire.operations import Field, Opcode

SHARE_COUNT_MAX = 1024
"""GPUs of a lease that is believed: more than any appliance has."""


@dataclass(frozen=True, slots=True)
class GrantedGpu:
    """One GPU of a lease: ``leased_size`` bytes of its ``memory_size`` are the lease's."""

    server: str
    index: int
    kind: str
    uuid: str
    name: str
    memory_size: int
    leased_size: int


@dataclass(frozen=True, slots=True)
class Grant:
    """A lease as its holder has it. Whoever has ``id`` and ``key`` may use it. Times are seconds since 1970."""

    id: str
    key: str = field(repr=False)
    state: str
    gpus: tuple[GrantedGpu, ...]
    granted_at: float
    expires_at: float | None
    """None: it has no end of its own."""


def request_lease(session: ClientSession, asked: Asked, held: bool, on_wait: OnWait | None) -> Operation[Grant]:
    """Ask for a lease, wait in the queue for it, and tell ``on_wait`` of each place there. Given up, it is withdrawn."""
    call = session.request_lease({**asdict(asked), "held": held})
    try:
        while not call.answered:
            yield call
            while call.news:
                waiting = call.news.popleft()
                if on_wait is not None:
                    on_wait(waiting)
    except BaseException:
        _withdraw(session, call.request)
        raise
    return _grant(call.result())


def _withdraw(session: ClientSession, request: int) -> None:
    """Nobody waits for the lease any longer: without a word it would be granted to nobody."""
    if session.error is None:
        session.call(Opcode.LEASE_CANCEL, 0, request)
        if session.wake is not None:
            session.wake()


def release(session: ClientSession, lease: str, key: str) -> Operation[None]:
    """End a lease; done once its memory is free."""
    yield from _call(session, Opcode.LEASE_RELEASE, lease, key)


def show(session: ClientSession, lease: str, key: str) -> Operation[Grant]:
    """A lease that is there."""
    return _grant((yield from _call(session, Opcode.LEASE_SHOW, lease, key)))


def pool(session: ClientSession) -> Operation[dict[str, Any]]:
    """Server, GPUs with their leases, and queue."""
    return _a_dict((yield from _call(session, Opcode.POOL_LIST)))


def dealloc(session: ClientSession, which: Mapping[str, object]) -> Operation[list[str]]:
    """End other people's leases; the ids of those that were."""
    answer = yield from _call(session, Opcode.POOL_DEALLOC, {name: value for name, value in which.items() if value})
    return [item for item in _an_array(answer) if isinstance(item, str)]


def quotas(session: ClientSession) -> Operation[list[dict[str, Any]]]:
    """All quotas."""
    return [_a_dict(item) for item in _an_array((yield from _call(session, Opcode.QUOTA_LIST)))]


def set_quota(session: ClientSession, quota: Mapping[str, object]) -> Operation[None]:
    """Set a quota, or take it away."""
    yield from _call(session, Opcode.QUOTA_SET, dict(quota))


def history(session: ClientSession, which: Mapping[str, object]) -> Operation[list[dict[str, Any]]]:
    """Leases that have ended."""
    answer = yield from _call(session, Opcode.HISTORY, {name: item for name, item in which.items() if item is not None})
    return [_a_dict(item) for item in _an_array(answer)]


def health(session: ClientSession) -> Operation[dict[str, Any]]:
    """How the daemon is."""
    return _a_dict((yield from _call(session, Opcode.HEALTH)))


def echo(session: ClientSession, data: bytes) -> Operation[bytes]:
    """The same bytes back, from the daemon."""
    answer = yield from _call(session, Opcode.ECHO, data)
    if not isinstance(answer, bytes):
        raise RemoteProtocolError("the server did not echo bytes")
    return answer


def _call(session: ClientSession, opcode: Opcode, *values: object) -> Operation[Field]:
    call = session.call(opcode, 0, *values)
    yield call
    return call.result()


def _a_dict(value: Field) -> dict[str, Any]:
    return dict(fields.a_map(value, "the server's answer"))


def _an_array(value: Field) -> tuple[Field, ...]:
    if not isinstance(value, tuple):
        raise RemoteProtocolError("the server's answer must be an array")
    return value


def _grant(value: Field) -> Grant:
    given, where = fields.a_map(value, "a lease"), "a lease"
    gpus = _an_array(given.get("gpus"))
    if not 1 <= len(gpus) <= SHARE_COUNT_MAX:
        raise RemoteProtocolError(f"a lease has 1 to {SHARE_COUNT_MAX} GPUs, not {len(gpus)}")
    return Grant(
        id=fields.text(given, where, "id"),
        key=fields.text(given, where, "key"),
        state=fields.shown(given, where, "state"),
        gpus=tuple(_gpu(item) for item in gpus),
        granted_at=fields.optional_number(given, where, "granted_at") or 0.0,
        expires_at=fields.optional_number(given, where, "expires_at"),
    )


def _gpu(value: Field) -> GrantedGpu:
    given, where = fields.a_map(value, "a lease's GPU"), "a lease's GPU"
    return GrantedGpu(
        server=fields.shown(given, where, "server"),
        index=fields.integer(given, where, "index"),
        kind=fields.shown(given, where, "kind"),
        uuid=fields.shown(given, where, "uuid"),
        name=fields.shown(given, where, "name"),
        memory_size=fields.integer(given, where, "memory_size"),
        leased_size=fields.integer(given, where, "leased_size"),
    )
