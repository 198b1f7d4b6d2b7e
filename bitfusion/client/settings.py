"""What the environment says: BITFUSION_SERVER, _TOKEN, _GPUS, _MEMORY, _FRACTION, as ``bitfusion run`` sets them.

BITFUSION_LEASE (``id:key``) names a lease on that server, and BITFUSION_GPU which of its GPUs a session is on, by default the first.
For a private appliance also BITFUSION_KERNEL_TIMEOUT and _CHECK.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from bitfusion.errors import ConfigError
from bitfusion.transport.address import Target, parse_target
from bitfusion.types import CHECKS, KernelRules, parse_size

N = TypeVar("N", int, float, str)

GPU_COUNT_MAX = 1024
"""More than any appliance has; a larger number is a slip."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The lease a program that says nothing itself gets."""

    gpus: int = 1
    memory: int | None = None
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """What opens a lease on a server: a session on GPU number ``gpu`` of it."""

    lease: str
    key: str = field(repr=False)
    gpu: int = 0

    def on(self, gpu: int) -> Key:
        """The same for another GPU of the lease."""
        return Key(self.lease, self.key, gpu)


def key_of(lease: str | None, key: str | None, gpu: int | None, *, of_environment: bool) -> Key | None:
    """The lease that was named, as ``id`` and ``key`` or as ``id:key``; else, if it may be, the environment's. ConfigError."""
    if lease is None and key is None and of_environment and (text := os.environ.get("BITFUSION_LEASE")):
        found = _read("BITFUSION_GPU", _number) if gpu is None else gpu
        return _pair(text, found or 0, "the environment variable BITFUSION_LEASE")
    if lease is None:
        if key is not None or gpu is not None:
            raise ConfigError("key and gpu are of a lease: give lease too")
        return None
    if not isinstance(lease, str) or not isinstance(key, str | None):
        raise ConfigError("lease and key are texts, as the lease was granted with")
    if key is None:
        return _pair(lease, gpu or 0, "lease, given without key,")
    return Key(lease, key, gpu or 0)


def _pair(text: str, gpu: int, what: str) -> Key:
    """What is said of the text must not show it: it has the key in it."""
    lease, _, key = text.partition(":")
    if not lease or not key:
        raise ConfigError(f"{what} must be id:key, as the lease was granted with")
    return Key(lease, key, gpu)


def from_environment() -> Settings:
    """The lease the environment asks for. ConfigError names the variable that cannot be."""
    gpus = _read("BITFUSION_GPUS", _count)
    memory, fraction = _read("BITFUSION_MEMORY", _memory), _read("BITFUSION_FRACTION", _fraction)
    if memory is not None and fraction is not None:
        raise ConfigError("BITFUSION_MEMORY and BITFUSION_FRACTION are both set: unset one of them")
    return Settings(1 if gpus is None else gpus, memory, fraction)


def kernel_rules() -> KernelRules:
    """What a private appliance's virtual GPU holds kernels to: BITFUSION_KERNEL_TIMEOUT, BITFUSION_CHECK. ConfigError."""
    return KernelRules(_read("BITFUSION_KERNEL_TIMEOUT", _time), _read("BITFUSION_CHECK", _check) or CHECKS[0])


def target_of(target: str | None) -> Target | None:
    """The server meant: the one given, else BITFUSION_SERVER, else none."""
    if not isinstance(target, str | None):
        raise ConfigError(f"a server is given as text, host:port, not as {target!r}")
    text = target or os.environ.get("BITFUSION_SERVER")
    return parse_target(text) if text else None


def token_of(token: str | None) -> str | None:
    """The token given, else BITFUSION_TOKEN."""
    return token or os.environ.get("BITFUSION_TOKEN") or None


def size(value: int | str | None) -> int | None:
    """Bytes, from a number or text such as ``512MiB``. ConfigError."""
    return parse_size(value) if isinstance(value, str) else value


def _read(name: str, convert: Callable[[str], N]) -> N | None:
    text = os.environ.get(name)
    if not text:
        return None
    try:
        return convert(text)
    except ConfigError as error:
        raise ConfigError(f"the environment variable {name}={text[:40]!r} cannot be: {error.message}") from None


def _time(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):  # NaN compares false
        raise ConfigError("write a number of seconds above 0")
    return value


def _check(text: str) -> str:
    if text not in CHECKS:
        raise ConfigError(f"write one of {', '.join(CHECKS)}")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= GPU_COUNT_MAX:
        raise ConfigError(f"write a number of GPUs, 1 to {GPU_COUNT_MAX}")
    return int(text)


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) >= GPU_COUNT_MAX:
        raise ConfigError("write the number of one of the lease's GPUs, from 0")
    return int(text)


def _memory(text: str) -> int:
    size = parse_size(text)
    if not size:
        raise ConfigError("a lease needs some memory")
    return size


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:  # NaN compares false
        raise ConfigError("write a share of a GPU's memory, above 0 and up to 1, for instance 0.5")
    return value
