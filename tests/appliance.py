"""A real appliance for tests: ``bitfusion serve`` as a process of its own on a free port of loopback."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 30


class Appliance:
    """Started when made, stopped by its pid. ``environment`` adds to this process's."""

    def __init__(
        self, devices: str, state_dir: Path, *options: str, environment: Mapping[str, str] | None = None
    ) -> None:
        reader, writer = os.pipe()
        self.lines: list[str] = []
        self._news = threading.Condition()
        state_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "bitfusion", "serve", "--port", "0", "--devices", devices]
        command += ["--state-dir", str(state_dir), "--ready-fd", str(writer), "--log-level", "INFO", *options]
        self.process = subprocess.Popen(
            command,
            pass_fds=[writer],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()
        os.close(writer)
        with open(reader) as ready:
            said = json.loads(
                ready.readline() or "{}"
            )  # an error, or the end of the pipe, should the appliance not start
        if "address" not in said:
            self._end()
            raise RuntimeError("the appliance did not start:\n" + "".join(self.lines))
        self.address: str = said["address"]
        self.pid: int = said["pid"]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()

    def wait_log(self, pattern: str, *, after: int = 0) -> re.Match[str]:
        """Wait until a line after the first ``after`` matches; the match. Fails the test after a while."""

        def found() -> re.Match[str] | None:
            return next((match for line in self.lines[after:] if (match := re.search(pattern, line))), None)

        with self._news:
            match = self._news.wait_for(found, STOP_TIMEOUT_S)
        assert match, f"no line {pattern!r} in the appliance's log:\n" + "".join(self.lines)
        return match

    def children(self) -> dict[int, int]:
        """Every process below the daemon, with its parent."""
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if fields[0] != "Z":
                    parents[int(entry.name)] = int(fields[1])
        below = {self.pid}
        while True:
            more = {pid for pid, parent in parents.items() if parent in below and pid not in below}
            if not more:
                return {pid: parents[pid] for pid in below - {self.pid}}
            below |= more

    def workers(self) -> set[int]:
        """The processes of the workers: children of the zygote."""
        return {pid for pid, parent in self.children().items() if parent != self.pid}

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop in order; the exit code."""
        if self.process.returncode is not None:
            return self.process.returncode
        self.process.send_signal(number)
        return self._end()

    def _end(self) -> int:
        try:
            code = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._reader.join(STOP_TIMEOUT_S)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def __enter__(self) -> Appliance:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
