"""Telling a session's client, before its welcome, where its request is in the queue; it waits for no peer."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from bitfusion.session.server import ServerSession
from bitfusion.session.waiting import Waiting

FLUSH_TIMEOUT_S = 10.0
"""A client that has taken nothing for as long as it waited has this to take the rest, or loses its lease."""


class Places:
    """One client's. What its socket does not take at once is sent later, and of what came meanwhile only the newest."""

    def __init__(self, session: ServerSession, connection: socket.socket) -> None:
        self._session = session
        self._socket = connection
        self._rest = b""
        """Of a frame that the socket took in part."""

    def tell(self, place: Waiting) -> None:
        """Send a place, if the socket takes it."""
        with contextlib.suppress(OSError):  # its end is noticed by who reads
            if self._rest:
                self._rest = self._rest[self._socket.send(self._rest) :]
            if not self._rest:
                data = b"".join(self._session.waiting(place))
                self._rest = data
                self._rest = data[self._socket.send(data) :]

    async def flush(self) -> None:
        """Send what is left of a frame that was begun: the worker's welcome must not come in the middle of it."""
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await asyncio.get_running_loop().sock_sendall(self._socket, self._rest)
        except TimeoutError:
            raise ConnectionResetError("the client takes nothing") from None
