"""The leased GPUs as numba.cuda shows them: ``gpus``, and devices with their attributes, which come with the welcome."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from bitfusion.client.client import Client
from bitfusion.cuda import current
from bitfusion.cuda.context import Context
from bitfusion.cuda.current import current as session
from bitfusion.errors import BitfusionError, InvalidValueError
from bitfusion.types import format_size

P = ParamSpec("P")
T = TypeVar("T")

_ATTRIBUTE = re.compile("[A-Z][A-Z0-9_]+")


class Device:
    """A leased GPU, by its number in the lease. CUDA's device attributes are its attributes: ``MAX_THREADS_PER_BLOCK``, ..."""

    def __init__(self, number: int) -> None:
        self.id = number

    def _session(self) -> Client:
        return current.on(self.id)

    @property
    def name(self) -> str:
        """As its maker calls it."""
        return self._session().device.name

    @property
    def uuid(self) -> str:
        """The GPU's own."""
        return self._session().device.uuid

    @property
    def compute_capability(self) -> tuple[int, int]:
        """(major, minor)."""
        return self._session().device.compute_capability

    @property
    def attributes(self) -> dict[str, int]:
        """All attributes, by CUDA's names without their prefix."""
        return dict(self._session().device.attributes)

    supports_float16 = True
    """As in Numba: on every GPU it compiles for."""

    @property
    def supports_bfloat16(self) -> bool:
        """From compute capability 8.0 on."""
        return self.compute_capability >= (8, 0)

    @property
    def supports_fp8(self) -> bool:
        """From compute capability 8.9 on."""
        return self.compute_capability >= (8, 9)

    def __getattr__(self, name: str) -> int:
        if _ATTRIBUTE.fullmatch(name):
            attributes = self._session().device.attributes
            if name in attributes:
                return attributes[name]
        raise AttributeError(f"the device has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<CUDA device {self.id} '{self.name}'>"

    def __enter__(self) -> Device:
        """Make it the thread's current device, for the block."""
        current.push(self.id)
        return self

    def __exit__(self, *exc_info: object) -> None:
        current.pop()

    def get_primary_context(self) -> Context:
        """The session's context."""
        return Context(self)

    def get_device_identity(self) -> dict[str, int]:
        """Where it sits in its machine: PCI domain, bus and device, 0 where the device does not say."""
        attributes = self._session().device.attributes
        return {
            "pci_domain_id": attributes.get("PCI_DOMAIN_ID", 0),
            "pci_bus_id": attributes.get("PCI_BUS_ID", 0),
            "pci_device_id": attributes.get("PCI_DEVICE_ID", 0),
        }

    @classmethod
    def from_identity(cls, identity: dict[str, int]) -> Device:
        """The device at this place. InvalidValueError if it is not a leased one."""
        for device in gpus:
            if identity == device.get_device_identity():
                return device
        raise InvalidValueError(f"no leased GPU is at {identity}", feature="device")

    def release_primary_context(self) -> None:
        """End the session; the next use opens another."""
        current.close()

    def reset(self) -> None:
        """End the session; the next use opens another."""
        current.close()


class Devices:
    """The leased GPUs as a sequence, numbered from 0."""

    def __init__(self) -> None:
        self._devices: dict[int, Device] = {}

    def __len__(self) -> int:
        return current.count()

    def __getitem__(self, index: int) -> Device:
        number = index + len(self) if index < 0 else index
        if number != 0 and not 0 <= number < len(self):
            raise IndexError(f"the leased GPUs are numbered 0 to {len(self) - 1}: there is no number {index}")
        session()
        return self._devices.setdefault(number, Device(number))

    def __iter__(self) -> Iterator[Device]:
        return (self[number] for number in range(len(self)))

    def __repr__(self) -> str:
        return (
            f"<Leased GPUs {', '.join(str(number) for number in range(len(self)))}>"
            if len(self) > 1
            else "<Leased GPU 0>"
        )

    @property
    def lst(self) -> list[Device]:
        """The devices as a list."""
        return list(self)

    @property
    def current(self) -> Device:
        """The thread's current device."""
        return self[current.selected()]


gpus = Devices()


def list_devices() -> Devices:
    """The leased GPUs."""
    return gpus


def get_current_device() -> Device:
    """The thread's current device. Raises the ConnectError branch."""
    return gpus.current


def select_device(device_id: int) -> Device:
    """Make the leased GPU ``device_id`` the thread's current one; InvalidValueError for a number that is none."""
    current.select(device_id)
    return gpus[device_id]


def current_context(devnum: int | None = None) -> Context:
    """The context of the thread's current device, or of ``devnum``, which becomes that."""
    return (gpus.current if devnum is None else select_device(devnum)).get_primary_context()


get_context = current_context
"""Numba's name for it in ``devices``."""


def is_float16_supported() -> bool:
    """Yes."""
    return True


def is_bfloat16_supported() -> bool:
    """Whether the leased GPU computes with bfloat16."""
    return get_current_device().supports_bfloat16


def is_fp8_supported() -> bool:
    """Whether the leased GPU computes with 8-bit floats."""
    return get_current_device().supports_fp8


def is_supported_version() -> bool:
    """Yes: the appliance compiles with the versions it was installed with."""
    return True


def require_context(function: Callable[P, T]) -> Callable[P, T]:
    """The function, with a session opened before each call."""

    @functools.wraps(function)
    def with_session(*arguments: P.args, **keywords: P.kwargs) -> T:
        session()
        return function(*arguments, **keywords)

    return with_session


def defer_cleanup() -> contextlib.AbstractContextManager[None]:
    """A block in which no device memory, stream or event is released; it can be nested. Here releasing never waits, in or out of it."""
    return current_context().defer_cleanup()


_failure: BitfusionError | None = None


def is_available() -> bool:
    """Whether a GPU can be leased, or is; ``cuda_error`` says why not."""
    global _failure
    try:
        session()
    except BitfusionError as error:
        _failure = error
        return False
    _failure = None
    return True


def cuda_error() -> str | None:
    """Why no GPU can be leased; None if one can, or is."""
    return None if is_available() else str(_failure)


def detect() -> bool:
    """Print the leased GPUs; whether there are any."""
    if not is_available():
        print(f"Found 0 CUDA devices: {cuda_error()}")
        return False
    count = len(gpus)
    print(f"Found {count} CUDA devices")
    for device in gpus:
        _print_device(device)
    print(f"Summary:\n\t{count}/{count} devices are supported")
    return True


def _print_device(device: Device) -> None:
    client = current.on(device.id)
    info, welcome = client.device, client.welcome
    rows: list[tuple[str, Any]] = [
        ("Compute Capability", "{}.{}".format(*info.compute_capability)),
        ("UUID", info.uuid),
        ("Memory", format_size(info.memory_size)),
        ("Memory leased", format_size(welcome.memory_limit)),
        ("Session", welcome.session_id),
    ]
    print(f"id {device.id}    {info.name:>20} {'[SUPPORTED]':>40}")
    for name, value in rows:
        print(f"{name:>40}: {value}")
