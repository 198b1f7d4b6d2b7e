"""However a program ends, its lease comes back, it says nothing of its own, and nothing of it is left."""

from __future__ import annotations

import os
import signal

import pytest

from tests.scenarios.programs import output, running

BEGIN = """
import os, sys, threading
import numpy as np
import bitfusion
from bitfusion.errors import *
client = bitfusion.connect(sys.argv[1], memory="16MiB")
array = client.to_device(np.arange(1000))
view, stream, event = array[10:20], client.stream(), client.event()
"""

ENDS = {
    "falls off the end": "",
    "closes": "client.close()",
    "closes with work posted": "array.fill(1); client.close()",
    "sys.exit": "sys.exit(0)",
    "in a cycle": "cycle = [client, array]; cycle.append(cycle)",
    "dropped in a thread": "box = [client, array, view, stream, event]; del client, array, view, stream, event\\n"
    "thread = threading.Thread(target=box.clear); thread.start(); thread.join()",
    "a daemon thread sleeps": "threading.Thread(target=threading.Event().wait, daemon=True).start()",
    "used at exit": "import atexit; atexit.register(lambda: array.copy_to_host())",
    "used in a finaliser": "class Late:\\n    def __del__(self): view.free()\\nlate = Late()",
    "forks": "pid = os.fork()\\nif pid: os.waitpid(pid, 0)",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_program_that_ends_in_order_gives_its_lease_back_and_says_nothing(virtual_appliance, end):
    before = len(virtual_appliance.lines)
    assert output(BEGIN + ENDS[end].replace("\\n", "\n"), virtual_appliance.address) == (0, "", "")
    virtual_appliance.wait_log("released", after=before)


def test_an_exception_of_the_program_is_all_that_is_said(virtual_appliance):
    before = len(virtual_appliance.lines)
    code, said, complained = output(BEGIN + "raise RuntimeError('of the program')", virtual_appliance.address)
    assert (code, said) == (1, "")
    assert complained.endswith("RuntimeError: of the program\n") and complained.count("Traceback") == 1
    virtual_appliance.wait_log("released", after=before)


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_a_program_that_dies_gives_its_lease_back(virtual_appliance, end):
    before = len(virtual_appliance.lines)
    output(
        BEGIN + "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n" + end, virtual_appliance.address
    )
    virtual_appliance.wait_log("released", after=before)


BUSY_THREAD = """
entered = threading.Event()
def work():
    while True:
        entered.set()
        array.copy_to_host()
threading.Thread(target=work, daemon=True).start()
entered.wait()
"""


def test_a_program_that_ends_while_a_daemon_thread_copies(virtual_appliance):
    before = len(virtual_appliance.lines)
    with running(BEGIN + BUSY_THREAD, virtual_appliance.address) as process:
        assert process.wait(30) == 0
    virtual_appliance.wait_log("released", after=before)


STUCK_THREAD = """
entered = threading.Event()
worker = int(sys.stdin.readline())
os.kill(worker, 19)  # SIGSTOP: no answer will come
def work():
    entered.set()
    client.synchronize()
threading.Thread(target=work, daemon=True).start()
entered.wait()
while not client.core.session.waiting:
    pass
"""


def test_a_program_that_ends_while_a_daemon_thread_waits_for_an_answer_that_never_comes(virtual_appliance):
    before = len(virtual_appliance.lines)
    with running(BEGIN + STUCK_THREAD, virtual_appliance.address) as process:
        worker = virtual_appliance.wait_log(r" (\d+) \S+ session \w+ opened", after=before).group(1)
        process.stdin.write(f"{worker}\n")
        process.stdin.flush()
        try:
            assert process.wait(20) == 0
        finally:
            os.kill(int(worker), signal.SIGCONT)
    virtual_appliance.wait_log("released", after=before)


FORK = (
    BEGIN
    + """
import time
held, forked = threading.Event(), threading.Event()
def hold():  # another thread is inside an operation while the process forks
    with client._lock:
        held.set()
        forked.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
pid = os.fork()
if pid == 0:
    for use in (lambda: array.copy_to_host(), lambda: array.fill(0), lambda: client.device_array(4), client.synchronize):
        try:
            use()
        except SessionClosedError as error:
            assert "parent" in str(error)
        else:
            os._exit(1)
    del array, view, stream
    client.close()
    with bitfusion.connect(sys.argv[1], memory="2MiB") as own:
        assert own.to_device([1, 2]).copy_to_host().tolist() == [1, 2]
    os.write(1, b"child done\\n")
    sys.stdin.read()  # outlives the parent's session
    os._exit(0)
forked.set()
thread.join()
assert (array.copy_to_host() == np.arange(1000)).all()
client.close()  # over when the lease is free, though the child lives
os.write(1, b"parent done\\n")
os.waitpid(pid, 0)
"""
)


def test_a_forked_child_has_no_part_in_the_session_and_does_not_keep_it(virtual_appliance):
    with running(FORK, virtual_appliance.address) as process:
        assert {process.stdout.readline(), process.stdout.readline()} == {"child done\n", "parent done\n"}
        said, complained = process.communicate("", timeout=30)
        assert (process.returncode, said, complained) == (0, "", "")


FORK_AND_DIE = (
    BEGIN
    + """
pid = os.fork()
if pid == 0:
    print("ready", flush=True)
    sys.stdin.read()
    os._exit(0)
signal = os.waitpid(pid, 0)
"""
)


def test_a_killed_parent_gives_its_lease_back_though_its_child_lives(virtual_appliance):
    before = len(virtual_appliance.lines)
    with running(FORK_AND_DIE, virtual_appliance.address) as process:
        assert process.stdout.readline() == "ready\n"
        process.kill()
        process.wait()
        virtual_appliance.wait_log("released", after=before)


ASYNC_FORK = """
import asyncio, os, sys, uvloop
import bitfusion
async def main():
    client = await bitfusion.aio.connect(sys.argv[1], memory="2MiB")
    array = await client.to_device([1, 2, 3])
    pid = os.fork()
    if pid == 0:  # where asyncio's loop cannot go on
        assert client.closed
        os.write(1, b"forgotten\\n")
        sys.stdin.read()
        os._exit(0)
    os.write(1, b"%d\\n" % (await array.copy_to_host()).sum())
    await asyncio.Event().wait()
(uvloop if sys.argv[2] == "uvloop" else asyncio).run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_forked_child_of_an_asyncio_program(virtual_appliance, loop):
    before = len(virtual_appliance.lines)
    with running(ASYNC_FORK, virtual_appliance.address, loop) as process:
        assert {process.stdout.readline(), process.stdout.readline()} == {"forgotten\n", "6\n"}
        process.kill()
        process.wait()
        virtual_appliance.wait_log("released", after=before)  # though the child lives


INTERRUPTED = """
import os, signal, sys
import numpy as np
import bitfusion
from bitfusion.errors import SessionError
expected = np.arange(32 << 20, dtype="u1")
client = bitfusion.connect(sys.argv[1], memory="64MiB")
array = client.to_device(expected)
out = np.zeros_like(expected)
strided = np.zeros((32 << 20, 2), "u1")[:, 0]
DOING = {
    "in": lambda: array.copy_from_host(expected),
    "out": lambda: array.copy_to_host(out=out),
    "strided": lambda: array.copy_to_host(out=strided),
    "inside": lambda: array[: 16 << 20].copy_to_device(array[16 << 20 :]),
}[sys.argv[2]]
ends = 0
for turn in range(int(sys.argv[3])):
    try:
        try:
            print("copying", flush=True)
            while True:
                DOING()
        except KeyboardInterrupt:
            pass
        out[:] = 0xAA
        array.copy_from_host(expected)
        assert (array.copy_to_host() == expected).all(), "the session is out of step"
        assert (out == 0xAA).all(), "memory was written after the copy into it was interrupted"
    except SessionError as error:
        assert "connect again" in str(error)
        ends += 1
        client.close()
        client = bitfusion.connect(sys.argv[1], memory="64MiB")
        array = client.to_device(expected)
client.close()
print("ended", ends)
"""


@pytest.mark.parametrize("direction", ["in", "out", "strided", "inside"])
def test_an_interrupt_in_the_middle_of_a_copy(virtual_appliance, direction):
    """Ctrl-C, again and again: the session goes on in step, or says that it has ended and another one can be opened."""
    turns = 8
    with running(INTERRUPTED, virtual_appliance.address, direction, str(turns)) as process:
        for _ in range(turns):
            assert process.stdout.readline() == "copying\n"
            process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=60)
    assert (process.returncode, complained) == (0, "")
    assert said.startswith("ended ")


ASYNC_INTERRUPTED = """
import asyncio, sys
import numpy as np
import bitfusion
async def main():
    async with await bitfusion.aio.connect(sys.argv[1], memory="64MiB") as client:
        array = await client.to_device(np.zeros(32 << 20, "u1"))
        print("copying", flush=True)
        while True:
            await array.copy_to_host()
            await array.fill(1)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_of_an_asyncio_program_closes_its_session(virtual_appliance):
    before = len(virtual_appliance.lines)
    with running(ASYNC_INTERRUPTED, virtual_appliance.address) as process:
        assert process.stdout.readline() == "copying\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("interrupted\n", "")
    virtual_appliance.wait_log("released", after=before)
