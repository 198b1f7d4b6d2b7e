"""How much memory this machine has left for device memory: of the machine itself, and of the container it is said to be."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_MEMINFO: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")
"""Where a process in a container sees its own control group (cgroups(7), version 2)."""


def room() -> int | None:
    """Bytes that can still be used without anything being killed for them, as far as the system says; None if it does not."""
    found = [size for size in (_machine(), _container()) if size is not None]
    return min(found) if found else None


def _machine() -> int | None:
    """What the kernel estimates (proc(5), MemAvailable)."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _read(_MEMINFO), re.MULTILINE)
    return None if match is None else int(match[1]) * 1024


def _container() -> int | None:
    limit, used = _read(_CGROUP / "memory.max").strip(), _read(_CGROUP / "memory.current").strip()
    return max(int(limit) - int(used), 0) if limit.isdecimal() and used.isdecimal() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
