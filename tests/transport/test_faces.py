"""The two faces of a session against a real appliance: flow control, deadlines, interrupts, work that never sits unseen."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading

import pytest

from bitfusion import limits
from bitfusion.errors import DeadlineError, InvalidHandleError, SessionClosedError
from bitfusion.session.client import Wait
from bitfusion.session.hello import Hello
from bitfusion.transport import blocking, stream
from bitfusion.transport.address import parse_target
from bitfusion.wire.operations import Opcode
from tests.faults.test_ends import worker_of

SMALL = Hello(memory=64 * limits.MIB)


def ask(session, opcode, *fields, into=None):
    """An operation: one call."""
    asked = session.call(opcode, 0, *fields, into=into)
    yield asked
    return asked.result()


def post_many(session, count):
    """An operation: many posted operations, within the session's room."""
    for _ in range(count):
        while session.full:
            yield Wait.ROOM
        session.post(Opcode.ALLOCATE, 0, session.welcome.memory_base, 64)
        session.post(Opcode.RELEASE, 0, session.welcome.memory_base)


def write(session, data):
    """An operation: a large copy to the device."""
    base = session.welcome.memory_base
    for start in range(0, len(data), limits.CHUNK_SIZE):
        piece = memoryview(data)[start : start + limits.CHUNK_SIZE]
        session.post_payload(Opcode.WRITE_PAYLOAD, 0, base + start, payload=piece)
    yield Wait.SENT


@pytest.fixture
def transport(null_appliance):
    transport = blocking.open_session(parse_target(null_appliance.address), SMALL)
    yield transport
    transport.close()


def test_calls_and_posts(transport):
    session = transport.session
    assert transport.run(ask(session, Opcode.ECHO, b"hello")) == b"hello"
    transport.run(post_many(session, 30_000))  # past the credits
    transport.run(ask(session, Opcode.SYNCHRONIZE, 1))
    assert session.metrics.operations_posted == 60_000
    assert transport.run(ask(session, Opcode.MEMORY_INFO)) == (64 * limits.MIB, 64 * limits.MIB)


def test_copies_both_ways_at_once_do_not_deadlock(transport):
    """Many reads are asked for before any is waited for, with writes between them: both directions fill up."""
    session, size = transport.session, 16 * limits.MIB
    session.post(Opcode.ALLOCATE, 0, session.welcome.memory_base, size)
    source, target = bytearray(size), [bytearray(size) for _ in range(4)]
    calls = []
    for piece in target:
        calls.append(session.call(Opcode.READ, 0, session.welcome.memory_base, size, into=memoryview(piece)))
        transport.run(write(session, source))
    for call in calls:
        transport.wait(call)
        call.result()


def test_posted_work_leaves_when_the_program_goes_idle(transport):
    """Nothing is called: the flusher alone must bring the operation to the worker, which gives its credit back."""
    session = transport.session
    for _ in range(limits.CREDIT_COUNT // 4):
        session.post(Opcode.EVENT_CREATE, 0, 1, 1)
        session.post(Opcode.EVENT_DESTROY, 0, 1)
    seen = threading.Event()
    while not seen.wait(0.001) and session.queued:
        pass
    assert session.queued == 0
    assert session.metrics.calls == 0


def test_a_deadline_passes_and_the_session_goes_on(null_appliance, transport):
    worker = worker_of(null_appliance, transport)
    os.kill(worker, signal.SIGSTOP)
    with pytest.raises(DeadlineError):
        transport.run(ask(transport.session, Opcode.ECHO, b"x"), deadline_s=0.05)
    os.kill(worker, signal.SIGCONT)
    assert transport.run(ask(transport.session, Opcode.ECHO, b"y")) == b"y"


def test_a_closed_session_says_so(null_appliance):
    transport = blocking.open_session(parse_target(null_appliance.address), SMALL)
    transport.close()
    transport.close()
    with pytest.raises(SessionClosedError):
        transport.run(ask(transport.session, Opcode.ECHO, b"x"))


INTERRUPTED = """
import sys, threading, _thread
from bitfusion import limits
from bitfusion.errors import SessionError
from bitfusion.session.hello import Hello
from bitfusion.transport import blocking
from bitfusion.transport.address import parse_target
from tests.transport.test_faces import ask, write
from bitfusion.wire.operations import Opcode
transport = blocking.open_session(parse_target(sys.argv[1]), Hello(memory=256 * limits.MIB))
session = transport.session
size = 256 * limits.MIB
session.post(Opcode.ALLOCATE, 0, session.welcome.memory_base, size)
data = bytearray(size)
try:
    print("copying", flush=True)
    while True:
        if sys.argv[2] == "in":
            transport.run(write(session, data))
        else:
            transport.run(ask(session, Opcode.READ, session.welcome.memory_base, size, into=memoryview(data)))
except KeyboardInterrupt:
    print("interrupted", flush=True)
try:
    print("alive", transport.run(ask(session, Opcode.ECHO, b"x")), flush=True)
except SessionError as error:
    print("ended", error, flush=True)
transport.close()
"""


@pytest.mark.parametrize("direction", ["in", "out"])
def test_an_interrupt_in_the_middle_of_a_copy(null_appliance, direction):
    """Ctrl-C ends the copy; the session either goes on in step or says that it ended; the appliance frees it."""
    before = len(null_appliance.lines)
    command = [sys.executable, "-c", INTERRUPTED, null_appliance.address, direction]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout.readline() == "copying\n"
        client.send_signal(signal.SIGINT)
        rest = client.stdout.read()
    assert client.returncode == 0
    assert rest.startswith("interrupted\n")
    assert "alive b'x'" in rest or "connect again" in rest
    null_appliance.wait_log("released", after=before)


# asyncio


@pytest.fixture
async def async_transport(null_appliance):
    transport = await stream.open_session(parse_target(null_appliance.address), SMALL)
    yield transport
    await transport.close()


async def test_async_calls_and_posts(async_transport):
    session = async_transport.session
    assert await async_transport.run(ask(session, Opcode.ECHO, b"hello")) == b"hello"
    await async_transport.run(post_many(session, 30_000))
    await async_transport.run(ask(session, Opcode.SYNCHRONIZE, 1))
    assert session.metrics.operations_posted == 60_000


async def test_async_copies_both_ways_at_once_do_not_deadlock(async_transport):
    session, size = async_transport.session, 16 * limits.MIB
    session.post(Opcode.ALLOCATE, 0, session.welcome.memory_base, size)
    base = session.welcome.memory_base
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(
                async_transport.run(ask(session, Opcode.READ, base, size, into=memoryview(bytearray(size))))
            )
            group.create_task(async_transport.run(write(session, bytearray(size))))


async def test_async_posted_work_leaves_when_the_program_returns_to_the_loop(async_transport):
    session = async_transport.session
    session.post(Opcode.EVENT_CREATE, 0, 1, 1)
    assert session.queued == 1
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert session.queued == 0


async def test_async_deadlines_and_cancelled_calls_leave_the_session_in_step(async_transport):
    session = async_transport.session
    with pytest.raises(DeadlineError):
        await async_transport.run(ask(session, Opcode.SYNCHRONIZE, 1), deadline_s=0)
    task = asyncio.get_running_loop().create_task(async_transport.run(ask(session, Opcode.ECHO, b"dropped")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await async_transport.run(ask(session, Opcode.ECHO, b"kept")) == b"kept"


async def test_async_failures_of_posted_work(async_transport):
    async_transport.session.post(Opcode.EVENT_DESTROY, 0, 5)
    with pytest.raises(InvalidHandleError) as caught:
        await async_transport.run(ask(async_transport.session, Opcode.SYNCHRONIZE, 1))
    assert caught.value.operation.startswith("event_destroy")


async def test_async_closing_is_over_when_the_lease_is_free(null_appliance):
    for _ in range(5):
        transport = await stream.open_session(parse_target(null_appliance.address), Hello())
        await transport.close()
