"""Functions of linked code, as programs declare them (``cuda.declare_device``), and as they travel."""

from __future__ import annotations

from dataclasses import dataclass

from bitfusion.kernels.constants import Plain
from bitfusion.kernels.program import Link
from bitfusion.kernels.signatures import encode
from bitfusion.kernels.types import Signature


@dataclass(frozen=True, slots=True)
class ExternalFunction:
    """A function that kernels call and other code defines. ``links`` is that code, if it was given here."""

    name: str
    signature: Signature
    abi: str
    cooperative: bool
    links: tuple[Link, ...] = ()

    @property
    def sig(self) -> Signature:
        """As in Numba."""
        return self.signature

    def as_plain(self) -> Plain:
        """As a binding has it (docs/reference/wire.md, section 9.1)."""
        signature: Plain = encode(self.signature)  # type: ignore[assignment]  # a signature's tree holds only what Plain allows
        return self.name, signature, self.abi, self.cooperative
