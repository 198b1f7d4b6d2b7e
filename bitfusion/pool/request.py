"""What a client asks of the pool, checked before anything is placed. Owns the request's form, not where it goes."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from bitfusion.errors import CapacityError, ConfigError
from bitfusion.limits import MEMORY_CHUNK_SIZE
from bitfusion.types import SIZE_MAX, format_size


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """A lease of ``gpus`` GPUs with ``memory`` bytes or a ``fraction`` of each one's memory; neither means whole GPUs.

    Checked as it is made: ConfigError for numbers that mean nothing, CapacityError for more GPUs than a lease can have.
    """

    gpus: int = 1
    memory: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise ConfigError(f"a lease needs at least 1 GPU, not {self.gpus}")
        if self.gpus > 1:
            raise CapacityError(
                f"{self.gpus} GPUs were asked for; a lease holds 1 GPU in this version, open one session per GPU"
            )
        if self.memory is not None and self.fraction is not None:
            raise ConfigError("ask for memory in bytes or for a fraction of the GPU's memory, not both")
        if self.memory is not None and not 0 < self.memory <= SIZE_MAX:
            raise ConfigError(f"memory must be 1 to {SIZE_MAX} bytes ({format_size(SIZE_MAX)}), not {self.memory}")
        if self.fraction is not None and not 0 < self.fraction <= 1:  # NaN compares false
            raise ConfigError(
                f"fraction must be above 0 and at most 1 (1 is the whole GPU's memory), not {self.fraction}"
            )

    def memory_on(self, device_size: int) -> int:
        """Bytes of a GPU with ``device_size`` bytes that this asks for, in whole chunks.

        Bytes are rounded up, so that all that was asked for can be used; a fraction down, so that n leases of 1/n fit.
        """
        if self.memory is not None:
            return -(-self.memory // MEMORY_CHUNK_SIZE) * MEMORY_CHUNK_SIZE
        share = Fraction(
            1 if self.fraction is None else str(self.fraction)
        )  # 0.29 as it was written, not its nearest float
        return int(device_size * share) // MEMORY_CHUNK_SIZE * MEMORY_CHUNK_SIZE

    def __str__(self) -> str:
        if self.memory is not None:
            return format_size(self.memory)
        return "a whole GPU" if self.fraction is None else f"{self.fraction:g} of a GPU's memory"
