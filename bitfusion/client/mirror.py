"""Host memory with a mirror on the device: what mapped and managed memory are where the device is on another machine.

The content goes to the device with a launch that takes it, and comes back when the host next waits for the device. In between the device's
is the one that counts, and what the host writes is lost: memory that both sides see at once ends at the machine's own bus.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bitfusion.client.host import HostArray
from bitfusion.client.layout import Layout

if TYPE_CHECKING:
    from bitfusion.client.array import DeviceArray
    from bitfusion.client.client import Stream


class Mirror:
    """A host array, and the device array that is its mirror; of one shape, dtype and strides."""

    __slots__ = ("__weakref__", "_stream", "device", "host")

    def __init__(self, host: HostArray, device: DeviceArray) -> None:
        self.host = host
        self.device = device
        self._stream: Stream | int = 0

    @property
    def is_away(self) -> bool:
        """Whether the content is the device's now."""
        return self in self.device.client.mirrors

    def send(self, stream: Any) -> None:
        """Give the content to the device, before work in ``stream`` that uses it; nothing if it is there already.

        Whoever posts that work does so in the same turn: a wait by another thread in between would take the content back too early.
        """
        client = self.device.client
        with client.turn:
            if not self.is_away:
                self.device.copy_to_device(self.host, stream)
                client.mirrors.add(self)
                self._stream = stream
            elif client.stream_number(stream) != client.stream_number(self._stream):
                self._stream = 0  # which waits for all others: only then all of the work is done

    def fetch(self) -> None:
        """Bring the content back, after the work that used it last."""
        client = self.device.client
        with client.turn:
            if self.is_away:
                client.run(self.device._download(self._stream, self.host))
                client.mirrors.discard(self)  # not before: after a failure or an interrupt the next wait brings it

    def covers(self, view: HostArray) -> bool:
        """Whether this is a view of the host array."""
        (low, high), (start, end) = _place(self.host).extent, _place(view).extent
        return low <= start <= end <= high

    def part(self, view: HostArray, stream: Any = 0) -> DeviceArray:
        """The mirror of a view of the host array."""
        offset = self.device.layout.offset + _place(view).offset - _place(self.host).offset
        return self.device.laid_out(Layout(offset, view.shape, view.strides, view.itemsize), view.dtype, stream)


def _place(array: HostArray) -> Layout:
    """Where an array lies in this process."""
    return Layout(array.__array_interface__["data"][0], array.shape, array.strides, array.itemsize)
