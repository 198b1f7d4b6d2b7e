"""Streams, events and waiting."""

from __future__ import annotations

from bitfusion.client.client import Event, Stream
from bitfusion.cuda.current import current


def stream() -> Stream:
    """A new stream."""
    return current().stream()


def default_stream() -> Stream:
    """Stream 0, where work goes that names no other."""
    return current().default_stream


def event(timing: bool = True) -> Event:
    """A new event; without ``timing`` no times can be taken with it."""
    return current().event(timing)


def event_elapsed_time(evtstart: Event, evtend: Event) -> float:
    """Milliseconds on the device between two recorded events. InvalidHandleError."""
    return evtstart.elapsed_time(evtend)


def synchronize() -> None:
    """Wait for all work on the device. Raises what failed before, with the operation that failed."""
    current().synchronize()
