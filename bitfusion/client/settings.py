"""What the environment says: BITFUSION_SERVER, _TOKEN, _GPUS, _MEMORY, _FRACTION, as ``bitfusion run`` sets them.

For a private appliance also BITFUSION_KERNEL_TIMEOUT and _CHECK.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
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
