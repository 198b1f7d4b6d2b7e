"""Sessions with weights, all busy: what part of the work each gets done."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.sharing.place import offered
from bitfusion.client.client import Client, connect

WEIGHTS = (100, 200, 400)
SPIN = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry spin(.param .u64 out, .param .u32 count)
{
    .reg .pred %p<2>;
    .reg .b32 %r<4>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, 1;
Loop:
    mad.lo.u32 %r2, %r2, 1664525, 1013904223;
    sub.u32 %r1, %r1, 1;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra Loop;
    cvta.to.global.u64 %rd2, %rd1;
    st.global.u32 [%rd2], %r2;
    ret;
}
"""
"""One thread that computes for as long as it is told: the same work for all."""

COUNT = 2_000_000


def measure(seconds: float) -> dict[str, Any]:
    """Kernels that each session got done, its part of all in per cent, and the part that its weight gives it."""
    with offered("virtual:1x1GiB") as address, ExitStack() as stack:
        clients = [stack.enter_context(connect(address, memory="64MiB", weight=weight)) for weight in WEIGHTS]
        barrier, counts = threading.Barrier(len(clients) + 1), [0] * len(clients)
        until = [0.0]
        threads = [
            threading.Thread(target=_work, args=(client, index, barrier, until, counts))
            for index, client in enumerate(clients)
        ]
        for thread in threads:
            thread.start()
        until[0] = time.monotonic() + 3600
        barrier.wait()
        time.sleep(0.5)  # all are busy by then; what is counted begins here
        before = list(counts)
        until[0] = time.monotonic() + seconds
        for thread in threads:
            thread.join()
    done = [count - first for count, first in zip(counts, before, strict=True)]
    return {
        "weights": list(WEIGHTS),
        "seconds": seconds,
        "kernels": done,
        "part": [count / sum(done) for count in done],
        "wanted": [weight / sum(WEIGHTS) for weight in WEIGHTS],
    }


def _work(client: Client, index: int, barrier: threading.Barrier, until: list[float], counts: list[int]) -> None:
    out = client.to_device(np.zeros(1, np.uint32))
    function = client.load_module(SPIN).function("spin")
    arguments = out.address.to_bytes(8, "little") + COUNT.to_bytes(4, "little")
    function.launch(1, 1, arguments)
    client.synchronize()
    barrier.wait()
    while time.monotonic() < until[0]:
        function.launch(1, 1, arguments)
        client.synchronize()
        counts[index] += 1
