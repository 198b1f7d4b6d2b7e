"""What the environment says: BITFUSION_SERVER, _TOKEN, _GPUS, _MEMORY, _FRACTION, as ``bitfusion run`` sets them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from bitfusion.errors import ConfigError
from bitfusion.transport.address import Target, parse_target
from bitfusion.types import parse_size

N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class Settings:
    """The lease a program that says nothing itself gets."""

    gpus: int = 1
    memory: int | None = None
    fraction: float | None = None


def from_environment() -> Settings:
    """The lease the environment asks for. ConfigError names the variable that cannot be read."""
    gpus = _read("BITFUSION_GPUS", int)
    return Settings(
        gpus=1 if gpus is None else gpus,
        memory=_read("BITFUSION_MEMORY", parse_size),
        fraction=_read("BITFUSION_FRACTION", float),
    )


def target_of(target: str | None) -> Target | None:
    """The server meant: the one given, else BITFUSION_SERVER, else none."""
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
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"the environment variable {name}={text[:40]!r} cannot be read: {error}") from None
