"""What a worker gives up before it listens to its client: checked in a process of its own, and in a real worker."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bitfusion.client.client import connect
from bitfusion.worker.confinement import OUT_OF_MEMORY_SCORE

CHILD = """
import os, resource, sys
from pathlib import Path
from bitfusion.worker import confinement
confinement.HOST_SIZE_MAX = 64 << 20
confinement.HOST_SIZE_PER_CORE = 0
confinement.confine(sys.argv[1])
print(resource.getrlimit(resource.RLIMIT_CORE), Path("/proc/self/oom_score_adj").read_text().strip())
print(*(line.strip() for line in open("/proc/self/status") if line.startswith("NoNewPrivs")))
kept = bytearray(32 << 20)
try:
    bytearray(256 << 20)
    print("memory without end")
except MemoryError:
    print("refused")
"""


def confined(kind: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", CHILD, kind], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split("\n")


@pytest.mark.parametrize(
    ("kind", "privileges", "memory"), [("virtual", "1", "refused"), ("cuda", "0", "memory without end")]
)
def test_what_is_given_up(kind, privileges, memory):
    first, second, third, *_ = confined(kind)
    score = min(int(Path("/proc/self/oom_score_adj").read_text()) + OUT_OF_MEMORY_SCORE, 1000)
    core = 0 if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 else 1
    assert first == f"({core}, {core}) {score}"
    assert second.split() == ["NoNewPrivs:", privileges]
    assert third == memory


@pytest.mark.parametrize("kind", ["null", "virtual"])
def test_workers_are_confined_before_their_client_is_served(request, kind):
    appliance = request.getfixturevalue(f"{kind}_appliance")
    before = appliance.workers()
    with connect(appliance.address, memory="16MiB") as client:
        client.synchronize()
        (worker,) = appliance.workers() - before
        status, limits = Path(f"/proc/{worker}/status").read_text(), Path(f"/proc/{worker}/limits").read_text()
        score = int(Path(f"/proc/{worker}/oom_score_adj").read_text())
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE) and re.search(r"^Umask:\s+0077$", status, re.MULTILINE)
    assert re.search(r"^Max core file size\s+[01] ", limits, re.MULTILINE)
    assert not re.search(r"^Max data size\s+unlimited", limits, re.MULTILINE)
    assert score > int(Path(f"/proc/{appliance.pid}/oom_score_adj").read_text())
