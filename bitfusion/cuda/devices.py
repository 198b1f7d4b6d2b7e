"""The leased GPU as numba.cuda shows GPUs: ``gpus``, devices with their attributes, the context. All of it from the welcome."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bitfusion.client.client import Event, Stream
from bitfusion.client.operations import MemoryInfo
from bitfusion.cuda import current
from bitfusion.cuda.current import current as session
from bitfusion.errors import BitfusionError, InvalidValueError
from bitfusion.types import format_size

_ATTRIBUTE = re.compile("[A-Z][A-Z0-9_]+")


class Device:
    """A leased GPU. CUDA's device attributes are its attributes: ``MAX_THREADS_PER_BLOCK``, ``WARP_SIZE``, ..."""

    id = 0

    @property
    def name(self) -> str:
        """As its maker calls it."""
        return session().device.name

    @property
    def uuid(self) -> str:
        """The GPU's own."""
        return session().device.uuid

    @property
    def compute_capability(self) -> tuple[int, int]:
        """(major, minor)."""
        return session().device.compute_capability

    @property
    def attributes(self) -> dict[str, int]:
        """All attributes, by CUDA's names without their prefix."""
        return dict(session().device.attributes)

    supports_float16 = True

    def __getattr__(self, name: str) -> int:
        if _ATTRIBUTE.fullmatch(name):
            attributes = session().device.attributes
            if name in attributes:
                return attributes[name]
        raise AttributeError(f"the device has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<CUDA device {self.id} '{self.name}'>"

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def get_primary_context(self) -> Context:
        """The session's context."""
        return Context(self)

    def reset(self) -> None:
        """End the session; the next use opens another."""
        current.close()


class Context:
    """The context of the leased GPU."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def get_memory_info(self) -> MemoryInfo:
        """Bytes of the lease: free and total."""
        return session().memory_info()

    def synchronize(self) -> None:
        """Wait for all work on the device. Raises what failed before."""
        session().synchronize()

    def create_stream(self) -> Stream:
        """A new stream."""
        return session().stream()

    def get_default_stream(self) -> Stream:
        """Stream 0."""
        return session().default_stream

    def create_event(self, timing: bool = True) -> Event:
        """A new event."""
        return session().event(timing)

    def reset(self) -> None:
        """End the session; the next use opens another."""
        current.close()

    def __repr__(self) -> str:
        return f"<CUDA context of device {self.device.id}>"


class Devices:
    """The leased GPUs as a sequence: in this version one."""

    def __len__(self) -> int:
        session()
        return 1

    def __getitem__(self, index: int) -> Device:
        if index not in (0, -1):
            raise IndexError(f"there is one leased GPU, number 0, not {index}")
        session()
        return DEVICE

    def __iter__(self) -> Iterator[Device]:
        yield self[0]

    def __repr__(self) -> str:
        return "<Leased GPU 0>"

    @property
    def lst(self) -> list[Device]:
        """The devices as a list."""
        return list(self)

    @property
    def current(self) -> Device:
        """The current device."""
        return self[0]


DEVICE = Device()
gpus = Devices()


def list_devices() -> Devices:
    """The leased GPUs."""
    return gpus


def get_current_device() -> Device:
    """The leased GPU. Raises the ConnectError branch."""
    return gpus[0]


def select_device(device_id: int) -> Device:
    """The leased GPU ``device_id``; InvalidValueError for a number that is none."""
    if device_id != 0:
        raise InvalidValueError(
            f"there is no device {device_id}: the session leases one GPU, number 0", feature="device"
        )
    return gpus[0]


def current_context(devnum: int | None = None) -> Context:
    """The context of the leased GPU."""
    return select_device(devnum or 0).get_primary_context()


_failure: BitfusionError | None = None


def is_available() -> bool:
    """Whether a GPU can be leased, or is; ``cuda_error`` then says why not."""
    global _failure
    try:
        session()
    except BitfusionError as error:
        _failure = error
        return False
    _failure = None
    return True


def cuda_error() -> str | None:
    """Why ``is_available`` said no, last time; None if it said yes."""
    return None if _failure is None else str(_failure)


def detect() -> bool:
    """Print the leased GPU; whether there is one."""
    if not is_available():
        print(f"Found 0 CUDA devices: {cuda_error()}")
        return False
    info, welcome = session().device, session().welcome
    rows: list[tuple[str, Any]] = [
        ("Compute Capability", "{}.{}".format(*info.compute_capability)),
        ("UUID", info.uuid),
        ("Memory", format_size(info.memory_size)),
        ("Memory leased", format_size(welcome.memory_limit)),
        ("Session", welcome.session_id),
    ]
    print("Found 1 CUDA devices")
    print(f"id 0    {info.name:>20} {'[SUPPORTED]':>40}")
    for name, value in rows:
        print(f"{name:>40}: {value}")
    print("Summary:\n\t1/1 devices are supported")
    return True
