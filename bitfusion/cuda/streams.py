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


def legacy_default_stream() -> Stream:
    """Stream 0, by its rule: it and all other streams wait for each other."""
    return current().legacy_default_stream


def per_thread_default_stream() -> Stream:
    """A stream of the calling thread's own."""
    return current().per_thread_default_stream


def external_stream(ptr: int) -> Stream:
    """A stream of this session by its number, ``int(stream)``. UnsupportedError for any other: those are on this machine."""
    return current().external_stream(ptr)


def event(timing: bool = True) -> Event:
    """A new event; without ``timing`` no times can be taken with it."""
    return current().event(timing)


def event_elapsed_time(evtstart: Event, evtend: Event) -> float:
    """Milliseconds on the device between two recorded events. InvalidHandleError."""
    return evtstart.elapsed_time(evtend)


def synchronize() -> None:
    """Wait for all work on the device. Raises what failed before, with the operation that failed."""
    current().synchronize()
