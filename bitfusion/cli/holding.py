"""A lease that a program runs on: held as long as our connection, which is watched, and given back at the end."""

from __future__ import annotations

from bitfusion.cli.program import Watched
from bitfusion.cli.voice import Voice
from bitfusion.client.control import Control, Grant
from bitfusion.errors import BitfusionError, LeaseError


class Holding:
    """The block is the program's time. That the lease was taken back meanwhile is said as soon as it is known, and not in vain."""

    def __init__(self, server: str, control: Control, lease: Grant, voice: Voice) -> None:
        self._server = server
        self._control = control
        self._lease = lease
        self._voice = voice
        self._lost = False

    @property
    def watched(self) -> Watched:
        """The connection, for the time in which the program runs."""
        return Watched(self._control.fileno(), self._look)

    def __enter__(self) -> Holding:
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._look()
            if not self._lost:
                self._check()
        finally:
            self._control.close()
        if not self._lost:
            self._voice.released(self._lease, self._server)

    def _look(self) -> None:
        """What has come on the connection: nothing comes unasked but its end."""
        error = self._control.look()
        if error is not None and not self._lost:
            self._say_lost(error)

    def _check(self) -> None:
        """Whether the lease is still there when the program has ended."""
        try:
            self._control.show(self._lease.id, self._lease.key)
        except LeaseError:
            self._say_lost("taken back, idle for too long, or its time was over")
        except BitfusionError as error:
            self._say_lost(error)

    def _say_lost(self, why: object) -> None:
        self._lost = True
        self._voice.say(f"the lease {self._lease.id} on {self._server} ended before the program: {why}")
