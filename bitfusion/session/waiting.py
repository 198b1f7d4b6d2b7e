"""The message of a WAITING frame: where a request stands in the queue (docs/reference/wire.md section 4.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from bitfusion import limits
from bitfusion.errors import RemoteProtocolError
from bitfusion.session import fields
from bitfusion.wire import codec
from bitfusion.wire.operations import Field


@dataclass(frozen=True, slots=True)
class Waiting:
    """``position`` is 1 for the first in the queue, and 0 once the lease is granted and its worker starts. ``count``: how many wait.

    ``reasons`` gives for each GPU its name and why the request does not fit there now.
    """

    position: int
    count: int
    reason: str = ""
    reasons: tuple[tuple[str, str], ...] = ()


OnWait: TypeAlias = Callable[[Waiting], object]
"""What a client gives to be told of each place of its request in the queue."""


def encode_waiting(waiting: Waiting) -> bytes:
    """The metadata, with as many of the reasons as fit."""
    size_max = limits.WAITING_TEXT_SIZE_MAX
    reasons = [[name[:size_max], why[:size_max]] for name, why in waiting.reasons[: limits.WAITING_REASON_COUNT_MAX]]
    while True:
        plain = {"position": waiting.position, "count": waiting.count, "reason": waiting.reason[:size_max]}
        data = codec.pack({**plain, "reasons": reasons})
        if len(data) <= limits.HELLO_SIZE_MAX or not reasons:
            return data
        del reasons[len(reasons) // 2 :]


def decode_waiting(value: Field) -> Waiting:
    """Check what a server sent; RemoteProtocolError names the field."""
    given, where = fields.a_map(value, "waiting"), "waiting"
    match given.get("reasons"):
        case tuple(items) if len(items) <= limits.WAITING_REASON_COUNT_MAX:
            reasons = tuple(_reason(item) for item in items)
        case _:
            raise RemoteProtocolError("waiting: reasons must be an array of [name, reason]")
    return Waiting(
        position=fields.integer(given, where, "position"),
        count=fields.integer(given, where, "count"),
        reason=fields.shown(given, where, "reason"),
        reasons=reasons,
    )


def _reason(item: Field) -> tuple[str, str]:
    match item:
        case (str(name), str(why)):
            return fields.printable(name), fields.printable(why)
        case _:
            raise RemoteProtocolError("waiting: reasons must be an array of [name, reason]")
