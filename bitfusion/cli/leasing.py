"""Asking for a lease: of one server, or of the first of several that has room; and what a program is told to find it by."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from bitfusion.cli.lease_file import ASK, LeaseFileError, SavedLease
from bitfusion.cli.queueing import Queueing
from bitfusion.cli.voice import Voice
from bitfusion.cli.words import counted, mib_text
from bitfusion.client.control import Control, Grant, open_control
from bitfusion.errors import CapacityError, ConnectError, DeadlineError, LeaseError, QuotaError
from bitfusion.pool.filters import OPERATORS, parse_filter

Wanted = dict[str, object]
"""What is asked for, as ``Control.request`` takes it."""


def wanted(options: argparse.Namespace, gpus: int, memory: int | None, fraction: float | None) -> Wanted:
    """Of the options of ``add_request_options``; those that are not there have the pool's defaults."""
    found: Wanted = {
        "gpus": gpus,
        "memory": memory,
        "fraction": fraction,
        "exclusive": options.exclusive,
        "filters": conditions(options.filter),
        "priority": options.priority,
        "weight": options.weight,
        "cap": options.cap,
        "lifetime": options.lifetime,
        "wait": 0 if options.no_wait else options.timeout,
    }
    absent = [name for name in ("priority", "weight") if found[name] is None]
    return {name: value for name, value in found.items() if name not in absent}


def conditions(words: Sequence[str]) -> tuple[str, ...]:
    """The filters in the words of ``--filter``: each one word, or key, comparison and value as three. ConfigError."""
    found: list[str] = []
    goes_on = False
    for word in words:
        if found and (goes_on or word in OPERATORS):
            found[-1] += word
        else:
            found.append(word)
        goes_on = word in OPERATORS
    return tuple(str(parse_filter(item)) for item in found)


def lease_from(
    servers: Sequence[str], asked: Wanted, voice: Voice, *, held: bool, program: str | None = None
) -> tuple[str, Control, Grant]:
    """A lease of the first server that has room; where none has, of the first whose queue takes the request.

    The server, a connection to it (the caller's to close; a ``held`` lease ends with it) and the lease,
    which is listed as ``program``'s. Raises the ConnectError branch, DeadlineError where the time to wait was too short.
    """
    refusals: dict[str, ConnectError] = {}
    if len(servers) > 1:
        for server in servers:
            try:
                return _ask(server, {**asked, "wait": 0}, voice, held, program)
            except ConnectError as error:
                voice.detail(f"{server}: {error}")
                refusals[server] = error
    full = [server for server, error in refusals.items() if isinstance(error, CapacityError | QuotaError)]
    if refusals and (not full or asked["wait"] == 0):
        raise _refused_by_all(refusals)
    return _ask(full[0] if full else servers[0], asked, voice, held, program)


def _ask(server: str, asked: Wanted, voice: Voice, held: bool, program: str | None) -> tuple[str, Control, Grant]:
    voice.detail(f"requesting {asked_text(asked)} from {server}")
    control = open_control(server, program=program)
    started, wait = time.monotonic(), asked["wait"]
    try:
        with Queueing(voice.quiet) as queueing:
            lease = control.request(**asked, held=held, on_wait=queueing)  # type: ignore[arg-type]  # as `wanted` made them
    except CapacityError as error:
        control.close()
        if isinstance(wait, int | float) and 0 < wait <= time.monotonic() - started:
            raise DeadlineError(error.message) from None  # its own exit code: what was asked for could still be had
        raise
    except BaseException:
        control.close()
        raise
    voice.granted(lease, server)
    return server, control, lease


def asked_text(asked: Wanted) -> str:
    """``2 GPUs with 2048 MiB of memory each where device.name=*V100*``."""
    count, memory, fraction = asked["gpus"], asked["memory"], asked["fraction"]
    size = ""
    if isinstance(memory, int):
        size = f" with {mib_text(memory)} of memory"
    elif fraction is not None:
        size = f" with {fraction:g} of the memory"
    each = " each" if size and count != 1 else ""
    filters = asked["filters"]
    where = f" where {' and '.join(filters)}" if isinstance(filters, tuple) and filters else ""
    return f"{counted(int(str(count)), 'GPU')}{size}{each}{where}"


def _refused_by_all(refusals: dict[str, ConnectError]) -> ConnectError:
    """One error for all: the class of the first that was about room, else of the first."""
    first = next(
        (error for error in refusals.values() if isinstance(error, CapacityError)), next(iter(refusals.values()))
    )
    said = "; ".join(f"{server}: {error}" for server, error in refusals.items())
    return type(first)(f"none of {counted(len(refusals), 'server')} gave a lease: {said}")


def environment(server: str, lease_id: str, key: str) -> dict[str, str]:
    """What makes every session of a program one on this lease. '' takes away what would ask for another."""
    return {
        "BITFUSION_SERVER": server,
        "BITFUSION_LEASE": f"{lease_id}:{key}",
        "BITFUSION_GPU": "",
        "BITFUSION_GPUS": "",
        "BITFUSION_MEMORY": "",
        "BITFUSION_FRACTION": "",
    }


def still_there(path: Path, saved: SavedLease) -> Grant:
    """The lease of a file, as its server has it. LeaseFileError if it has ended; raises the ConnectError branch."""
    with open_control(saved.server) as control:
        try:
            return control.show(saved.id, saved.key)
        except LeaseError:
            raise LeaseFileError(
                f"the lease {saved.id} in {path} has ended: released, taken back, idle for too long, or its time was over. "
                f"`bitfusion release_gpus -f {path}` removes the file; {ASK}"
            ) from None
