"""What a client asks of the pool and who asks, checked before anything is placed. Owns the request's form, not where it goes.

Plain data for the store and the wire: ``dataclasses.asdict`` one way, ``from_plain`` the other, which checks every field.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from bitfusion.errors import ConfigError
from bitfusion.limits import FILTER_COUNT_MAX, MEMORY_CHUNK_SIZE
from bitfusion.pool.filters import Filter
from bitfusion.pool.plain import integer, known, text
from bitfusion.types import SIZE_MAX, format_size

GPU_COUNT_MAX = 1024
"""GPUs of one lease: more than any appliance has; beyond it a number is a slip."""

PRIORITY_MAX = 100
"""Priorities go from minus this to this; the usual one is 0."""

WEIGHT_DEFAULT = 100
WEIGHT_MAX = 10_000
"""As in Linux' cgroup v2 (cpu.weight: 1 to 10000, by default 100)."""

LIFETIME_MAX_S = 366 * 86400
"""A year; a longer time is a slip."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who asks. Until there are tokens these are the client's own words."""

    user: str = ""
    group: str = ""
    hostname: str = ""
    program: str = ""
    pid: int = 0

    @classmethod
    def from_plain(cls, value: object) -> Holder:
        """What ``asdict`` gave; ConfigError for anything else."""
        fields = known(cls, value)
        names = {name: text(fields, name) for name in ("user", "group", "hostname", "program") if name in fields}
        return cls(**names, pid=integer(fields, "pid") if "pid" in fields else 0)

    def __str__(self) -> str:
        return f"{self.user or 'nobody'}@{self.hostname or 'nowhere'}"


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """A lease of ``gpus`` different GPUs with ``memory`` bytes or a ``fraction`` of each one's memory; neither means whole GPUs.

    A lease of whole GPUs (a fraction of 1 as well) is ``exclusive``, whether that was asked for or not: nobody else is on its GPUs. With
    ``memory`` or a ``fraction`` below 1 an exclusive lease has only that much to use, but is alone.

    ``priority``: higher is served first. ``weight``: its share of a busy GPU's time beside others. ``cap``: at most so many per cent of
    each GPU's time. ``lifetime_s``: seconds after which the lease ends; None: as long as the pool allows.

    Checked as it is made: ConfigError for what means nothing. Whether the pool could ever grant it is not known here.
    """

    gpus: int = 1
    memory: int | None = None
    fraction: float | None = None
    exclusive: bool = False
    filters: tuple[Filter, ...] = ()
    priority: int = 0
    weight: int = WEIGHT_DEFAULT
    cap: int | None = None
    lifetime_s: float | None = None

    def __post_init__(self) -> None:
        _whole("gpus", self.gpus, 1, GPU_COUNT_MAX, "a lease needs at least 1 GPU")
        self._check_size()
        if type(self.exclusive) is not bool:
            raise ConfigError(f"exclusive is true or false, not {self.exclusive!r:.40}")
        if not isinstance(self.filters, tuple) or not all(isinstance(item, Filter) for item in self.filters):
            raise ConfigError("filters must be a tuple of Filter; parse_filter makes one of a text")
        if len(self.filters) > FILTER_COUNT_MAX:
            raise ConfigError(f"{len(self.filters)} filters are too many, a request has at most {FILTER_COUNT_MAX}")
        _whole("priority", self.priority, -PRIORITY_MAX, PRIORITY_MAX)
        _whole("weight", self.weight, 1, WEIGHT_MAX)
        if self.cap is not None:
            _whole("cap", self.cap, 1, 100, "it is per cent of a GPU's time")
        if self.lifetime_s is not None:
            _number("lifetime_s", self.lifetime_s)
            if not 0 < self.lifetime_s <= LIFETIME_MAX_S:  # NaN compares false
                raise ConfigError(
                    f"lifetime must be above 0 and at most {LIFETIME_MAX_S} seconds (a year), not {self.lifetime_s}"
                )
        if (self.fraction is None and self.memory is None) or self.fraction == 1:
            object.__setattr__(self, "exclusive", True)

    def _check_size(self) -> None:
        if self.memory is not None and self.fraction is not None:
            raise ConfigError("ask for memory in bytes or for a fraction of the GPU's memory, not both")
        if self.memory is not None and (type(self.memory) is not int or not 0 < self.memory <= SIZE_MAX):
            raise ConfigError(
                f"memory must be 1 to {SIZE_MAX} bytes ({format_size(SIZE_MAX)}), not {self.memory!r:.40}"
            )
        if self.fraction is not None:
            _number("fraction", self.fraction)
            if not 0 < self.fraction <= 1:  # NaN compares false
                raise ConfigError(
                    f"fraction must be above 0 and at most 1 (1 is the whole GPU's memory), not {self.fraction}"
                )

    @classmethod
    def from_plain(cls, value: object) -> LeaseRequest:
        """What ``asdict`` gave, or the same with each filter as its text; ConfigError for anything else."""
        fields = known(cls, value)
        filters = fields.get("filters", ())
        if not isinstance(filters, tuple | list):
            raise ConfigError(f"filters must be an array, not {filters!r:.40}")
        return cls(**{**fields, "filters": tuple(map(Filter.from_plain, filters))})  # type: ignore[arg-type]  # each is checked

    def memory_on(self, device_size: int) -> int:
        """Bytes of a GPU with ``device_size`` bytes that this asks for, in whole chunks.

        Bytes are rounded up, so that all that was asked for can be used; a fraction down, so that n leases of 1/n fit.
        """
        if self.memory is not None:
            return -(-self.memory // MEMORY_CHUNK_SIZE) * MEMORY_CHUNK_SIZE
        if self.fraction is None:
            return device_size // MEMORY_CHUNK_SIZE * MEMORY_CHUNK_SIZE
        return _part(self.fraction, device_size) // MEMORY_CHUNK_SIZE * MEMORY_CHUNK_SIZE

    def __str__(self) -> str:
        conditions = " and ".join(map(str, self.filters))
        return f"{self._size()} where {conditions}" if conditions else self._size()

    def _size(self) -> str:
        if self.memory is None and self.fraction is None:
            return "a whole GPU" if self.gpus == 1 else f"{self.gpus} whole GPUs"
        size = format_size(self.memory) if self.memory is not None else f"{self.fraction:g} of a GPU's memory"
        alone = " alone on it" if self.exclusive and self.fraction != 1 else ""
        return size + alone if self.gpus == 1 else f"{self.gpus} GPUs with {size} each" + alone.replace("it", "them")


@lru_cache(maxsize=1024)
def _part(fraction: float, size: int) -> int:
    """``fraction`` of ``size``: 0.29 as it was written, not its nearest float. Kept, because the queue asks again and again."""
    return int(size * Fraction(str(fraction)))


def _whole(name: str, value: object, low: int, high: int, why: str = "") -> None:
    """ConfigError unless ``value`` is a whole number from ``low`` to ``high``."""
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{name} must be {low} to {high}, not {value!r:.40}" + (f": {why}" if why else ""))


def _number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isinf(value):
        raise ConfigError(f"{name} must be a number, not {value!r:.40}")
