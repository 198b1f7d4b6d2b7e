"""An appliance for one measurement, with options of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def offered(devices: str, *options: str) -> Iterator[str]:
    """The address of a ``bitfusion serve`` that lives as long as the block."""
    reader, writer = os.pipe()
    with tempfile.TemporaryDirectory(prefix="bitfusion-pool-") as state:
        command = [
            sys.executable,
            "-m",
            "bitfusion",
            "serve",
            "--port",
            "0",
            "--devices",
            devices,
            "--state-dir",
            state,
        ]
        with subprocess.Popen([*command, *options, "--ready-fd", str(writer)], pass_fds=[writer]) as process:
            os.close(writer)
            try:
                with open(reader) as ready:
                    yield json.loads(ready.readline())["address"]
            finally:
                process.terminate()
