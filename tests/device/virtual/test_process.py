"""The zygote's way: the run-time is loaded once, without a thread, and forks of the process use it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.device.virtual.gpu import compile_kernel, numba_type
from tests.device.virtual.test_shared import reverse

WARM_AND_FORK = """
    import os, sys, threading, time
    from pathlib import Path
    from bitfusion.device.open import open_device, warm
    from bitfusion.types import DeviceSpec

    cache, ptx = Path(sys.argv[1]), Path(sys.argv[2]).read_bytes()
    tasks = lambda: len(os.listdir("/proc/self/task"))
    warm("virtual", cache)
    assert "numba" not in sys.modules
    assert tasks() == 1 and threading.active_count() == 1, "warm left a thread"

    def work():
        started = time.perf_counter()
        device = open_device(DeviceSpec("virtual", 0, "Virtual GPU", "GPU-virtual-0000", 1 << 24), cache_dir=cache)
        base = device.reserve(1 << 24)
        assert tasks() == 1, "an idle device has a thread"
        device.map(base, 1 << 21)
        device.allocate(base, 512)
        stream = device.default_stream
        device.write(stream, base, bytes(range(128)) * 4)
        entry = ptx.decode().split(".entry ")[1].split("(")[0]
        function = device.load(ptx).function(entry)
        array = lambda address: b"".join(v.to_bytes(8, "little") for v in (0, 0, 64, 4, address, 64, 4))
        for _ in range(3):
            device.launch(stream, function, (2, 1, 1), (32, 1, 1), 128, array(base) + array(base + 256))
        result = b"".join(bytes(piece) for piece in device.read(stream, base, 512))
        words = [result[i : i + 4] for i in range(0, 512, 4)]
        assert words[64:] == words[31::-1] + words[63:31:-1]
        assert tasks() == len(os.sched_getaffinity(0)), "one thread for every core"
        device.close()
        assert tasks() == 1, "close left a thread"

    for child in range(2):
        pid = os.fork()
        if pid == 0:
            try:
                work()
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert tasks() == 1
"""


@pytest.mark.parametrize("start", ["cold", "warm"])
def test_warm_leaves_no_thread_and_forks_work(tmp_path_factory, start):
    directory = tmp_path_factory.getbasetemp() / "process-cache"
    array = np.zeros(64, np.float32)
    ptx = tmp_path_factory.mktemp("ptx") / "reverse.ptx"
    ptx.write_text(compile_kernel(reverse, (numba_type(array), numba_type(array))))
    script = [sys.executable, "-c", textwrap.dedent(WARM_AND_FORK), str(directory), str(ptx)]
    result = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert any(directory.iterdir())
