"""Leases, the queue and control connections of a real appliance: who is served when, and how a lease ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

import bitfusion
from bitfusion import limits
from bitfusion.client.control import Control, open_control
from bitfusion.errors import (
    BitfusionError,
    CapacityError,
    ConfigError,
    LeaseEndedError,
    LeaseError,
    QuotaError,
    RemoteProtocolError,
    WorkerDiedError,
)
from bitfusion.session.hello import Hello, Purpose, encode_hello
from bitfusion.wire import codec
from bitfusion.wire.connection import Connection
from bitfusion.wire.frames import Frame, Kind, encode_header
from bitfusion.wire.operations import Opcode
from bitfusion.wire.states import Role
from tests.appliance import Appliance
from tests.client.faces import done
from tests.processes import ends

TIMEOUT_S = 60


@pytest.fixture(scope="module")
def appliance(tmp_path_factory):
    with Appliance("virtual:2x256MiB", tmp_path_factory.mktemp("leases")) as appliance:
        yield appliance


@pytest.fixture
def control(appliance):
    with open_control(appliance.address, deadline=TIMEOUT_S) as control:
        yield control
        assert control.closed or control.dealloc(everything=True) is not None
    with open_control(appliance.address) as after:
        found = after.health()
        assert (found["leases"], found["sessions"], found["waiting"]) == (0, 0, 0)


class Places:
    """What a waiter is told; ``first`` is set with the first place."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.first = threading.Event()

    def __call__(self, place: object) -> None:
        self.seen.append(place)
        self.first.set()


@contextlib.contextmanager
def waiting(appliance, **options: object):
    """A thread that waits for a session; its places and, after the block, what came of it."""
    places, came = Places(), []

    def connect() -> None:
        try:
            with bitfusion.connect(appliance.address, on_wait=places, **options) as client:
                came.append(client.echo(b"x"))
        except BitfusionError as error:
            came.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        assert places.first.wait(TIMEOUT_S)
        yield places, came
    finally:
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


# leases


def test_two_gpus_in_one_lease(appliance, control):
    lease = control.request(gpus=2, memory="64MiB")
    assert [gpu.index for gpu in lease.gpus] == [0, 1] and {gpu.leased_size for gpu in lease.gpus} == {64 * limits.MIB}
    clients = [bitfusion.connect(appliance.address, lease=lease.id, key=lease.key, gpu=gpu) for gpu in (0, 1)]
    assert [client.device.uuid for client in clients] == [gpu.uuid for gpu in lease.gpus]
    again = bitfusion.connect(appliance.address, lease=f"{lease.id}:{lease.key}")
    held = again.device_array(48 << 20, "u1")
    again.synchronize()
    with pytest.raises(BitfusionError, match="memory"):
        clients[0].device_array(32 << 20, "u1")
        clients[0].synchronize()
    assert len(held) and clients[1].memory_info().free == 64 * limits.MIB
    rows = [gpu["leases"][0]["sessions"] for gpu in control.list()["gpus"]]
    assert [len(row) for row in rows] == [2, 1] and sum(item["memory_used"] for item in rows[0]) == 48 * limits.MIB
    with pytest.raises(ConfigError, match="2 GPUs, numbered from 0"):
        bitfusion.connect(appliance.address, lease=lease.id, key=lease.key, gpu=2)
    for client in (*clients, again):
        client.close()
    assert control.show(lease.id, lease.key).state == "granted"
    control.release(lease.id, lease.key)
    with pytest.raises(LeaseError):
        control.show(lease.id, lease.key)


def test_a_wrong_key_and_a_wrong_lease_fail_alike(appliance, control):
    lease = control.request(memory="64MiB")
    other = "0" * len(lease.id)
    messages = set()
    for id_, key in (
        (lease.id, "wrong"),
        (lease.id, lease.key[:-1]),
        (lease.id, ""),
        (other, lease.key),
        (lease.id, "ä"),
    ):
        for use in (
            lambda id_=id_, key=key: control.show(id_, key),
            lambda id_=id_, key=key: control.release(id_, key),
            lambda id_=id_, key=key: bitfusion.connect(appliance.address, lease=id_, key=key),
        ):
            with pytest.raises(LeaseError) as caught:
                use()
            messages.add(caught.value.message.replace(id_, "ID"))
    assert len(messages) == 1
    assert lease.key not in repr(control.list()) + repr(lease) and control.show(lease.id, lease.key) == lease


def test_a_held_lease_ends_with_its_connection_and_others_do_not(appliance, control):
    with open_control(appliance.address) as other:
        kept, held = other.request(memory="64MiB"), other.request(memory="64MiB", held=True)
    with pytest.raises(LeaseError):
        control.show(held.id, held.key)
    assert control.show(kept.id, kept.key).id == kept.id


HOLDER = """
import sys
from bitfusion.client.control import open_control
import bitfusion
control = open_control(sys.argv[1])
lease = control.request(gpus=2, held=True)
client = bitfusion.connect(sys.argv[1], lease=lease.id, key=lease.key)
client.synchronize()
print("holding", flush=True)
sys.stdin.read()
"""


def test_a_killed_holder_frees_its_lease(appliance, control):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, appliance.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "holding\n"
        (worker,) = appliance.workers()
        with waiting(appliance) as (_, came):
            assert not came
            process.kill()
        assert came == [b"x"] and ends(worker)


def test_a_killed_worker_ends_its_session_and_not_the_lease(appliance, control):
    lease = control.request(memory="64MiB")
    first, second = (bitfusion.connect(appliance.address, lease=lease.id, key=lease.key) for _ in range(2))
    before = appliance.workers()
    third = bitfusion.connect(appliance.address, lease=lease.id, key=lease.key)
    kept = third.device_array(32 << 20, "u1")
    third.synchronize()
    (worker,) = appliance.workers() - before
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        third.synchronize()
    assert len(kept) and first.device_array(48 << 20, "u1").size and first.synchronize() is None, (
        "its memory is the lease's again"
    )
    assert second.echo(b"x") == b"x" and control.show(lease.id, lease.key).id == lease.id
    first.close()
    second.close()


def test_the_daemon_says_how_it_is(appliance, control):
    health = control.health()
    assert {check["name"]: check["ok"] for check in health["checks"]} == dict.fromkeys(
        ["workers", "descriptors", "state"], True
    )
    assert health["pid"] == appliance.pid and health["gpus"] == 2 and health["server"]["address"] == appliance.address


def test_dealloc_ends_a_running_program_with_its_reason(appliance, control):
    with bitfusion.connect(appliance.address, memory="64MiB") as client:
        (lease,) = (lease["id"] for gpu in control.list()["gpus"] for lease in gpu["leases"])
        assert control.dealloc(user="nobody-of-that-name") == [] and client.echo(b"x") == b"x"
        assert control.dealloc(lease=lease) == [lease]
        with pytest.raises(LeaseEndedError, match=r"taken back \(dealloc\).*connect again"):
            client.synchronize()
    with pytest.raises(ConfigError, match="which leases"):
        control.dealloc()
    entry = control.history(count=1)[0]
    assert (entry["id"], entry["reason"]) == (lease, "it was taken back (dealloc)") and entry["gpu_seconds"] > 0


def test_a_lease_ends_when_its_time_is_over(appliance, control):
    before = len(appliance.lines)
    lease = control.request(memory="64MiB", lifetime=0.5)
    assert lease.expires_at == pytest.approx(lease.granted_at + 0.5)
    with bitfusion.connect(appliance.address, lease=lease.id, key=lease.key) as client:
        appliance.wait_log(f"lease {lease.id}: released", after=before)
        with pytest.raises(LeaseEndedError, match="its time was over"):
            client.synchronize()


# the queue


def test_fifty_waiters_are_served_in_order(appliance, control):
    lease = control.request(gpus=2)

    async def wait(number: int, order: list[int], told: asyncio.Queue[int]) -> None:
        async with bitfusion.aio.connect(
            appliance.address, fraction=1.0, filters="device.index=0", on_wait=lambda _: told.put_nowait(number)
        ) as client:
            order.append(number)
            await client.synchronize()

    async def all_wait() -> list[int]:
        order, told = [], asyncio.Queue()
        async with asyncio.timeout(TIMEOUT_S * 2), asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(wait(number, order, told))
                while await told.get() != number:
                    pass
            queue = await asyncio.to_thread(control.list)
            assert [item["position"] for item in queue["queue"]] == list(range(1, 51))
            await asyncio.to_thread(control.release, lease.id, lease.key)
        return order

    assert asyncio.run(all_wait()) == list(range(50))


async def test_a_cancelled_waiter_is_gone_at_once(appliance, control):
    control.request(gpus=2)
    async with await bitfusion.aio.open_control(appliance.address) as other:
        told = asyncio.Event()
        for held in (False, True):
            asking = asyncio.create_task(other.request(held=held, on_wait=lambda _: told.set()))
            session = asyncio.ensure_future(bitfusion.aio.connect(appliance.address))
            await asyncio.wait_for(told.wait(), TIMEOUT_S)
            told.clear()
            for task in (asking, session):
                task.cancel()
            await asyncio.wait([asking, session])
            assert asking.cancelled() and session.cancelled()
        async with asyncio.timeout(TIMEOUT_S):
            while (await other.health())["waiting"]:
                pass
        assert await other.echo(b"x") == b"x"
        assert (await other.health())["leases"] == 1


def test_who_waits_is_told_where_and_why(appliance, control):
    lease = control.request(gpus=2)
    with waiting(appliance, memory="64MiB") as (places, came):
        first = places.seen[0]
        assert (
            (first.position, first.count) == (1, 1)
            and "an exclusive lease is on it" in first.reason
            and len(first.reasons) == 2
        )
        with waiting(appliance, memory="64MiB", priority=5) as (urgent, _):
            assert urgent.seen[0].position == 1
            control.release(lease.id, lease.key)
    assert came == [b"x"] and places.seen[-1].position == 0


def test_who_waits_no_longer_is_refused_with_the_reason(appliance, control):
    control.request(gpus=2)
    for wait, words in ((0, "no GPU has room"), (0.2, r"no room came within 0.2 s: number 1 of 1")):
        with pytest.raises(CapacityError, match=words):
            bitfusion.connect(appliance.address, wait=wait)
        with pytest.raises(CapacityError, match=words):
            control.request(wait=wait)
    with pytest.raises(CapacityError, match="no GPU has room"):  # for ever
        control.request(memory="1GiB")
    assert control.list()["queue"] == ()


def test_quotas_are_set_and_hold(appliance, control):
    control.set_quota({"subject": "user:*", "gpus": 0.5})
    assert [(quota["subject"], quota["gpus"]) for quota in control.quotas()] == [("user:*", 0.5)]
    with pytest.raises(QuotaError, match=r"allows 0\.5 GPUs at once"):
        control.request()
    control.set_quota({"subject": "user:*"})
    assert control.quotas() == []
    for quota in ({"subject": "x"}, {"subject": "user:a", "gpus": -1}, {}):
        with pytest.raises(ConfigError):
            control.set_quota(quota)


# hostile peers


class Raw:
    """A control connection, byte by byte."""

    def __init__(self, appliance, purpose: str = Purpose.CONTROL, **asked: object) -> None:
        self.sock = socket.create_connection(("127.0.0.1", appliance.port), timeout=TIMEOUT_S)
        self.connection = Connection(Role.CLIENT)
        hello = codec.pack(encode_hello(Hello(purpose=purpose)) | asked)
        self.sock.sendall(b"".join(self.connection.send(Kind.HELLO, hello)))

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def frame(self) -> Frame | None:
        """The next that comes; None at the end."""
        while (event := self.connection.next_event()) is None:
            count = self.sock.recv_into(self.connection.get_buffer())
            if not count:
                return None
            self.connection.buffer_updated(count)
        assert isinstance(event, Frame)
        return event

    def call(self, opcode: int, *fields: object, request: int = 1) -> bytes:
        metadata = codec.pack(fields)
        return encode_header(Kind.CALL, opcode=opcode, request=request, metadata_size=len(metadata)) + metadata


def test_ten_thousand_calls_at_once_are_answered_in_order(appliance, control):
    with Raw(appliance) as raw:
        assert raw.frame().kind is Kind.WELCOME
        data = b"".join(raw.call(Opcode.ECHO, b"x" * 100, request=number) for number in range(1, 10_001))
        sending = threading.Thread(target=raw.sock.sendall, args=(data,))
        sending.start()
        assert control.echo(b"others are served") == b"others are served"
        assert [raw.frame().request for _ in range(10_000)] == list(range(1, 10_001))
        sending.join()


def test_a_client_that_never_reads_holds_up_nobody(appliance, control):
    with Raw(appliance) as raw:
        assert raw.frame().kind is Kind.WELCOME
        raw.sock.settimeout(0.5)
        call = raw.call(Opcode.POOL_LIST)
        with pytest.raises(TimeoutError):
            while True:
                raw.sock.sendall(call * 1000)
        assert control.echo(b"x") == b"x" and len(control.list()["gpus"]) == 2


@pytest.mark.parametrize(
    ("opcode", "fields", "words"),
    [
        (Opcode.LEASE_REQUEST, ({"filters": ["device.memory>=1"] * 1000},), "at most 32 strings"),
        (Opcode.LEASE_REQUEST, ({"filters": ["x" * 100_000]},), "at most 256 characters"),
        (Opcode.LEASE_REQUEST, ({"gpus": "x"},), "gpus must be an integer"),
        (Opcode.LEASE_REQUEST, ({"wait": float("nan")},), "wait must be a number"),
        (Opcode.LEASE_REQUEST, ({"held": 1},), "held must be true or false"),
        (Opcode.LEASE_REQUEST, (7,), "must be a map"),
        (Opcode.LEASE_SHOW, ("x" * 65, ""), "lease must be in"),
        (Opcode.POOL_DEALLOC, ({"user": 7},), "user must be a string"),
        (Opcode.HISTORY, ({"since": "x"},), "since must be a number"),
        (Opcode.MEMORY_INFO, (), "belongs on a session connection"),
        (0xFE, (), "0xfe is not known"),
    ],
)
def test_a_breach_ends_the_connection_with_its_reason(appliance, control, opcode, fields, words):
    with Raw(appliance) as raw:
        assert raw.frame().kind is Kind.WELCOME
        raw.sock.sendall(raw.call(opcode, *fields))
        failure = raw.frame()
        assert failure.kind is Kind.FAILURE and failure.request == 0 and words in failure.metadata[1]
        assert failure.metadata[0] == RemoteProtocolError.code and raw.frame() is None


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"gpus": 0}, ConfigError),
        ({"weight": 0}, ConfigError),
        ({"priority": 10**6}, ConfigError),
        ({"cap": 101}, ConfigError),
        ({"filters": "device.nmae=x"}, ConfigError),
        ({"memory": "1MiB", "fraction": 0.5}, ConfigError),
        ({"gpus": 3}, CapacityError),
    ],
)
def test_requests_that_mean_nothing_are_refused_and_the_connection_goes_on(control: Control, asked, error):
    with pytest.raises(error):
        control.request(**asked)
    assert control.echo(b"x") == b"x"


def test_too_many_requests_of_one_connection(appliance, control):
    control.request(gpus=2)
    with Raw(appliance) as raw:
        assert raw.frame().kind is Kind.WELCOME
        raw.sock.sendall(b"".join(raw.call(Opcode.LEASE_REQUEST, {}, request=number) for number in range(1, 70)))
        failed = set()
        while len(failed) < 69 - 64:
            frame = raw.frame()
            if frame.kind is Kind.FAILURE:
                assert "64 requests" in frame.metadata[1]
                failed.add(frame.request)
        assert failed == set(range(65, 70)) and control.health()["waiting"] == 64
    for _ in range(1000):
        if not control.health()["waiting"]:
            break
    else:
        pytest.fail("the requests of a client that has gone still wait")


def test_names_without_measure_do_not_make_the_list_too_long(appliance, control):
    control.request(gpus=2)
    name = "\U0001f600" * 256
    asked = {"filters": ["device.name!=" + "\U0001f600" * 240] * 32}
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            raw = stack.enter_context(Raw(appliance, user=name, group=name, hostname=name, program=name))
            assert raw.frame().kind is Kind.WELCOME
            raw.sock.sendall(b"".join(raw.call(Opcode.LEASE_REQUEST, asked, request=number) for number in range(1, 65)))
            seen = set()
            while len(seen) < 64:
                seen.add(raw.frame().request)
        queue = control.list()["queue"]
        assert 100 < len(queue) <= 256 and all(len(item["asked"]) <= 200 for item in queue)


def test_data_while_it_waits_is_a_breach(appliance, control):
    control.request(gpus=2)
    with Raw(appliance, Purpose.SESSION) as raw:
        assert raw.frame().kind is Kind.WAITING
        raw.sock.sendall(b"B")
        frames = iter(raw.frame, None)
        failure = next(frame for frame in frames if frame.kind is Kind.FAILURE)
        assert "nothing may follow" in failure.metadata[1]
    assert control.health()["waiting"] == 0


async def test_both_faces_ask_alike(appliance, control):
    async with await bitfusion.aio.open_control(appliance.address) as other:
        lease = await other.request(memory="64MiB", held=True)
        assert await done(other.show(lease.id, lease.key)) == lease
        assert control.list()["gpus"][lease.gpus[0].index]["leases"][0]["id"] == lease.id
