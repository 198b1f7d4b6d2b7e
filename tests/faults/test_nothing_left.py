"""One count of everything: after a storm of good and bad sessions nothing is left of any of them."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import bitfusion
from bitfusion.errors import BitfusionError, CapacityError
from bitfusion.wire.frames import Kind, encode_header
from tests.appliance import Appliance
from tests.faults.test_hostile_peers import HELLO, frame, hello, raw

ROUND_COUNT = 2
THREAD_COUNT = 6
SESSIONS_EACH = 8

GROWTH_MAX = 1 << 20
"""Bytes that the daemon or the zygote may have grown from one storm to the next: the log's buffers and Python's own caches."""


def used(client: bitfusion.Client) -> None:
    """Memory of every kind, a stream, an event, a copy each way."""
    array = client.to_device(np.arange(300_000))
    array[::3000] = 1
    client.stream(), client.event()
    assert array.copy_to_host()[3000] == 1


def ends_well(appliance: Appliance) -> None:
    with bitfusion.connect(appliance.address, memory="16MiB") as client:
        used(client)


def is_dropped(appliance: Appliance) -> None:
    used(bitfusion.connect(appliance.address, memory="16MiB"))


def loses_its_worker(appliance: Appliance) -> None:
    with bitfusion.connect(appliance.address, memory="16MiB") as client:
        used(client)
        pid = int(appliance.wait_log(rf" (\d+) \S+ session {client.session_id} opened").group(1))
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(BitfusionError, match="connect again"):
            client.synchronize()


def is_reset(appliance: Appliance) -> None:
    client = bitfusion.connect(appliance.address, memory="16MiB")
    used(client)
    client._transport._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client._transport._sock.close()


def speaks_nonsense(appliance: Appliance) -> None:
    with bitfusion.connect(appliance.address, memory="16MiB") as client:
        used(client)
        client._transport._sock.sendall(b"garbage" * 20)


def is_cut_in_the_middle_of_a_copy(appliance: Appliance) -> None:
    client = bitfusion.connect(appliance.address, memory="16MiB")
    array = client.device_array(8 << 20, "u1")
    client.synchronize()
    client._transport._sock.sendall(frame(Kind.POST, [array.address], opcode=4, payload_size=4 << 20) + bytes(1 << 20))
    client._transport._sock.close()


def asks_for_too_much(appliance: Appliance) -> None:
    with pytest.raises(CapacityError):
        bitfusion.connect(appliance.address, memory="1TiB")


def is_no_client(appliance: Appliance) -> None:
    for data in (b"", b"GET / HTTP/1.1\r\n\r\n", HELLO, hello()[:20], hello(version=9), encode_header(Kind.GOODBYE)):
        with raw(appliance) as sock:
            sock.sendall(data)


def is_gone_before_the_welcome(appliance: Appliance) -> None:
    with raw(appliance) as sock:
        sock.sendall(hello())


WAYS: list[Callable[[Appliance], None]] = [
    ends_well,
    is_dropped,
    loses_its_worker,
    is_reset,
    speaks_nonsense,
    is_cut_in_the_middle_of_a_copy,
    asks_for_too_much,
    is_no_client,
    is_gone_before_the_welcome,
]


def storm(appliance: Appliance, seed: int) -> None:
    """Sessions of every kind, several at a time."""
    failures: list[BaseException] = []

    def work(ways: list[Callable[[Appliance], None]]) -> None:
        try:
            for way in ways:
                with contextlib.suppress(OSError):  # a socket of ours that the appliance has reset
                    way(appliance)
        except BaseException as failure:
            failures.append(failure)

    chosen = random.Random(seed)
    plans = [chosen.sample(WAYS, SESSIONS_EACH) for _ in range(THREAD_COUNT - 1)] + [WAYS]
    threads = [threading.Thread(target=work, args=(plan,)) for plan in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def settle(appliance: Appliance) -> None:
    """Wait until every lease that was granted has been released, and the whole GPU has been leased once more."""
    deadline, client = time.monotonic() + 30, None
    while client is None and time.monotonic() < deadline:
        before = len(appliance.lines)
        try:
            client = bitfusion.connect(appliance.address, fraction=1.0, wait=0)
        except CapacityError:
            appliance.wait_log(": released", after=before)
    assert client is not None
    used(client)
    client.close()


def targets(pid: int) -> list[str]:
    """What each descriptor of a process is, without the numbers of sockets and pipes."""
    directory, found = Path(f"/proc/{pid}/fd"), []
    for entry in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(entry))
    return found


def listening(pids: set[int]) -> int:
    """Ports that these processes listen on."""
    sockets = {match[1] for pid in pids for name in targets(pid) if (match := re.fullmatch(r"socket:\[(\d+)\]", name))}
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return sum(row[3] == "0A" and row[9] in sockets for row in rows)


def resident(pid: int) -> int:
    """Bytes of a process's memory that are not of a file; those come and go with other processes that map it."""
    match = re.search(r"Anonymous: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text())
    assert match
    return int(match[1]) << 10


def footprint(appliance: Appliance, directory: Path) -> dict[str, object]:
    """Everything an appliance without sessions has."""
    pids = {appliance.pid, *appliance.children()}
    kinds = {pid: Counter(name.partition(":")[0] for name in targets(pid)) for pid in pids}
    return {
        "processes": pids,
        "descriptors": kinds,
        "ports": listening(pids),
        "memory files": [name for pid in pids for name in targets(pid) if "memfd" in name or "/dev/shm" in name],
        "shared memory": sorted(path.name for path in Path("/dev/shm").iterdir() if "bitfusion" in path.name),
        "temporary files": sorted((directory / "tmp").rglob("*")),
        "state": sorted(path for path in (directory / "state").rglob("*") if path.is_dir()),
        "threads": {pid: len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids},
    }


def test_nothing_is_left_behind(tmp_path):
    (tmp_path / "tmp").mkdir()
    environment = {"TMPDIR": str(tmp_path / "tmp")}
    with Appliance("virtual:1x1GiB", tmp_path / "state", environment=environment) as appliance:
        settle(appliance)
        before = footprint(appliance, tmp_path)
        sizes = []
        for seed in range(ROUND_COUNT):
            storm(appliance, seed)
            settle(appliance)
            assert footprint(appliance, tmp_path) == before
            sizes.append({pid: resident(pid) for pid in before["processes"]})
        for pid, size in sizes[-1].items():
            assert size - sizes[-2][pid] < GROWTH_MAX
        pids = before["processes"]
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not list((tmp_path / "tmp").iterdir())
