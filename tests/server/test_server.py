"""The server's accept loop: a connection that breaks while it waits delays nobody."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest

from bitfusion.pool.pool import Pool
from bitfusion.server import server
from bitfusion.server.leases import Leases
from bitfusion.server.ledgers import Ledgers
from bitfusion.server.listing import Identity
from bitfusion.server.server import Server
from bitfusion.server.workers import Workers
from bitfusion.types import KernelRules


class Listener(socket.socket):
    """A listening socket whose first connections fail as ``errors`` say."""

    errors: list[int]

    def accept(self) -> tuple[socket.socket, object]:
        if self.errors:
            number = self.errors.pop()
            raise OSError(number, os.strerror(number))
        return super().accept()


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EMFILE])
async def test_a_connection_that_breaks_while_it_waits_delays_nobody(monkeypatch, number):
    delays = []
    monkeypatch.setattr(server, "ACCEPT_RETRY_DELAY_S", 0.001 if number == errno.EMFILE else 3600)
    monkeypatch.setattr(server.log, "error", lambda *_: delays.append(number))
    with Listener() as listener:
        listener.errors = [number] * 3
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        serving = asyncio.create_task(
            Server(
                Leases(Pool([]), Ledgers([])), Identity("id", "host", "addr"), Workers([], None), None, KernelRules()
            ).serve(listener)
        )
        async with asyncio.timeout(30):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"no hello, but enough to be answered\n")
            assert (await reader.read(2)) == b"BF"
        writer.close()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
    assert len(delays) == (3 if number == errno.EMFILE else 0)
