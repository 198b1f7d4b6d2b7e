"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bitfusion.cli.bench.ground import Ground
from bitfusion.version import __version__

PACKAGES = ("numpy", "msgpack", "uvloop", "numba", "numba-cuda", "llvmlite", "cuda-bindings")


def machine(ground: Ground) -> dict[str, object]:
    """This machine, the software, the device and the date; plain values."""
    with ground.client() as client:
        device = client.device.name
    return {
        "cpu": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_size": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {"bitfusion": __version__, **versions()},
        "device": device,
        "server": ground.server or "private",
        "quick": ground.quick,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu() -> str:
    """The processor's name as Linux has it, otherwise the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
