"""How a connection is opened: what the hello says of this process and asks for, the times, and what can go wrong before the welcome."""

from __future__ import annotations

import contextlib
import getpass
import numbers
import os
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from bitfusion import limits
from bitfusion.client.settings import Key, key_of, size, target_of, token_of
from bitfusion.errors import ConfigError, ConnectError, ConnectionLostError, DeadlineError, RemoteProtocolError
from bitfusion.session.asked import Asked
from bitfusion.session.fields import TEXT_SIZE_MAX
from bitfusion.session.hello import Hello, Purpose
from bitfusion.transport.address import Target

TIME_MAX_S = 1e6
"""Eleven days: a longer time is a slip, and infinity is more than the clocks of the system take."""

LIFETIME_MAX_S = 366 * 86400.0
"""A year, as pool/request.py has it, which is not imported here for one number: a lease outlives its client."""

CONNECT_TIMEOUT_S = 30.0
"""For the whole of opening a session: TCP, the hello, a place on a GPU and a worker. Time in the server's queue comes on top."""

FLUSH_DELAY_S = limits.FLUSH_DELAY_S


@dataclass(frozen=True, slots=True)
class Times:
    """What ``connect`` was given of times, in seconds."""

    deadline_s: float | None
    timeout_s: float
    flush_delay_s: float

    @classmethod
    def of(cls, deadline: object, timeout: object, flush_delay: object = FLUSH_DELAY_S) -> Times:
        """ConfigError for what is no time."""
        return cls(
            None if deadline is None else _seconds(deadline, "deadline"),
            _seconds(timeout, "timeout"),
            0.0 if flush_delay == 0 else _seconds(flush_delay, "flush_delay"),
        )


def asked(
    *,
    gpus: object = 1,
    memory: int | str | None = None,
    fraction: object = None,
    exclusive: bool = False,
    filters: Iterable[str] | str = (),
    priority: object = 0,
    weight: object = 100,
    cap: object = None,
    lifetime: object = None,
    wait: object = None,
) -> Asked:
    """What is asked for of the pool. ConfigError for what is no number; whether it can be granted is for the server to say."""
    return Asked(
        gpus=_whole(gpus, "gpus"),
        memory=None if memory is None else _whole(size(memory), "memory"),
        fraction=_share(fraction),
        exclusive=bool(exclusive),
        filters=_filters(filters),
        priority=_whole(priority, "priority"),
        weight=_whole(weight, "weight"),
        cap=None if cap is None else _whole(cap, "cap"),
        lifetime=None if lifetime is None else _seconds(lifetime, "lifetime", LIFETIME_MAX_S),
        wait=None if wait is None else 0.0 if wait == 0 else _seconds(wait, "wait"),
    )


def session(
    target: str | None, lease: str | None, key: str | None, gpu: object, token: str | None, **wanted: Any
) -> tuple[Target | None, Hello]:
    """Where a session is to be opened, None for the private appliance, and its hello: on a lease that is there, or on one it asks for.

    A private appliance lets nobody wait: what is in the way is this process's own.
    """
    place, number = target_of(target), None if gpu is None else _whole(gpu, "gpu")
    opened = key_of(lease, key, number, of_environment=not target)
    if opened is not None and place is None:
        raise ConfigError("a lease is on a server: name that too, as the target or in BITFUSION_SERVER")
    request = asked(**{**wanted, "wait": 0} if place is None else wanted)
    return place, _session_hello(request, opened, token_of(token))


def _session_hello(request: Asked, opened: Key | None, token: str | None) -> Hello:
    if opened is not None:
        return _hello(request, token, lease=opened.lease, key=opened.key, gpu=opened.gpu)
    if request.gpus > 1:
        raise ConfigError(
            f"a session is on one GPU, not on {request.gpus}: lease them (bitfusion.client.control, or bitfusion.cuda with BITFUSION_GPUS) "
            "and open a session for each, with lease= and gpu="
        )
    return _hello(request, token)


def control_hello(token: str | None, program: str | None = None) -> Hello:
    """The hello of a control connection, of this program or for another one."""
    greeting = _hello(Asked(), token, purpose=Purpose.CONTROL)
    return greeting if program is None else replace(greeting, program=program[:TEXT_SIZE_MAX])


def _hello(wanted: Asked, token: str | None, **more: object) -> Hello:
    """With this process's name as others will see it."""
    return Hello(
        **{name: getattr(wanted, name) for name in Asked.__dataclass_fields__},
        token=token,
        user=_user()[:TEXT_SIZE_MAX],
        group=_group()[:TEXT_SIZE_MAX],
        hostname=socket.gethostname()[:TEXT_SIZE_MAX],
        program=os.path.basename(sys.argv[0] if sys.argv else "")[:TEXT_SIZE_MAX],
        pid=os.getpid(),
        **more,  # type: ignore[arg-type]  # each of its field's type
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user need not have a name
        return ""


def _group() -> str:
    try:
        import grp

        return grp.getgrgid(os.getgid()).gr_name
    except (OSError, KeyError, ImportError):
        return ""


def _filters(filters: object) -> tuple[str, ...]:
    found = (filters,) if isinstance(filters, str) or not isinstance(filters, Iterable) else tuple(filters)
    if not all(isinstance(item, str) for item in found):
        raise ConfigError(f"filters are texts such as 'device.memory>=16GiB', not {found!r:.60}")
    if len(found) > limits.FILTER_COUNT_MAX or any(len(item) > limits.FILTER_SIZE_MAX for item in found):
        raise ConfigError(
            f"at most {limits.FILTER_COUNT_MAX} filters can be given, each of at most {limits.FILTER_SIZE_MAX} characters"
        )
    return found


def _seconds(value: object, noun: str, most: float = TIME_MAX_S) -> float:
    if not isinstance(value, numbers.Real) or not 0 < float(value) <= most:
        raise ConfigError(f"{noun} must be a number of seconds above 0 and at most {most:.0f}, not {value!r}")
    return float(value)


def _whole(value: object, noun: str) -> int:
    """An integer of any type as Python's own."""
    if isinstance(value, numbers.Integral) and -(2**63) <= int(value) < 2**63:
        return int(value)
    raise ConfigError(f"{noun} must be a whole number, not {value!r}")


def _share(fraction: object) -> float | None:
    if fraction is None:
        return None
    if not isinstance(fraction, numbers.Real) or not 0 < float(fraction) <= 1:
        raise ConfigError(f"fraction must be above 0 and at most 1 (1 is the whole GPU's memory), not {fraction!r}")
    return float(fraction)


@contextlib.contextmanager
def opening(place: Target) -> Iterator[None]:
    """What goes wrong before there is a session, as what it means to somebody who wants one: ConnectError, saying what to do."""
    try:
        yield
    except RemoteProtocolError as error:
        raise ConnectError(
            f"{place} did not answer as a bitfusion appliance does: {error.message}; "
            "check the host and the port, and that both sides have the same release of bitfusion"
        ) from error
    except ConnectionLostError as error:
        raise ConnectError(
            f"{place} closed the connection before it answered; check the host and the port, and whether the appliance is stopping"
        ) from error
    except DeadlineError as error:
        raise ConnectError(
            f"{place} took the connection but did not open a session in time; check the host and the port, or give it a longer timeout"
        ) from error
