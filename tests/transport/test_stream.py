"""The asyncio face against an end of its own: openings that are given up, closings with work left."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import pytest

from bitfusion.errors import DeadlineError, SessionClosedError
from bitfusion.session.hello import Hello
from bitfusion.transport import stream
from bitfusion.transport.address import Target
from bitfusion.wire.operations import Opcode
from tests.transport.test_blocking import End
from tests.transport.test_faces import ask


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        yield listener


def target(listener) -> Target:
    return Target(*listener.getsockname())


@contextlib.contextmanager
def background(what):
    thread = threading.Thread(target=what)
    thread.start()
    yield
    thread.join(20)
    assert not thread.is_alive()


async def test_an_opening_that_is_given_up_hangs_up(listener):
    opening = asyncio.ensure_future(stream.open_session(target(listener), Hello()))
    server, _ = await asyncio.get_running_loop().run_in_executor(None, listener.accept)
    with server:
        assert await asyncio.get_running_loop().run_in_executor(None, server.recv, 4096)  # the hello
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert await asyncio.get_running_loop().run_in_executor(None, server.recv, 4096) == b""


async def test_a_connection_that_comes_too_late_is_closed(listener, monkeypatch):
    """Given up while the thread still connects: what it brings is closed, which the server sees."""
    go, connect = threading.Event(), stream.address.connect

    def slow(*arguments):
        go.wait(20)
        return connect(*arguments)

    monkeypatch.setattr(stream.address, "connect", slow)
    opening = asyncio.ensure_future(stream.open_session(target(listener), Hello()))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    go.set()
    server, _ = await asyncio.get_running_loop().run_in_executor(None, listener.accept)
    with server:
        assert await asyncio.get_running_loop().run_in_executor(None, server.recv, 4096) == b""


async def test_closing_sends_what_was_posted_beyond_the_credits(listener):
    ends = []

    def serve():
        sock, _ = listener.accept()
        with sock:
            end = End(sock, credit_count=8)
            ends.append(end)
            end.serve(lambda end, event: False)

    with background(serve):
        transport = await stream.open_session(target(listener), Hello())
        for number in range(40):
            transport.session.post(Opcode.RELEASE, 0, number)
        await transport.close()
    assert ends[0].operations == 40
    with pytest.raises(SessionClosedError):
        transport.session.post(Opcode.RELEASE, 0, 1)


@pytest.mark.parametrize(("calls", "short", "long"), [(0, "ABANDON", "CLOSE"), (2, "CLOSE", "ABANDON")])
async def test_closing_waits_less_after_a_cancelled_wait_until_another_was_answered(
    listener, monkeypatch, calls, short, long
):
    monkeypatch.setattr(stream, f"{short}_TIMEOUT_S", 0.05)
    monkeypatch.setattr(stream, f"{long}_TIMEOUT_S", 20)
    given_up, over = threading.Event(), threading.Event()

    def serve():
        sock, _ = listener.accept()
        with sock:
            end = End(sock, credit_count=8)
            given_up.wait(20)
            for _ in range(calls):
                end.serve_call()
            over.wait(20)

    with background(serve):
        transport = await stream.open_session(target(listener), Hello())
        with pytest.raises(DeadlineError):
            await transport.run(ask(transport.session, Opcode.ECHO, b"given up"), deadline_s=0.01)
        given_up.set()
        if calls:
            assert await transport.run(ask(transport.session, Opcode.ECHO, b"after")) == b"after"
        started = time.monotonic()
        await transport.close()
        over.set()
        assert time.monotonic() - started < 10
